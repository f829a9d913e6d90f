"""Servers of the deprecated HTTP+SSE transport behind a gateway of two workers, and clients of both eras before it."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import MCPError
from mcp_types import ElicitResult

from mcpgw.errors import UpstreamFailed
from tests.e2e.agents import MODERN, agent, names, text_of
from tests.e2e.wire import Reply, Wire
from tests.fixtures.processes import Running, free_port, running
from tests.harness import ROOT, GatewayProcess, gateway, rego, until
from tests.tools import Missing, npm_program

LEGACY = "legacy"
TOOLS = {"echo", "ask", "work", "hang", "die"}
CALLERS, CALLS = 4, 50


def events_server(stack: ExitStack, directory: Path, port: int = 0) -> Running:
    command = [sys.executable, "-m", "tests.fixtures.event_server", "--port", str(port)]
    return stack.enter_context(running(command, log=directory / "events.log", cwd=ROOT))


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with ExitStack() as stack:
        yield events_server(stack, tmp_path_factory.mktemp("events"))


@pytest.fixture(scope="module")
def gate(events: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    http = [
        {"name": "declared", "url": events.url, "transport": "sse"},
        {"name": "found", "url": events.url},
        {"name": "mistaken", "url": events.url, "transport": "http"},
    ]
    directory = tmp_path_factory.mktemp("gateway")
    with gateway(directory, policy=rego("allow_all"), config={"registry": {"http": http}}, workers=2) as made:
        made.publish("events", events.url)
        yield made
        assert "Traceback" not in made.output()


def shown(gate: GatewayProcess, slug: str) -> dict[str, Any]:
    return next(server for server in gate.admin.get("/servers")["servers"] if server["slug"] == slug)


@pytest.mark.requirement("sse:registering")
def test_a_url_is_found_to_be_http_sse_when_it_takes_no_post(gate: GatewayProcess, events: Running) -> None:
    added = gate.cli("servers", "add", "typed", events.url, "--json", check=True)
    answer = json.loads(added.stdout)
    assert answer["transport"] == "sse"
    assert [(v["version"], v["transport"], v["era"]) for v in answer["versions"]] == [("1.0.0", "sse", "legacy")]
    assert shown(gate, "events")["transport"] == "sse"


@pytest.mark.requirement("sse:registering")
def test_the_configuration_may_say_which_transport_it_is(gate: GatewayProcess) -> None:
    assert shown(gate, "found")["transport"] is None
    for slug in ("declared", "found"):
        gate.publish(slug)
        assert shown(gate, slug)["transport"] == "sse"
    with pytest.raises(UpstreamFailed, match="HTTP 405"):
        gate.publish("mistaken")


@pytest.mark.requirement("sse:registering")
def test_what_is_neither_is_told_what_it_answered_first(gate: GatewayProcess, events: Running) -> None:
    with pytest.raises(UpstreamFailed, match="HTTP 404"):
        gate.admin.post("/servers", {"slug": "nothing", "url": f"{events.url}/nothing"})


@pytest.mark.requirement("sse:calls")
@pytest.mark.parametrize("mode", [MODERN, LEGACY])
@pytest.mark.parametrize("path", ["/mcp", "/mcp/events"])
async def test_clients_of_both_eras_use_it(gate: GatewayProcess, mode: str, path: str) -> None:
    prefix = "events__" if path == "/mcp" else ""
    steps: list[float] = []

    async def noted(progress: float, total: float | None, message: str | None) -> None:
        steps.append(progress)

    async with agent(gate.base_url + path, gate.agent_key, mode=mode) as client:
        assert {prefix + tool for tool in TOOLS} <= names((await client.list_tools()).tools)
        echoed = await client.call_tool(f"{prefix}echo", {"marker": "m-1"})
        worked = await client.call_tool(f"{prefix}work", progress_callback=noted)
    assert json.loads(text_of(echoed))["marker"] == "m-1"
    assert (text_of(worked), steps) == ("done", [1, 2])


@pytest.mark.requirement("sse:server-requests")
@pytest.mark.parametrize("mode", [MODERN, LEGACY])
async def test_it_asks_its_own_client_while_others_are_asked_too(gate: GatewayProcess, mode: str) -> None:
    async def converse(number: int) -> None:
        async def elicited(context: Any, params: Any) -> ElicitResult:
            assert params.message == f"who is {number}?"
            return ElicitResult(action="accept", content={"name": f"client {number}"})

        _, key = gate.new_key(f"asked-{mode}-{number}")
        async with agent(gate.server_url("events"), key, mode=mode, elicitation_callback=elicited) as client:
            told.append(text_of(await client.call_tool("ask", {"message": f"who is {number}?"})))

    told: list[str] = []
    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            for number in range(4):
                group.start_soon(converse, number)
    assert sorted(told) == [f"accept: client {number}" for number in range(4)]


@pytest.mark.requirement("sse:foreign-answers")
def test_callers_with_equal_ids_at_once_get_their_own_answers_in_their_own_sessions(gate: GatewayProcess) -> None:
    wires = {f"caller-{n}": Wire(gate.base_url, gate.new_key(f"caller-{n}")[1], "/mcp/events") for n in range(CALLERS)}
    sessions = {name: wire.session() for name, wire in wires.items()}

    def call(name: str, number: int) -> tuple[str, str, Reply]:
        marker = f"{name}/{number}"
        params = {"name": "echo", "arguments": {"marker": marker}}
        if number % 2:
            return name, marker, wires[name].modern("tools/call", params)
        return name, marker, wires[name].legacy(sessions[name], "tools/call", params, request_id=number)

    with ThreadPoolExecutor(16) as pool:
        calls = [pool.submit(call, name, number) for number in range(CALLS) for name in wires]
        answered = [done.result() for done in calls]
    seen: dict[str, set[str]] = {}
    for name, marker, reply in answered:
        told = reply.json["result"]["structuredContent"]
        assert told["marker"] == marker
        seen.setdefault(told["session"], set()).add(name)
    assert all(len(whose) == 1 for whose in seen.values())


@pytest.mark.requirement("sse:ending")
async def test_a_kill_cuts_the_call_that_runs_and_lets_no_other_begin(gate: GatewayProcess, events: Running) -> None:
    async with agent(gate.server_url("events"), gate.agent_key, mode=LEGACY) as client:
        await client.call_tool("echo", {"marker": "before"})
        running_call = asyncio.create_task(client.call_tool("hang", {"marker": "cut"}))
        await asyncio.to_thread(until, lambda: "hangs cut" in events.output(), "the call arrives")
        order = {"scope": "server", "selector": "events", "reason": "drill"}
        thrown = await asyncio.to_thread(gate.admin.post, "/kill-switches", order)
        try:
            assert thrown["cancelled"] in {1, 2}  # the client may listen by now, besides
            assert len(thrown["may_have_taken_effect"]) == 1
            with pytest.raises(MCPError, match="kill switch"):
                await running_call
            with pytest.raises(MCPError):
                await client.call_tool("echo", {"marker": "killed"})
        finally:
            switch = f"/kill-switches/{thrown['id']}"
            await asyncio.to_thread(gate.admin.delete, switch, {"reason": "drill is over"})
        after = await client.call_tool("echo", {"marker": "after"})
    assert json.loads(text_of(after))["marker"] == "after"


@pytest.mark.requirement("sse:lost")
def test_a_server_that_dies_costs_the_calls_that_ran_and_one_that_comes_back_serves(
    gate: GatewayProcess, tmp_path: Path
) -> None:
    port = free_port()
    with ExitStack() as stack, ThreadPoolExecutor(4) as pool:
        mortal = events_server(stack, tmp_path, port)
        gate.publish("mortal", mortal.url)
        wire = Wire(gate.base_url, gate.agent_key, "/mcp/mortal")
        session = wire.session()
        assert wire.legacy(session, "tools/call", {"name": "echo", "arguments": {"marker": "x"}}).status == 200
        hanging = pool.submit(wire.legacy, session, "tools/call", {"name": "hang", "arguments": {"marker": "x"}}, 2)
        until(lambda: "hangs x" in mortal.output(), "the call arrives")
        died = wire.legacy(session, "tools/call", {"name": "die"}, 3)
        mortal.process.wait(5)
        for lost in (hanging.result(), died):
            assert (lost.status, lost.code) == (502, -31106)
            assert "may have taken effect" in lost.error["data"]["fix"]
        assert wire.legacy(session, "tools/call", {"name": "echo", "arguments": {"marker": "x"}}, 4).status == 502
    with ExitStack() as stack:
        events_server(stack, tmp_path, port)
        again = wire.legacy(session, "tools/call", {"name": "echo", "arguments": {"marker": "again"}}, 5)
        assert again.json["result"]["structuredContent"]["marker"] == "again"
    records = gate.admin.get("/audit", server="mortal", outcome="upstream_failed")["records"]
    assert {record["facts"]["sent"] for record in records} == {True}


@pytest.mark.requirement("upstream:npm-servers")
@pytest.mark.parametrize("mode", [MODERN, LEGACY])
async def test_server_everything_works_over_http_sse(gate: GatewayProcess, tmp_path: Path, mode: str) -> None:
    try:
        program = npm_program("servers", "mcp-server-everything")
    except Missing as missing:
        pytest.skip(str(missing))
    port = free_port()
    command = ["sh", "-c", f"exec {program} sse 2>&1"]
    with running(command, log=tmp_path / "sse.log", env={"PORT": str(port)}, marker="Server is running on port"):
        slug = f"npm-{mode[:4]}"
        await asyncio.to_thread(gate.publish, slug, f"http://127.0.0.1:{port}/sse")
        async with agent(gate.server_url(slug), gate.agent_key, mode=mode) as client:
            assert text_of(await client.call_tool("echo", {"message": "hi"})) == "Echo: hi"
            assert (await client.list_resources()).resources
            assert (await client.list_prompts()).prompts
