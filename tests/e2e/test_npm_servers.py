"""The reference servers of the MCP project, from npm as people run them, behind a gateway and the SDK's client."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.agents import MODERN, agent, names, text_of
from tests.fixtures.processes import free_port, running
from tests.harness import GatewayProcess, gateway, rego
from tests.tools import Missing, npm_program

LEGACY = "legacy"


def program(name: str) -> str:
    try:
        return str(npm_program("servers", name))
    except Missing as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory that the filesystem server may read and write."""
    directory = tmp_path_factory.mktemp("files").resolve()
    (directory / "note.txt").write_text("kept")
    return directory


@pytest.fixture(scope="module")
def gate(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """Two workers, of which one owns the processes; `web` is the same server as `everything`, over HTTP."""
    everything, filesystem = program("mcp-server-everything"), program("mcp-server-filesystem")
    home, port = tmp_path_factory.mktemp("gateway"), free_port()
    stdio = [
        {"name": "everything", "command": [everything, "stdio"], "env": {"SHOWN": "yes"}},
        {"name": "files", "command": [filesystem, str(files)]},
    ]
    over_http = running(
        ["sh", "-c", f"exec {everything} streamableHttp 2>&1"],
        log=home / "web.log",
        env={"PORT": str(port)},
        marker="MCP Streamable HTTP Server listening",
    )
    with (
        over_http,
        gateway(home / "gate", config={"registry": {"stdio": stdio}}, policy=rego("allow_all"), workers=2) as made,
    ):
        made.publish("everything")
        made.publish("files")
        made.publish("web", f"http://127.0.0.1:{port}/mcp")
        yield made
        assert "Traceback" not in made.output()


@pytest.mark.requirement("npm:stdio")
@pytest.mark.parametrize("mode", [LEGACY, "auto", MODERN])
async def test_server_everything_over_stdio_serves_clients_of_both_eras(gate: GatewayProcess, mode: str) -> None:
    steps: list[tuple[float, float | None]] = []

    async def noted(progress: float, total: float | None, message: str | None) -> None:
        steps.append((progress, total))

    async with agent(gate.server_url("everything"), gate.agent_key, mode=mode) as client:
        assert client.protocol_version == ("2025-11-25" if mode == LEGACY else MODERN)
        assert {"echo", "get-sum", "trigger-long-running-operation"} <= names((await client.list_tools()).tools)
        echoed = await client.call_tool("echo", {"message": "hi"})
        added = await client.call_tool("get-sum", {"a": 2, "b": 3})
        told = await client.call_tool("get-structured-content", {"location": "Chicago"})
        await client.call_tool("trigger-long-running-operation", {"duration": 0.2, "steps": 2}, progress_callback=noted)
        prompts = names((await client.list_prompts()).prompts)
        filled = await client.get_prompt("args-prompt", {"city": "Bern"})
        resources = (await client.list_resources()).resources
        read = await client.read_resource(str(resources[0].uri))
    assert text_of(echoed) == "Echo: hi"
    assert "5" in text_of(added)
    assert told.structured_content is not None and told.structured_content["temperature"]
    assert steps == [(1, 2), (2, 2)]
    assert {"simple-prompt", "args-prompt"} <= prompts
    assert "Bern" in filled.messages[0].content.text
    assert read.contents


@pytest.mark.requirement("npm:stdio")
async def test_a_process_gets_its_own_environment_and_nothing_of_the_gateways(gate: GatewayProcess) -> None:
    async with agent(gate.server_url("everything"), gate.agent_key) as client:
        shown = json.loads(text_of(await client.call_tool("get-env")))
    assert shown["SHOWN"] == "yes"
    assert shown["PATH"] == os.environ["PATH"]
    assert set(shown) <= {"SHOWN", "PATH", "HOME", "LANG"}


@pytest.mark.requirement("npm:stdio")
@pytest.mark.parametrize("mode", [LEGACY, MODERN])
async def test_server_filesystem_over_stdio_reads_and_writes_what_it_may(
    gate: GatewayProcess, files: Path, mode: str
) -> None:
    written = files / f"{mode}.txt"
    async with agent(gate.mcp_url, gate.agent_key, mode=mode) as client:
        read = await client.call_tool("files__read_text_file", {"path": str(files / "note.txt")})
        wrote = await client.call_tool("files__write_file", {"path": str(written), "content": "§ 1"})
        outside = await client.call_tool("files__read_text_file", {"path": "/etc/hostname"})
    assert text_of(read) == "kept"
    assert not wrote.is_error and written.read_text() == "§ 1"
    assert outside.is_error and "Access denied" in text_of(outside)


@pytest.mark.requirement("npm:http")
@pytest.mark.parametrize(
    ("path", "mode"),
    [("/mcp", LEGACY), ("/mcp/web", LEGACY), ("/mcp/web", "auto"), ("/mcp", MODERN), ("/mcp/web", MODERN)],
)
async def test_server_everything_over_http_serves_clients_of_both_eras(
    gate: GatewayProcess, path: str, mode: str
) -> None:
    """The server knows the handshake alone; a client need not."""
    prefix = "web__" if path == "/mcp" else ""
    steps: list[float] = []

    async def noted(progress: float, total: float | None, message: str | None) -> None:
        steps.append(progress)

    async with agent(gate.base_url + path, gate.agent_key, mode=mode) as client:
        assert client.protocol_version == ("2025-11-25" if mode == LEGACY else MODERN)
        assert f"{prefix}echo" in names((await client.list_tools()).tools)
        echoed = await client.call_tool(f"{prefix}echo", {"message": "hi"})
        slow = {"duration": 0.2, "steps": 2}
        await client.call_tool(f"{prefix}trigger-long-running-operation", slow, progress_callback=noted)
    assert text_of(echoed) == "Echo: hi"
    assert steps == [1, 2]
