"""Server processes that are one client's own, behind a gateway of two workers."""

from __future__ import annotations

import http.client
import json
import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import pytest
from mcp_types import CreateMessageResult, ElicitResult, ListRootsResult, Root, TextContent

from mcpgw.errors import GatewayError
from tests.e2e.agents import MODERN, agent, text_of
from tests.e2e.wire import Wire
from tests.fixtures.processes import state_of
from tests.harness import ROOT, GatewayProcess, gateway, rego, until

pytestmark = pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")
LEGACY = "legacy"
EVERYTHING = ROOT / "tests" / "fixtures" / "everything_server.py"
LINES = ROOT / "tests" / "upstream" / "line_server.py"
SPEAKS_LINES = {"command": [sys.executable, "-IS", str(LINES), "legacy", "stubborn"], "env": {"LISTS": "all"}}
SERVERS: list[dict[str, Any]] = [
    {"name": "session", "command": [sys.executable, str(EVERYTHING), "--stdio", "--era", "legacy"], "per": "session"},
    {"name": "modern", "command": [sys.executable, str(EVERYTHING), "--stdio", "--era", "modern"], "per": "principal"},
    {"name": "lines", "per": "principal", **SPEAKS_LINES},
    {"name": "few", "per": "principal", "max_processes": 2, **SPEAKS_LINES},
]
ENDED = frozenset({"gone", "Z"})
GONE_S = 2.0


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    config = {"registry": {"stdio": SERVERS, "drift_check_s": 3600.0}}
    with gateway(tmp_path_factory.mktemp("gateway"), policy=rego("allow_all"), config=config, workers=2) as made:
        for server in SERVERS:
            made.publish(server["name"])
        yield made
        assert "Traceback" not in made.output()


def wire(gate: GatewayProcess, slug: str, subject: str) -> Wire:
    return Wire(gate.base_url, gate.new_key(subject)[1], f"/mcp/{slug}")


def call(of: Wire, tool: str, **arguments: Any) -> Any:
    reply = of.modern("tools/call", {"name": tool, "arguments": arguments})
    return json.loads(reply.json["result"]["content"][0]["text"])


@pytest.mark.requirement("stdio:server-requests", "stdio:held", "stdio:across")
@pytest.mark.parametrize("mode", [MODERN, LEGACY])
@pytest.mark.parametrize("path", ["/mcp", "/mcp/session", "/mcp/modern"])
async def test_each_client_is_asked_by_its_own_process(gate: GatewayProcess, mode: str, path: str) -> None:
    prefix = "session__" if path == "/mcp" else ""

    async def converse(number: int) -> None:
        async def elicited(context: Any, params: Any) -> ElicitResult:
            return ElicitResult(action="accept", content={"username": f"client-{number}", "email": "a@example.com"})

        async def sampled(context: Any, params: Any) -> CreateMessageResult:
            content = TextContent(type="text", text=f"model of client-{number}")
            return CreateMessageResult(role="assistant", content=content, model="m")

        able = {"elicitation_callback": elicited, "sampling_callback": sampled}
        _, key = gate.new_key(f"asked-{mode}-{number}")
        async with agent(gate.base_url + path, key, mode=mode, **able) as client:
            user = text_of(await client.call_tool(f"{prefix}test_elicitation", {"message": "Who are you?"}))
            model = text_of(await client.call_tool(f"{prefix}test_sampling", {"prompt": "Say something"}))
            assert f"client-{number}" in user
            assert f"model of client-{number}" in model
            told.append(number)

    told: list[int] = []
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(converse, number)
    assert sorted(told) == [0, 1, 2]


@pytest.mark.requirement("stdio:listening")
async def test_a_client_hears_log_messages_of_its_level_and_updates_of_what_it_watches(gate: GatewayProcess) -> None:
    logged: list[str] = []
    updated = anyio.Event()

    async def into(message: Any) -> None:
        logged.append(message.level)

    async def heard(message: Any) -> None:
        if "test://watched-resource" in repr(message):
            updated.set()

    options = {"logging_callback": into, "message_handler": heard}
    async with agent(gate.server_url("session"), gate.agent_key, mode=LEGACY, **options) as client:
        assert client.server_capabilities.logging is not None
        await client.call_tool("test_tool_with_logging")
        loud = len(logged)
        await client.set_logging_level("error")
        await client.call_tool("test_tool_with_logging")
        assert (loud, len(logged)) == (3, 3)
        await client.subscribe_resource("test://watched-resource")
        await client.call_tool("test_trigger_tool_change")
        with anyio.fail_after(10):
            await updated.wait()


@pytest.mark.requirement("stdio:across")
async def test_a_client_of_the_handshake_era_hears_a_modern_process(gate: GatewayProcess) -> None:
    logged: list[str] = []
    updated = anyio.Event()

    async def into(message: Any) -> None:
        logged.append(message.level)

    async def heard(message: Any) -> None:
        if "test://watched-resource" in repr(message):
            updated.set()

    options = {"logging_callback": into, "message_handler": heard}
    async with agent(gate.server_url("modern"), gate.agent_key, mode=LEGACY, **options) as client:
        await client.call_tool("test_tool_with_logging")
        unasked = len(logged)
        await client.set_logging_level("info")
        await client.call_tool("test_tool_with_logging")
        assert (unasked, logged) == (0, ["info"] * 3)
        await client.subscribe_resource("test://watched-resource")
        await client.call_tool("test_trigger_tool_change")
        with anyio.fail_after(10):
            await updated.wait()


