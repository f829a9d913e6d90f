"""The reference servers of the MCP project, as its users run them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import pytest

from mcpgw.clock import SystemClock
from mcpgw.config import StdioServer
from mcpgw.domain import ClientFacts, PartKind, Transport, Verb
from mcpgw.upstream.mcp_http import McpHttpUpstream
from mcpgw.upstream.stdio import StdioServers
from tests.fixtures.processes import free_port, running
from tests.tools import HOW, npm_dir
from tests.upstream.calls import LEGACY, LIMITS, MODERN, Caller, version

SLOW = b'{"duration":0.2,"steps":2}'


def program(name: str) -> Path:
    found = npm_dir("servers") / "node_modules" / ".bin" / name
    if not found.exists():
        pytest.skip(f"{name} is missing: {HOW}")
    return found


@pytest.fixture(scope="module")
def everything_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    command = ["sh", "-c", f"exec {program('mcp-server-everything')} streamableHttp 2>&1"]
    log, port = tmp_path_factory.mktemp("npm") / "everything.log", free_port()
    with running(command, log=log, env={"PORT": str(port)}, marker="MCP Streamable HTTP Server listening"):
        yield f"http://127.0.0.1:{port}/mcp"


@pytest.fixture
async def processes(tmp_path: Path) -> AsyncIterator[StdioServers]:
    servers = StdioServers(
        [
            StdioServer(name="everything", command=(str(program("mcp-server-everything")), "stdio")),
            StdioServer(name="filesystem", command=(str(program("mcp-server-filesystem")), str(tmp_path))),
        ],
        LIMITS,
        SystemClock(),
        lambda name, kind: None,
    )
    yield servers
    await servers.aclose()


@pytest.mark.requirement("upstream:npm-servers")
async def test_server_everything_works_over_http(upstream: McpHttpUpstream, everything_url: str) -> None:
    caller = Caller(upstream, version(everything_url), client=LEGACY, session="s-1").known(
        capabilities=b'{"elicitation":{},"sampling":{},"roots":{}}', meta=b'{"progressToken":"tok"}'
    )
    with anyio.fail_after(15):
        assert (await caller.ask(Verb.INITIALIZE)).result["serverInfo"]["name"] == "mcp-servers/everything"
        assert (await caller.call("echo", b'{"message":"hi"}')).text == "Echo: hi"
        slow = await caller.call("trigger-long-running-operation", SLOW)
        assert [event["params"]["progress"] for event in slow.events] == [1, 2]
        exchange = await caller.send(Verb.TOOLS_CALL, name="trigger-elicitation-request")
        parts = aiter(exchange)
        assert (await anext(parts)).kind is PartKind.OPENED
        question = json.loads((await anext(parts)).body)
        assert question["method"] == "elicitation/create"
        await caller.ask(Verb.ANSWER, forwarded={"id": b"%d" % question["id"], "result": b'{"action":"decline"}'})
        assert b"declined" in (await anext(parts)).body
        await exchange.aclose(None)
        assert (await caller.ask(Verb.END_SESSION)).last.facts["upstream_status"] == 200
        assert (await caller.call("echo", b'{"message":"again"}')).text == "Echo: again"


@pytest.mark.requirement("upstream:npm-servers")
@pytest.mark.parametrize("client", [MODERN, LEGACY], ids=["modern", "legacy"])
async def test_server_everything_works_over_stdio(processes: StdioServers, client: ClientFacts) -> None:
    caller = Caller(processes, version("everything", transport=Transport.STDIO), client=client, session="s-1")
    with anyio.fail_after(15):
        assert (await caller.call("echo", b'{"message":"hi"}')).text == "Echo: hi"
        slow = await caller.known(meta=b'{"progressToken":"tok"}').call("trigger-long-running-operation", SLOW)
        assert [event["params"]["progressToken"] for event in slow.events] == ["tok", "tok"]
        assert (await caller.ask(Verb.PROMPTS_LIST)).result["prompts"]
        assert (await caller.ask(Verb.RESOURCES_LIST)).result["resources"]


@pytest.mark.requirement("upstream:npm-servers")
@pytest.mark.parametrize("client", [MODERN, LEGACY], ids=["modern", "legacy"])
async def test_server_filesystem_works_over_stdio(processes: StdioServers, client: ClientFacts, tmp_path: Path) -> None:
    caller = Caller(processes, version("filesystem", transport=Transport.STDIO), client=client, session="s-1")
    with anyio.fail_after(15):
        written = json.dumps({"path": str(tmp_path / "note"), "content": "kept"}).encode()
        assert not (await caller.call("write_file", written)).last.failed
        assert (tmp_path / "note").read_text() == "kept"
        assert (
            await caller.call("read_text_file", json.dumps({"path": str(tmp_path / "note")}).encode())
        ).text == "kept"
        assert (await caller.call("read_text_file", b'{"path":"/etc/hostname"}')).last.failed
