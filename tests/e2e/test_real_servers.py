"""Servers that others made, as people run them, behind a gateway: each used by clients of both eras."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from mcp_types import ElicitResult

from tests import tools
from tests.e2e.agents import MODERN, agent, names, text_of
from tests.fixtures.processes import free_port, running
from tests.harness import ROOT, GatewayProcess, gateway, rego

# The library warns of what it does for the handshake era.
pytestmark = pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")

OWN = ROOT / "tests" / "fixtures" / "servers"
ERAS = (MODERN, "legacy")
REMEMBERED = '{"type": "entity", "name": "Ada", "entityType": "person", "observations": ["likes blue"]}'
# By server: a tool, its arguments, and what the answer has in it.
USES: dict[str, tuple[str, dict[str, Any], str]] = {
    "everything-stdio": ("echo", {"message": "hi"}, "Echo: hi"),
    "everything-http": ("echo", {"message": "hi"}, "Echo: hi"),
    "everything-sse": ("echo", {"message": "hi"}, "Echo: hi"),
    "filesystem": ("list_allowed_directories", {}, "Allowed directories"),
    "memory": ("search_nodes", {"query": "ada"}, "likes blue"),
    "fastmcp": ("add", {"a": 2, "b": 3}, "5"),
    "sdk-1-http": ("add", {"a": 2, "b": 3}, "5"),
    "sdk-1-stdio": ("add", {"a": 2, "b": 3}, "5"),
}


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """Two workers. What is not in `stdio` runs over HTTP."""
    home = tmp_path_factory.mktemp("real-servers").resolve()
    (home / "memory.jsonl").write_text(REMEMBERED)
    try:
        everything, filesystem, memory = (
            str(tools.npm_program("servers", f"mcp-server-{name}")) for name in ("everything", "filesystem", "memory")
        )
        sdk_1, fastmcp = tools.python("sdk-1"), tools.python("fastmcp")
    except tools.Missing as missing:
        pytest.skip(str(missing))
    stdio = [
        {"name": "everything-stdio", "command": [everything, "stdio"]},
        {"name": "filesystem", "command": [filesystem, str(home)]},
        {"name": "memory", "command": [memory], "env": {"MEMORY_FILE_PATH": str(home / "memory.jsonl")}},
        {"name": "sdk-1-stdio", "command": [str(sdk_1), str(OWN / "sdk_1_server.py"), "--stdio"]},
    ]
    with ExitStack() as started:
        urls = {
            "everything-http": over_http(started, [everything, "streamableHttp"], home) + "/mcp",
            "everything-sse": over_http(started, [everything, "sse"], home) + "/sse",
            "sdk-1-http": started.enter_context(running([sdk_1, OWN / "sdk_1_server.py"], log=home / "sdk-1.log")).url,
            "fastmcp": started.enter_context(running([fastmcp, OWN / "fastmcp_server.py"], log=home / "fm.log")).url,
        }
        config = {"registry": {"stdio": stdio}}
        made = started.enter_context(gateway(home / "gate", config=config, policy=rego("allow_all"), workers=2))
        for slug in USES:
            made.publish(slug, urls.get(slug))
        yield made
        assert "Traceback" not in made.output()


def over_http(started: ExitStack, command: list[str], home: Path) -> str:
    """Start npm's server-everything and return where it listens; it writes its ready line to stderr."""
    port, transport = free_port(), command[-1]
    marker = "MCP Streamable HTTP Server listening" if transport == "streamableHttp" else "Server is running on port"
    line = ["sh", "-c", f"exec {' '.join(command)} 2>&1"]
    started.enter_context(running(line, log=home / f"{transport}.log", env={"PORT": str(port)}, marker=marker))
    return f"http://127.0.0.1:{port}"


@pytest.mark.requirement("servers:real")
@pytest.mark.parametrize("mode", ERAS)
@pytest.mark.parametrize("slug", USES)
async def test_a_server_is_listed_and_called_by_clients_of_both_eras(
    gate: GatewayProcess, slug: str, mode: str
) -> None:
    tool, arguments, answer = USES[slug]
    for url, prefix in ((gate.server_url(slug), ""), (gate.mcp_url, f"{slug}__")):
        async with agent(url, gate.agent_key, mode=mode) as client:
            listed = names((await client.list_tools()).tools)
            result = await client.call_tool(prefix + tool, arguments)
        assert prefix + tool in listed
        assert not result.is_error and answer in text_of(result)


@pytest.mark.requirement("servers:real")
@pytest.mark.parametrize("mode", ERAS)
@pytest.mark.parametrize("slug", ["sdk-1-http", "fastmcp"])
async def test_resources_and_prompts_of_a_server_reach_clients_of_both_eras(
    gate: GatewayProcess, slug: str, mode: str
) -> None:
    async with agent(gate.server_url(slug), gate.agent_key, mode=mode) as client:
        read: Any = await client.read_resource("notes://today")
        filled: Any = await client.get_prompt("review", {"code": "x = 1"})
    assert read.contents[0].text == "Water the plants."
    assert filled.messages[0].content.text == "Please review: x = 1"


@pytest.mark.requirement("servers:asking")
@pytest.mark.parametrize(
    ("slug", "mode"), [("sdk-1-http", MODERN), ("sdk-1-http", "legacy"), ("fastmcp", "legacy")], ids=str
)
async def test_a_server_that_asks_by_requests_of_its_own_is_answered_by_clients_of_both_eras(
    gate: GatewayProcess, slug: str, mode: str
) -> None:
    asked: list[str] = []

    async def elicited(context: Any, params: Any) -> ElicitResult:
        asked.append(params.message)
        return ElicitResult(action="accept", content={"ok": True})

    async with agent(gate.server_url(slug), gate.agent_key, mode=mode, elicitation_callback=elicited) as client:
        answered = await client.call_tool("confirm", {"question": "Shall I?"})
    assert asked == ["Shall I?"]
    assert text_of(answered) == "accept: True"
