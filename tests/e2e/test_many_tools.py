"""200 servers with 50 tools each: listed in pages, searched, and called."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from mcp import MCPError

from mcpgw.domain import ActiveVersion, AdminNote, Era, Row, Server, ServerVersion, Transport, VersionStatus
from mcpgw.registry import digest
from mcpgw.store.sql import SqlStore
from tests.e2e.agents import MODERN, agent, text_of
from tests.e2e.parts import Witness
from tests.harness import GatewayProcess, gateway, rego

# The library warns of what it does for the handshake era.
pytestmark = pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")

ERAS = (MODERN, "legacy")
SERVERS = [f"bulk{n:03}" for n in range(200)]
TOOLS = [f"tool_{n:02}" for n in range(50)]
EVERY = [f"{server}__{tool}" for server in SERVERS for tool in TOOLS]
NO_DRIFT_CHECK = {"drift_check_s": 3600}  # the witness knows what it is called, not what it could be called


def definition(server: str, tool: str) -> bytes:
    subject = "zebra crossings" if (server, tool) == ("bulk123", "tool_45") else "ordinary matters"
    schema = {"type": "object", "properties": {"text": {"type": "string"}, "marker": {"type": "string"}}}
    told = {"name": tool, "description": f"Reports on {subject} of {server}.", "inputSchema": schema}
    return json.dumps(told).encode()


async def publish(data_dir: Path, witness: Witness) -> None:
    """Write the rows that publishing, approving and activating one by one would have written."""
    rows: list[Row] = []
    for slug in SERVERS:
        version = ServerVersion(
            server=slug,
            version="1.0.0",
            manifest_sha256="",
            endpoint=witness.url(slug),
            transport=Transport.HTTP,
            era=Era.DUAL,
            tools=digest.pins([definition(slug, tool) for tool in TOOLS]),
            status=VersionStatus.APPROVED,
            published_by="test",
            published_at=1.0,
        )
        rows += [
            Server(slug=slug, title=slug, created_by="test", created_at=1.0),
            version,
            ActiveVersion(slug, "1.0.0"),
        ]
    store = SqlStore(f"sqlite+aiosqlite:///{data_dir / 'state.db'}", deadline_s=60.0)
    note = AdminNote(id="many", time=1.0, actor="test", action="servers.publish", target="many")
    await store.commit(rows, note)
    await store.close()


class Filled:
    """Two data directories with all of them, and the gateway that made the first."""

    def __init__(self, home: Path, witness: Witness) -> None:
        self.homes = home, home.with_name(f"{home.name}-too")
        with gateway(home, config={"registry": NO_DRIFT_CHECK}, policy=rego("allow_all")) as self.first:
            pass
        asyncio.run(publish(self.first.data_dir, witness))
        shutil.copytree(*self.homes, ignore=shutil.ignore_patterns("*.control", "*.sock"))

    def resumed(self, which: int, config: Mapping[str, Any]) -> Iterator[GatewayProcess]:
        with gateway(self.homes[which], config=config, resume=self.first) as made:
            yield made
            assert "Traceback" not in made.output()


@pytest.fixture(scope="module")
def filled(testimony: Witness, tmp_path_factory: pytest.TempPathFactory) -> Filled:
    return Filled(tmp_path_factory.mktemp("many"), testimony)


@pytest.fixture(scope="module")
def many(filled: Filled) -> Iterator[GatewayProcess]:
    """All of them behind a gateway as it comes."""
    yield from filled.resumed(0, {"registry": NO_DRIFT_CHECK})


@pytest.fixture(scope="module")
def searched(filled: Filled) -> Iterator[GatewayProcess]:
    """All of them behind one whose `/mcp` is searched, and whose pages are small."""
    yield from filled.resumed(1, {"registry": {**NO_DRIFT_CHECK, "search_only": True}, "limits": {"page_tools": 20}})


@pytest.mark.requirement("list:large")
@pytest.mark.parametrize("mode", ERAS)
async def test_every_tool_is_on_one_page_and_can_be_called(many: GatewayProcess, mode: str) -> None:
    async with agent(many.mcp_url, many.agent_key, mode=mode) as client:
        pages, cursor = [], None
        while True:
            page = await client.list_tools(cursor=cursor)
            pages.append([tool.name for tool in page.tools])
            cursor = page.next_cursor
            if cursor is None:
                break
        called = await client.call_tool("bulk199__tool_49", {"text": "the last one"})
    assert [len(page) for page in pages] == [1000] * 10
    assert [name for page in pages for name in page] == EVERY
    assert text_of(called) == "the last one"


@pytest.mark.requirement("list:large")
@pytest.mark.parametrize("mode", ERAS)
async def test_a_toolset_over_everything_is_searched(many: GatewayProcess, testimony: Witness, mode: str) -> None:
    many.admin.put("/toolsets/everywhere", {"tools": [{"tool": "*"}], "search": True})
    arrived = len(testimony.arrivals())
    async with agent(f"{many.base_url}/mcp/everywhere", many.agent_key, mode=mode) as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == ["find_tool", "call_tool"]
        found = (await client.call_tool("find_tool", {"query": "zebra crossing"})).structured_content
        everything = (await client.call_tool("find_tool", {"query": "reports", "limit": 50})).structured_content
        one = (await client.call_tool("find_tool", {"query": "reports", "server": "bulk007"})).structured_content
        name = found["tools"][0]["name"]
        called = await client.call_tool("call_tool", {"name": name, "arguments": {"text": "hi", "marker": mode}})
    assert [tool["name"] for tool in found["tools"]] == ["bulk123__tool_45"]
    assert (len(everything["tools"]), everything["matches"]) == (50, 10_000)
    assert one["matches"] == 50
    assert text_of(called) == "hi"
    assert [(a.server, a.tool, a.marker) for a in testimony.arrivals()[arrived:]] == [("bulk123", "tool_45", mode)]


@pytest.mark.requirement("list:large")
def test_what_is_killed_or_disabled_is_on_no_page_and_in_no_search(many: GatewayProcess) -> None:
    many.admin.put("/toolsets/everywhere", {"tools": [{"tool": "*"}], "search": True})
    thrown = many.admin.post("/kill-switches", {"scope": "server", "selector": "bulk123", "reason": "drill"})
    try:
        found = many.cli("call", "everywhere", "find_tool", '{"query": "zebra"}', "--json", key=many.agent_key)
        assert json.loads(found.stdout)["structuredContent"] == {"tools": [], "matches": 0}
        listed = json.loads(many.cli("tools", "--json", key=many.agent_key).stdout)["tools"]
        assert [tool["name"] for tool in listed] == [name for name in EVERY if not name.startswith("bulk123__")]
    finally:
        many.admin.delete(f"/kill-switches/{thrown['id']}", {"reason": "over"})


@pytest.mark.requirement("list:pages")
@pytest.mark.parametrize("mode", ERAS)
async def test_pages_are_as_long_as_the_operator_says(searched: GatewayProcess, mode: str) -> None:
    searched.admin.put(
        "/toolsets/some", {"tools": [{"tool": "bulk005/*"}, {"tool": "bulk004/tool_07", "name": "seven"}]}
    )
    async with agent(f"{searched.base_url}/mcp/some", searched.agent_key, mode=mode) as client:
        first = await client.list_tools()
        second = await client.list_tools(cursor=first.next_cursor)
        third = await client.list_tools(cursor=second.next_cursor)
        with pytest.raises(MCPError) as refused:
            await client.list_tools(cursor="made up")
        again = await client.list_tools(cursor="")
    assert third.next_cursor is None
    listed = [tool.name for page in (first, second, third) for tool in page.tools]
    assert listed == [*(f"bulk005__{tool}" for tool in TOOLS), "seven"]
    assert [len(page.tools) for page in (first, second, third)] == [20, 20, 11]
    assert refused.value.error.code == -32602
    assert again.tools == first.tools


@pytest.mark.requirement("search:call")
async def test_the_endpoint_over_all_servers_can_be_one_with_search(searched: GatewayProcess) -> None:
    async with agent(searched.mcp_url, searched.agent_key) as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == ["find_tool", "call_tool"]
        found = (await client.call_tool("find_tool", {"query": "zebras"})).structured_content["tools"]
        called = await client.call_tool("call_tool", {"name": found[0]["name"], "arguments": {"text": "hi"}})
        with pytest.raises(MCPError):
            await client.call_tool(found[0]["name"], {"text": "hi"})
    assert text_of(called) == "hi"
    async with agent(searched.server_url("bulk000"), searched.agent_key) as client:
        assert len((await client.list_tools()).tools) == 20