@pytest.mark.requirement("stdio:listening")
def test_a_stream_of_a_client_ends_when_its_process_does(gate: GatewayProcess) -> None:
    of = wire(gate, "lines", "listens")
    session = of.session()
    told = of.legacy(session, "tools/call", {"name": "about"}).json["result"]["content"][0]["text"]
    where = urlsplit(of.base_url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=20)
    headers = {"Authorization": f"Bearer {of.key}", "Mcp-Session-Id": session, "Accept": "text/event-stream"}
    connection.request("GET", of.path, headers=headers)
    listening = connection.getresponse()
    assert of.legacy(session, "tools/call", {"name": "die"}).code == -31106
    rest = listening.read()
    connection.close()
    assert (listening.status, b"error" in rest) == (200, False)
    assert state_of(json.loads(told)["pid"]) in ENDED


@pytest.mark.requirement("stdio:input-required")
async def test_a_modern_process_asks_a_modern_client_through_the_gateway(gate: GatewayProcess) -> None:
    async def elicited(context: Any, params: Any) -> ElicitResult:
        return ElicitResult(action="accept", content={"name": "Ada"})

    async def rooted(context: Any) -> ListRootsResult:
        return ListRootsResult(roots=[Root(uri="file:///home", name="home")])

    able = {"elicitation_callback": elicited, "list_roots_callback": rooted}
    async with agent(gate.server_url("modern"), gate.agent_key, **able) as client:
        answered = text_of(await client.call_tool("test_input_required_result_elicitation"))
    assert "Ada" in answered


@pytest.mark.requirement("stdio:exclusive", "stdio:ending")
def test_a_kill_of_a_principal_ends_its_process_and_nobody_elses(gate: GatewayProcess) -> None:
    alice, bob = wire(gate, "lines", "kill-alice"), wire(gate, "lines", "kill-bob")
    pids = {who: call(of, "about")["pid"] for who, of in (("alice", alice), ("bob", bob))}
    assert pids["alice"] != pids["bob"]
    child = call(alice, "child")["pid"]
    principal = gate.admin.get("/audit", server="lines", tool="child")["records"][0]["principal"]
    order = {"scope": "principal", "selector": principal, "reason": "drill"}
    thrown = gate.admin.post("/kill-switches", order)
    until(lambda: {state_of(pids["alice"]), state_of(child)} <= ENDED, "the process of the killed principal ends", 10)
    assert call(bob, "about")["pid"] == pids["bob"]
    assert alice.modern("tools/call", {"name": "about"}).status == 403
    gate.admin.delete(f"/kill-switches/{thrown['id']}", {"reason": "drill is over"})
    assert call(alice, "about")["pid"] != pids["alice"]
    thrown = gate.admin.post("/kill-switches", {"scope": "server", "selector": "lines", "reason": "drill"})
    until(lambda: state_of(pids["bob"]) in ENDED, "the processes of a killed server end", 10)
    gate.admin.delete(f"/kill-switches/{thrown['id']}", {"reason": "drill is over"})


@pytest.mark.requirement("stdio:bounded")
def test_when_all_processes_are_in_use_a_caller_is_told_when_to_come_back(gate: GatewayProcess, tmp_path: Path) -> None:
    busy = [wire(gate, "few", f"busy-{n}") for n in range(2)]
    late = wire(gate, "few", "late")
    pids = [call(of, "about")["pid"] for of in busy]
    assert call(late, "about")["pid"] not in pids  # an idle one has made room
    with ThreadPoolExecutor(2) as pool:
        hanging = []
        for number, of in enumerate(busy):
            begun = tmp_path / f"{number}"
            call_of = {"name": "hang", "arguments": {"begun": str(begun)}}
            hanging.append(pool.submit(of.modern, "tools/call", call_of))
            until(begun.exists, "the call is running")
        refused = late.modern("tools/call", {"name": "about"})
        order = {"scope": "server", "selector": "few", "reason": "the end of the test"}
        thrown = gate.admin.post("/kill-switches", order)
        assert [call.result().status for call in hanging] == [403, 403]
        gate.admin.delete(f"/kill-switches/{thrown['id']}", {"reason": "over"})
    assert (refused.status, refused.headers["retry-after"]) == (429, "5")
    assert "in use (2)" in refused.error["message"]


@pytest.mark.requirement("stdio:ending")
def test_a_killed_worker_leaves_no_server_behind(tmp_path: Path) -> None:
    servers = [{"name": "lines", **SPEAKS_LINES}, {"name": "own", "per": "principal", **SPEAKS_LINES}]
    config = {"registry": {"stdio": servers}}
    with gateway(tmp_path, policy=rego("allow_all"), config=config) as gate:
        pids: list[int] = []
        for slug in ("lines", "own"):
            gate.publish(slug)
            of = wire(gate, slug, f"of-{slug}")
            pids += [call(of, "about")["pid"], call(of, "child")["pid"]]
        [worker] = gate.pids()
        os.kill(worker, signal.SIGKILL)
        until(lambda: {state_of(pid) for pid in pids} <= ENDED, "all server processes end", GONE_S)
        until(lambda: _serves(of), "another worker serves", 20)


def _serves(of: Wire) -> bool:
    try:
        return of.modern("tools/call", {"name": "about"}).status == 200
    except (GatewayError, OSError):
        return False
