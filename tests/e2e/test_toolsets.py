"""Toolsets and searches, as clients of both generations use them and as administrators change them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from anyio.to_thread import run_sync
from mcp import MCPError

from tests.e2e.agents import DECISION, MODERN, agent, names, text_of
from tests.e2e.client import Client
from tests.e2e.parts import Witness
from tests.e2e.wire import Reply, Wire
from tests.harness import GatewayProcess

# The library warns of what it does for the handshake era.
pytestmark = pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")

ERAS = (MODERN, "legacy")
SLUG = "support"
INSTRUCTIONS = "Say what you do."
DENIED = "everything/test_error_handling"
HIDDEN = "everything/json_schema_2020_12_tool"


@contextmanager
def toolset(gate: GatewayProcess, *tools: dict[str, Any], slug: str = SLUG, **given: Any) -> Iterator[str]:
    """Have a toolset for a while; yield its path."""
    gate.admin.put(f"/toolsets/{slug}", {"tools": list(tools), **given})
    try:
        yield f"/mcp/{slug}"
    finally:
        gate.admin.delete(f"/toolsets/{slug}")


def said(marker: str) -> dict[str, Any]:
    """Return an entry whose tool says something under a marker that the caller cannot set."""
    return {
        "tool": "slowpoke/echo",
        "name": "say",
        "description": "Says it.",
        "defaults": {"text": "hello"},
        "pinned": {"marker": marker},
    }


@pytest.fixture(params=[False, True], ids=["listed", "by search"])
def support(request: pytest.FixtureRequest, gate: GatewayProcess) -> Iterator[Support]:
    """A toolset, and how its tools are called."""
    marker = uuid4().hex
    tools = (
        said(marker),
        {"tool": "everything/greet"},
        {"tool": DENIED, "name": "oops"},
        {"tool": HIDDEN, "name": "odd"},
    )
    with toolset(gate, *tools, title="Support", instructions=INSTRUCTIONS, search=request.param) as path:
        yield Support(gate, path, marker, request.param)


class Support:
    def __init__(self, gate: GatewayProcess, path: str, marker: str, search: bool) -> None:
        self.gate = gate
        self.path = path
        self.url = gate.base_url + path
        self.marker = marker
        self.search = search

    async def call(self, client: Any, name: str, arguments: dict[str, Any] | None = None) -> Any:
        if self.search:
            return await client.call_tool("call_tool", {"name": name, "arguments": arguments or {}})
        return await client.call_tool(name, arguments)

    async def offered(self, client: Any) -> dict[str, dict[str, Any]]:
        """Return the input schema of each tool that the caller can learn of."""
        listed = {tool.name: tool.input_schema for tool in (await client.list_tools()).tools}
        if not self.search:
            return listed
        assert set(listed) == {"find_tool", "call_tool"}
        query = {"query": "say greet oops odd hello error test json everything slowpoke", "limit": 50}
        found = (await client.call_tool("find_tool", query)).structured_content["tools"]
        return {tool["name"]: tool["inputSchema"] for tool in found}


def records(gate: GatewayProcess, action_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = gate.admin.get(f"/audit/{action_id}")["records"]
    return found


@pytest.mark.requirement("toolset:shown")
@pytest.mark.parametrize("mode", ERAS)
async def test_a_client_lists_and_calls_the_tools_of_a_toolset(support: Support, testimony: Witness, mode: str) -> None:
    arrived = len(testimony.arrivals())
    async with agent(support.url, support.gate.agent_key, mode=mode) as client:
        offered = await support.offered(client)
        hello = await support.call(client, "say")
        other = await support.call(client, "say", {"text": "1.0e1"})
        greeted = await support.call(client, "everything__greet", {"name": "Zoë"})
    assert set(offered) == {"say", "everything__greet", "oops"}
    assert offered["say"] == {"type": "object", "properties": {"text": {"type": "string", "default": "hello"}}}
    assert [text_of(result) for result in (hello, other, greeted)] == ["hello", "1.0e1", "Hello, Zoë!"]
    arrivals = (await run_sync(testimony.arrivals, arrived + 2))[arrived:]
    assert [(a.server, a.tool, a.marker) for a in arrivals] == [("slowpoke", "echo", support.marker)] * 2


@pytest.mark.requirement("toolset:shown")
def test_a_toolset_greets_with_its_instructions(support: Support) -> None:
    wire = Wire(support.gate.base_url, support.gate.agent_key, support.path)
    greeted, discovered = wire.initialize().json["result"], wire.modern("server/discover").json["result"]
    assert greeted["instructions"] == discovered["instructions"] == INSTRUCTIONS
    assert greeted["serverInfo"]["name"] == "mcpgw"
    assert greeted["capabilities"]["tools"] == discovered["capabilities"]["tools"] == {"listChanged": True}


@pytest.mark.requirement("toolset:pinned")
@pytest.mark.parametrize("mode", ERAS)
async def test_a_pinned_argument_cannot_be_set(support: Support, testimony: Witness, mode: str) -> None:
    arrived = len(testimony.arrivals())
    async with agent(support.url, support.gate.agent_key, mode=mode) as client:
        with pytest.raises(MCPError) as refused:
            await support.call(client, "say", {"text": "x", "marker": "mine"})
        await support.call(client, "say")
    assert refused.value.error.code == -32602
    assert "`marker`" in refused.value.error.message
    assert [a.marker for a in testimony.arrivals()[arrived:]] == [support.marker]


@pytest.mark.requirement("toolset:real")
@pytest.mark.parametrize("mode", ERAS)
async def test_policy_and_kill_switches_are_those_of_the_real_tool(support: Support, mode: str) -> None:
    gate = support.gate
    async with agent(support.url, gate.agent_key, mode=mode) as client:
        denied = await support.call(client, "oops")
        thrown = gate.admin.post("/kill-switches", {"scope": "tool", "selector": "slowpoke/echo", "reason": "drill"})
        try:
            with pytest.raises(MCPError) as killed:
                await support.call(client, "say")
            meanwhile = set(await support.offered(client))
        finally:
            gate.admin.delete(f"/kill-switches/{thrown['id']}", {"reason": "over"})
        assert text_of(await support.call(client, "say")) == "hello"
    assert denied.is_error and denied.meta[DECISION]["rule"] == "nothing-fails-on-purpose"
    assert killed.value.error.data["switch"] == thrown["id"]
    assert meanwhile == {"everything__greet", "oops"}
    (record,) = records(gate, denied.meta[DECISION]["decision_id"])
    assert (record["server"], record["name"], record["verb"]) == ("everything", "test_error_handling", "tools/call")
    assert record["facts"]["toolset"] == SLUG


@pytest.mark.requirement("toolset:real")
def test_the_records_of_a_call_name_the_real_tool_and_the_toolset(support: Support) -> None:
    gate, marker = support.gate, uuid4().hex
    with Client(gate.base_url, gate.agent_key, support.path) as client:
        asked = {"name": "say", "arguments": {"text": marker}} if support.search else {"text": marker}
        answer = client.call("call_tool" if support.search else "say", **asked)
        assert answer.ok
        found = client.call("find_tool", query="say") if support.search else None
    outcome = gate.admin.get("/audit", server="slowpoke", tool="echo", limit=1)["records"][0]
    intent, ended = records(gate, outcome["action_id"])
    for record in (intent, ended):
        assert (record["server"], record["name"], record["verb"]) == ("slowpoke", "echo", "tools/call")
    assert intent["facts"]["toolset"] == SLUG
    assert ended["index"] == answer.body["result"]["_meta"]["io.mcpgw/receipt"]["index"]
    if found is not None:
        assert found.ok
        receipt = found.body["result"]["_meta"]["io.mcpgw/receipt"]
        told = gate.admin.get("/audit", limit=50)["records"]
        (search,) = [r for r in told if (r["log"], r["index"]) == (receipt["log"], receipt["index"])]
        assert (search["verb"], search["outcome"]) == ("tools/search", "ok")


@pytest.mark.requirement("search:visible")
@pytest.mark.requirement("search:call")
async def test_a_search_knows_no_hidden_tools_and_calls_neither_them_nor_itself(gate: GatewayProcess) -> None:
    _, insider = gate.new_key("insider", "agent", "insider")
    with toolset(gate, {"tool": "*"}, search=True) as path:
        for key, expected in ((gate.agent_key, False), (insider, True)):
            async with agent(gate.base_url + path, key) as client:
                found = await client.call_tool("find_tool", {"query": "json_schema_2020_12_tool", "limit": 50})
                seen = {tool["name"] for tool in found.structured_content["tools"]}
                assert ("everything__json_schema_2020_12_tool" in seen) is expected
                assert any(name.startswith("vault__") for name in seen) is expected
        async with agent(gate.base_url + path, gate.agent_key) as client:
            for name in ("everything__json_schema_2020_12_tool", "call_tool", "find_tool", "nothing"):
                with pytest.raises(MCPError) as unknown:
                    await client.call_tool("call_tool", {"name": name, "arguments": {"name": "everything__greet"}})
                assert (unknown.value.error.code, unknown.value.error.message) == (-32602, f"Unknown tool: {name}")
            with pytest.raises(MCPError):
                await client.call_tool("everything__greet", {"name": "x"})
            wrong = await client.call_tool("find_tool", {"query": "x", "limit": 99})
            assert wrong.is_error
            unread = await client.call_tool("call_tool", {"arguments": {}})
            assert unread.is_error


def told(reply: Reply, slug: str) -> tuple[int, Any]:
    """Return what a reply says, whatever the slug is that it is about."""
    body = json.loads(reply.body.replace(slug.encode(), b"SLUG") or b"null")
    if isinstance(body, dict) and "error" in body:
        body["error"].get("data", {}).pop("receipt", None)
    return reply.status, body


@pytest.mark.requirement("toolset:visible")
@pytest.mark.parametrize("search", [False, True])
def test_a_toolset_with_nothing_for_its_caller_is_one_that_nobody_has(gate: GatewayProcess, search: bool) -> None:
    asked: list[tuple[str, dict[str, Any]]] = [
        ("server/discover", {}),
        ("tools/list", {}),
        ("tools/call", {"name": "vault__greet", "arguments": {}}),
        ("tools/call", {"name": "find_tool", "arguments": {"query": "x"}}),
        ("tools/call", {"name": "call_tool", "arguments": {"name": "vault__greet"}}),
        ("tools/call", {"name": "call_tool", "arguments": {}}),
        ("prompts/list", {}),
        ("resources/list", {}),
        ("prompts/get", {"name": "vault__test_simple_prompt"}),
        ("resources/read", {"uri": "mcpgw+vault+test://static-text"}),
    ]
    with toolset(gate, {"tool": "vault/*"}, slug="secrets", search=search):
        answers = []
        for slug in ("secrets", "nothing"):
            wire = Wire(gate.base_url, gate.agent_key, f"/mcp/{slug}")
            replies = [*(wire.modern(method, params) for method, params in asked), wire.initialize()]
            answers.append([told(reply, slug) for reply in replies])
        _, insider = gate.new_key("insider", "agent", "insider")
        assert Wire(gate.base_url, insider, "/mcp/secrets").modern("tools/list").json["result"]["tools"]
    for hidden, missing in zip(*answers, strict=True):
        assert hidden == missing
        assert hidden[0] == 400


@pytest.mark.requirement("toolset:streams")
@pytest.mark.parametrize("legacy", [False, True])
def test_a_stream_tells_when_a_toolset_changes_for_its_caller(gate: GatewayProcess, legacy: bool) -> None:
    greet, hidden = {"tool": "everything/greet"}, {"tool": HIDDEN}
    with toolset(gate, greet) as path, Client(gate.base_url, gate.agent_key, path) as client:
        if legacy:
            client.initialize()
        stream = client.listen()
        changed = "notifications/tools/list_changed"
        gate.admin.put(f"/toolsets/{SLUG}", {"tools": [greet, hidden], "title": "Not seen."})
        gate.admin.put(f"/toolsets/{SLUG}", {"tools": [{**greet, "description": "Says hello."}]})
        stream.wait_for(changed)
        gate.admin.put(f"/toolsets/{SLUG}", {"tools": [greet], "search": True})
        stream.wait_for(changed, 2)
        thrown = gate.admin.post("/kill-switches", {"scope": "tool", "selector": "everything/greet", "reason": "drill"})
        gate.admin.delete(f"/kill-switches/{thrown['id']}", {"reason": "over"})
        gate.admin.put(f"/toolsets/{SLUG}", {"tools": [greet]})
        stream.wait_for(changed, 3)
        assert sum(event.get("method") == changed for _, event in stream.events) == 3


@pytest.mark.requirement("toolset:audience")
def test_tokens_open_toolsets_as_they_open_servers(gate: GatewayProcess) -> None:
    made = gate.admin.post("/clients", {"client_id": "desk-robot", "subject": "robot", "roles": ["agent"]})

    def token(path: str) -> str:
        given = {"grant_type": "client_credentials", "resource": gate.base_url + path}
        auth = (made["client_id"], made["client_secret"])
        answer = httpx2.post(f"{gate.base_url}/oauth/token", data=given, auth=auth, trust_env=False)
        found: str = answer.json()["access_token"]
        return found

    try:
        with toolset(gate, {"tool": "everything/greet"}) as path:
            opened = {
                (audience, asked): Wire(gate.base_url, token(audience), asked).modern("tools/list").status
                for audience in ("/mcp", path, "/mcp/everything")
                for asked in ("/mcp", path, "/mcp/everything")
            }
    finally:
        gate.admin.delete("/clients/desk-robot", {"reason": "the test is over"})
    assert {pair for pair, status in opened.items() if status == 200} == {
        ("/mcp", "/mcp"),
        ("/mcp", path),
        ("/mcp", "/mcp/everything"),
        (path, path),
        ("/mcp/everything", "/mcp/everything"),
    }
    assert set(opened.values()) == {200, 401}


@pytest.mark.requirement("toolset:changes")
def test_an_administrator_changes_toolsets_from_the_command_line(gate: GatewayProcess, tmp_path: Any) -> None:
    file = tmp_path / "desk.json"
    entry = {"tool": "everything/greet", "name": "hello", "defaults": {"name": "you"}}
    file.write_text(json.dumps({"slug": "front-desk", "title": "Desk", "tools": [entry, {"tool": "gone/x"}]}))
    try:
        made = gate.cli("toolsets", "set", str(file))
        assert (made.returncode, made.stdout.splitlines()[0]) == (0, "front-desk offers 1 tools at /mcp/front-desk")
        assert "warning: no version of `gone` is active" in made.stdout
        shown = json.loads(gate.cli("toolsets", "show", "front-desk", "--json").stdout)
        assert shown["tools"] == [entry, {"tool": "gone/x"}]
        assert "front-desk" in gate.cli("toolsets", "list").stdout
        assert "everything/greet" in gate.cli("toolsets", "show", "front-desk").stdout
        tools = json.loads(gate.cli("tools", "front-desk", "--json", key=gate.agent_key).stdout)["tools"]
        assert [tool["name"] for tool in tools] == ["hello"]
        called = gate.cli("call", "front-desk", "hello", key=gate.agent_key)
        assert called.stdout == "Hello, you!\n"
        file.write_text(json.dumps({"slug": "front-desk", "tools": [{**entry, "name": "wiki__x"}]}))
        refused = gate.cli("toolsets", "set", str(file))
        assert (refused.returncode, "may be that of another tool" in refused.stderr) == (1, True)
        taken = gate.admin
        with pytest.raises(Exception, match="there is a toolset"):
            taken.post("/servers", {"slug": "front-desk", "url": "http://127.0.0.1:1/mcp"})
    finally:
        assert gate.cli("toolsets", "remove", "front-desk").stdout == "removed front-desk\n"
    assert gate.cli("toolsets", "show", "front-desk").returncode == 1


@pytest.mark.requirement("toolset:streams")
async def test_what_is_not_a_tool_is_that_of_the_servers_in_the_toolset(gate: GatewayProcess) -> None:
    with toolset(gate, {"tool": "everything/greet"}) as path:
        async with agent(gate.base_url + path, gate.agent_key) as client:
            prompts = names((await client.list_prompts()).prompts)
    assert {name.partition("__")[0] for name in prompts} == {"everything"}
