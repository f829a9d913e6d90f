"""Servers run as processes: one session for all callers, supervised, ended whole."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest

from mcpgw.clock import SystemClock
from mcpgw.config import LimitsSection, StdioServer
from mcpgw.domain import SYSTEM, ClientFacts, PartKind, Transport, Verb
from mcpgw.errors import (
    ClientGone,
    EraCrossing,
    Killed,
    MethodNotAllowed,
    MethodNotFound,
    RateLimited,
    UpstreamFailed,
    UpstreamTimeout,
    UpstreamUnreachable,
    UsageError,
    WorldMoved,
)
from mcpgw.task_ids import EXTENSION
from mcpgw.upstream import stdio_supervision
from mcpgw.upstream.stdio import StdioServers
from tests.eventually import eventually
from tests.fixtures.processes import state_of
from tests.upstream.calls import ALICE, BOB, LEGACY, LIMITS, MODERN, Caller, CountingGate, HandClock, version

LINES = Path(__file__).with_name("line_server.py")
PROGRESS = b'{"progressToken":"tok"}'


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return "asyncio", {"use_uvloop": request.param}


Serve = Callable[..., Caller]


@pytest.fixture
async def serve(clock: HandClock, changed: list[tuple[str, str]]) -> AsyncIterator[Serve]:
    """Declare one line server and return a modern caller of it; its process ends with the test."""
    async with AsyncExitStack() as stack:

        def declare(era: str = "legacy", quirk: str = "", *, limits: LimitsSection = LIMITS, **facts: Any) -> Caller:
            command = (sys.executable, "-IS", str(LINES), era, *([quirk] if quirk else []))
            entry = StdioServer(name="lines", command=command, **facts)
            servers = StdioServers([entry], limits, clock, lambda name, kind: changed.append((name, kind)))
            stack.push_async_callback(servers.aclose)
            return Caller(servers, version("lines", transport=Transport.STDIO))

        yield declare


def servers_of(caller: Caller) -> StdioServers:
    assert isinstance(caller.upstream, StdioServers)
    return caller.upstream


def as_legacy(caller: Caller) -> Caller:
    return dataclasses.replace(caller, client=LEGACY, session="s-1")


async def about(caller: Caller) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((await caller.call("about")).text)
    return found


async def until_gone(pid: int) -> None:
    await eventually(lambda: state_of(pid) in {"gone", "Z"})


@pytest.mark.requirement("stdio:process")
async def test_a_process_gets_its_exact_command_and_only_the_environment_it_is_given(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("from-a-file\n")
    monkeypatch.setenv("GATEWAY_SECRET", "ours")
    monkeypatch.setenv("ITS_TOKEN", "its own")
    monkeypatch.setenv("LANG", "C.UTF-8")
    env = {"PLAIN": "a value", "TOKEN": "env:ITS_TOKEN", "FILE": f"file:{tmp_path / 'secret'}"}
    told = await about(serve("legacy", "$(echo no); *", env=env, cwd=str(tmp_path)))
    expected = {"PLAIN": "a value", "TOKEN": "its own", "FILE": "from-a-file"}
    expected |= {name: os.environ[name] for name in ("PATH", "HOME", "LANG")}
    assert {k: v for k, v in told["environment"].items() if k != "LC_CTYPE"} == expected
    assert told["arguments"] == ["legacy", "$(echo no); *"]
    assert told["directory"] == str(tmp_path)
    assert told["group"] == told["session"] == told["pid"] != os.getpgid(0)


@pytest.mark.requirement("stdio:process")
def test_a_reference_that_leads_nowhere_is_found_at_the_start() -> None:
    entry = StdioServer(name="lines", command=("true",), env={"TOKEN": "env:NO_SUCH_VARIABLE"})
    with pytest.raises(UsageError, match="NO_SUCH_VARIABLE"):
        StdioServers([entry], LIMITS, SystemClock(), lambda name, kind: None)


def nowhere() -> StdioServer:
    return StdioServer(name="lines", command=("true",), cwd="/no/such/directory")


@pytest.mark.requirement("stdio:process")
async def test_a_server_that_nobody_declared_and_one_that_cannot_start_are_unreachable(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mcpgw.stdio")
    caller = serve()
    with pytest.raises(UpstreamUnreachable, match="not declared"):
        await dataclasses.replace(caller, target=version("other", transport=Transport.STDIO)).call("echo")
    for missing in (StdioServer(name="lines", command=("/no/such/program",)), nowhere()):
        servers = StdioServers([missing], LIMITS, SystemClock(), lambda name, kind: None)
        with pytest.raises(UpstreamUnreachable, match="cannot be started"):
            await dataclasses.replace(caller, upstream=servers).call("echo")
        await servers.aclose()
    assert "lines: cannot be started: No such file or directory" in caplog.text


@pytest.mark.requirement("stdio:one-session")
@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_calls_of_all_callers_go_through_one_process_under_ids_of_ours(serve: Serve, era: str) -> None:
    caller = serve(era)

    async def one(who: Any, number: int) -> None:
        seen = await dataclasses.replace(caller, who=who).call("echo", b'{"n":%d}' % number)
        assert json.loads(seen.text) == {"n": number}

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            for number in range(50):
                group.start_soon(one, ALICE, number)
                group.start_soon(one, BOB, number)
        told = json.loads((await caller.call("requests")).text)
    ids = [request["id"] for request in told if "id" in request]
    assert len(ids) == len(set(ids)) == 101 + (1 if era == "modern" else 2)
    assert "tester" not in json.dumps(told[0])


@pytest.mark.requirement("stdio:one-session")
@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_progress_goes_to_the_call_it_belongs_to_though_tokens_are_equal(serve: Serve, era: str) -> None:
    caller = serve(era).known(meta=PROGRESS)
    async with anyio.create_task_group() as group:
        for _ in range(2):
            group.start_soon(_check_progress, caller)


async def _check_progress(caller: Caller) -> None:
    seen = await caller.call("progress")
    assert seen.kinds == ["opened", "event", "event", "last"]
    assert [e["params"] for e in seen.events] == [
        {"progressToken": "tok", "progress": 1, "vendor": 1},
        {"progressToken": "tok", "progress": 2, "vendor": 1},
    ]
    assert seen.text == '"int"'


@pytest.mark.requirement("stdio:one-session")
async def test_what_belongs_to_no_call_reaches_nobody_but_a_changed_list_is_told(
    serve: Serve, changed: list[tuple[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    seen = await serve().known(meta=PROGRESS).call("stray")
    assert (seen.kinds, seen.text) == (["whole"], '"done"')
    assert changed == [("lines", "tools")]
    assert "a banner" not in caplog.text
    assert "8 bytes to its standard output that are no JSON-RPC message" in caplog.text


@pytest.mark.requirement("stdio:one-session")
async def test_the_process_can_ask_nobody(serve: Serve) -> None:
    answers = json.loads((await serve().call("ask")).text)
    assert answers["q1"]["code"] == -32601
    assert answers["q2"] == {}


@pytest.mark.requirement("stdio:translation")
@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_handshakes_are_answered_from_what_the_process_told_in_the_callers_era(serve: Serve, era: str) -> None:
    caller = serve(era)
    discovered = (await caller.ask(Verb.DISCOVER)).result
    # Log messages are nobody's; of updates only a modern process says whose they are.
    shared = {"tools": {"listChanged": True}, "resources": {"subscribe": True} if era == "modern" else {}}
    assert discovered == {
        "resultType": "complete",
        "supportedVersions": ["2026-07-28"],
        "capabilities": shared if era == "legacy" else {**shared, "extensions": {EXTENSION: {}}},
        "instructions": "be kind",
        "ttlMs": 0,
        "cacheScope": "private",
        "_meta": {"io.modelcontextprotocol/serverInfo": {"name": "lines", "version": "1"}},
    }
    initialized = (await as_legacy(caller).ask(Verb.INITIALIZE)).result
    assert initialized == {
        "protocolVersion": "2025-06-18" if era == "legacy" else "2025-11-25",
        "capabilities": shared,
        "instructions": "be kind",
        "serverInfo": {"name": "lines", "version": "1"},
    }
    older = await as_legacy(caller).known(protocol_version="2025-03-26").ask(Verb.INITIALIZE)
    assert older.result["protocolVersion"] == "2025-03-26"
    assert (await as_legacy(caller).ask(Verb.PING)).result == {}


@pytest.mark.requirement("stdio:translation")
async def test_a_modern_client_gets_modern_results_from_a_legacy_process(serve: Serve) -> None:
    caller = serve("legacy").known(meta=b'{"com.example/x":1}', capabilities=b'{"sampling":{}}')
    assert (await caller.ask(Verb.TOOLS_LIST)).result == {
        "tools": [{"name": "echo", "inputSchema": {"type": "object"}}],
        "resultType": "complete",
        "ttlMs": 0,
        "cacheScope": "private",
        "_meta": {"io.modelcontextprotocol/serverInfo": {"name": "lines", "version": "1"}},
    }
    called = (await caller.call("echo", b"{}")).result
    assert called["resultType"] == "complete"
    assert "ttlMs" not in called
    assert (await caller.call("fail")).last.failed
    missing = (await caller.ask(Verb.RESOURCES_READ, name="test://none")).last
    assert (missing.error_code, json.loads(missing.body)["code"]) == (-32602, -32602)
    told = json.loads((await caller.call("requests")).text)
    assert told[1]["params"]["capabilities"] == {}
    assert told[1]["params"]["clientInfo"]["name"] == "mcpgw"
    assert told[-1]["params"]["_meta"] == {"com.example/x": 1}


@pytest.mark.requirement("stdio:translation")
async def test_a_legacy_client_gets_legacy_results_from_a_modern_process(serve: Serve) -> None:
    caller = as_legacy(serve("modern")).known(meta=b'{"com.example/x":1}', capabilities=b'{"elicitation":{}}')
    assert (await caller.ask(Verb.TOOLS_LIST)).result == {
        "tools": [{"name": "echo", "inputSchema": {"type": "object"}}]
    }
    assert (await caller.ask(Verb.RESOURCES_READ, name="test://x")).result == {"contents": []}
    assert (await caller.ask(Verb.RESOURCES_READ, name="test://none")).last.error_code == -32002
    told = json.loads((await caller.call("requests")).text)
    assert told[-1]["params"]["_meta"] == {
        "com.example/x": 1,
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}},
        "io.modelcontextprotocol/clientInfo": {"name": "tester", "version": "1"},
    }


@pytest.mark.requirement("stdio:translation")
@pytest.mark.parametrize(("era", "client"), [("legacy", LEGACY), ("modern", MODERN)])
async def test_within_one_era_results_are_the_very_bytes_of_the_process(
    serve: Serve, era: str, client: ClientFacts
) -> None:
    caller = dataclasses.replace(serve(era), client=client)
    raw = b'{ "n":1.50, "u":"\\u00e9","big":123456789012345678901234567890 }'
    seen = await caller.call("echo", raw)
    assert json.loads(seen.text) == json.loads(raw)
    own = dataclasses.replace(caller, client=None, who=SYSTEM)
    assert (await own.ask(Verb.TOOLS_LIST)).last.body == (await caller.ask(Verb.TOOLS_LIST)).last.body
    assert (await own.ask(Verb.TOOLS_LIST)).last.facts == {"era": era}


@pytest.mark.requirement("stdio:translation")
async def test_what_a_shared_process_cannot_offer_is_refused(serve: Serve) -> None:
    caller = serve("legacy")
    with pytest.raises(MethodNotAllowed):
        await as_legacy(caller).ask(Verb.STREAM)
    with pytest.raises(MethodNotFound):
        await as_legacy(caller).ask(Verb.SET_LEVEL, forwarded={"level": b'"info"'})
    with pytest.raises(EraCrossing, match="nobody can subscribe"):
        await caller.ask(Verb.LISTEN, forwarded={"notifications": b"{}"})
    for verb in (Verb.INITIALIZED, Verb.CANCELLED, Verb.ROOTS_CHANGED, Verb.END_SESSION):
        assert (await as_legacy(caller).ask(verb)).last.status == 202


@pytest.mark.requirement("stdio:supervision")
async def test_a_process_that_dies_fails_its_own_running_calls_and_is_started_again_later_and_later(
    serve: Serve, clock: HandClock, caplog: pytest.LogCaptureFixture
) -> None:
    caller = serve()
    for delay in (0.5, 1.0, 2.0):
        running = asyncio.create_task(caller.call("hang"))
        await caller.call("echo")
        with pytest.raises(UpstreamFailed, match="ended with exit status 3") as died:
            await caller.call("die")
        assert died.value.data == {"cause": "process_ended"}
        with anyio.fail_after(5), pytest.raises(UpstreamFailed):
            await running
        with pytest.raises(UpstreamUnreachable, match="not started again") as early:
            await caller.call("echo")
        assert early.value.data == {"retry_after_s": delay}
        clock.now += delay
        await caller.call("echo")
    clock.now += 31  # a process that has lived this long starts a new count
    with pytest.raises(UpstreamFailed):
        await caller.call("die")
    with pytest.raises(UpstreamUnreachable) as early:
        await caller.call("echo")
    assert early.value.data == {"retry_after_s": 0.5}
    assert "the process of lines ended with exit status 3" in caplog.text


@pytest.mark.requirement("stdio:supervision")
async def test_a_process_that_never_starts_well_is_not_started_for_every_call(serve: Serve, clock: HandClock) -> None:
    caller = serve("legacy", "crashes")
    delays = []
    for _ in range(9):
        with pytest.raises((UpstreamFailed, UpstreamUnreachable), match="exit status 1"):
            await caller.call("echo")
        with pytest.raises(UpstreamUnreachable) as early:
            await caller.call("echo")
        delays.append(early.value.data["retry_after_s"])
        clock.now += delays[-1]
    assert delays == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


@pytest.mark.requirement("stdio:supervision")
@pytest.mark.parametrize("quirk", ["dies-at-probe", "silent-at-probe"])
async def test_a_server_that_cannot_bear_the_probe_is_greeted_without_it(
    serve: Serve, quirk: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stdio_supervision, "PROBE_S", 0.2)
    caller = serve("legacy", quirk)
    assert (await caller.call("echo")).last.facts == {"era": "legacy"}


@pytest.mark.requirement("stdio:supervision")
async def test_what_is_no_mcp_server_is_ended_and_said_to_be_none(serve: Serve) -> None:
    with pytest.raises(UpstreamFailed, match="not an MCP server"):
        await serve("neither").call("echo")


@pytest.mark.requirement("stdio:supervision")
async def test_calls_at_once_start_one_process_and_a_caller_that_leaves_does_not_end_the_start(serve: Serve) -> None:
    caller = serve()
    gate = CountingGate()
    first = asyncio.create_task(caller.call("echo", gate=gate))
    others = [asyncio.create_task(about(caller)) for _ in range(3)]
    await asyncio.sleep(0)
    gate.closed = ClientGone("gone")
    first.cancel()
    with anyio.fail_after(5):
        assert len({told["pid"] for told in await asyncio.gather(*others)}) == 1


@pytest.mark.requirement("stdio:gate")
@pytest.mark.parametrize("closed", [Killed("killed"), WorldMoved()], ids=["killed", "moved"])
async def test_what_the_gate_raises_ends_the_call_at_any_of_its_writes(serve: Serve, closed: BaseException) -> None:
    for writes in range(5):  # start, discover, initialize, initialized, the call
        caller = serve()
        gate = CountingGate(closed=closed, closed_from=writes)
        with anyio.fail_after(10), pytest.raises(type(closed)):
            await caller.call("echo", gate=gate)
        assert gate.passed == writes
        told = json.loads((await caller.call("requests")).text)
        assert [r["method"] for r in told].count("tools/call") == 1


@pytest.mark.requirement("stdio:gate")
async def test_a_frame_begins_on_an_empty_buffer_behind_the_gate(serve: Serve) -> None:
    caller = serve(limits=LIMITS.model_copy(update={"result_bytes": 50_000_000}))
    await caller.call("echo")
    big = b'{"x":"%b"}' % (b"x" * 5_000_000)
    gates = [CountingGate() for _ in range(3)]
    first = asyncio.create_task(caller.call("echo", big, gate=gates[0]))
    second = asyncio.create_task(caller.call("echo", gate=gates[1]))
    third = asyncio.create_task(caller.call("echo", gate=gates[2]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    # The pipe holds 64 KB: the first frame is on its way, and the others have not passed their gates.
    assert [gate.passed for gate in gates] == [1, 0, 0]
    gates[2].closed = Killed("killed")
    with anyio.fail_after(20):
        assert len((await first).text) > 5_000_000
        assert (await second).text == "{}"
        with pytest.raises(Killed):
            await third


@pytest.mark.requirement("stdio:cancellation")
@pytest.mark.parametrize("reason", [ClientGone("gone"), asyncio.CancelledError(), Killed("killed")])
async def test_a_call_that_is_let_go_of_is_cancelled_at_the_process_but_after_a_kill(
    serve: Serve, reason: BaseException
) -> None:
    caller = serve()
    gate = CountingGate()
    exchange = await caller.send(Verb.TOOLS_CALL, gate, name="hang")
    await exchange.aclose(reason)
    await exchange.aclose(None)
    await anyio.wait_all_tasks_blocked()
    told = json.loads((await caller.call("requests")).text)
    hung = next(r for r in told if r.get("params", {}).get("name") == "hang")
    cancelled = [r["params"] for r in told if r["method"] == "notifications/cancelled"]
    assert cancelled == ([] if isinstance(reason, Killed) else [{"requestId": hung["id"]}])


@pytest.mark.requirement("stdio:limits")
async def test_a_call_without_answer_times_out_and_calls_are_not_without_number(serve: Serve) -> None:
    caller = serve(limits=LIMITS.model_copy(update={"call_s": 0.2, "per_upstream": 2}))
    await caller.ask(Verb.DISCOVER)
    hanging = [await caller.send(Verb.TOOLS_CALL, name="hang") for _ in range(2)]
    with pytest.raises(RateLimited):
        await caller.call("echo")
    for exchange in hanging:
        with pytest.raises(UpstreamTimeout) as late:
            await anext(aiter(exchange))
        await exchange.aclose(late.value)
    assert (await caller.call("echo")).text == "{}"


@pytest.mark.requirement("stdio:limits")
async def test_a_line_without_end_ends_the_process_that_sends_it(serve: Serve, clock: HandClock) -> None:
    caller = serve(limits=LIMITS.model_copy(update={"result_bytes": 1_000_000}))
    pid = (await about(caller))["pid"]
    with anyio.fail_after(5), pytest.raises(UpstreamFailed, match="line of more than 1000000 bytes"):
        await caller.call("line")
    await until_gone(pid)
    with pytest.raises(UpstreamUnreachable, match="not started again"):
        await caller.call("echo")
    clock.now += 1
    assert (await caller.call("echo")).text == "{}"


@pytest.mark.requirement("stdio:ending")
async def test_stopping_ends_the_process_and_whatever_it_has_started(serve: Serve) -> None:
    caller = serve()
    pid = (await about(caller))["pid"]
    child = json.loads((await caller.call("child")).text)["pid"]
    running = asyncio.create_task(caller.call("hang"))
    await caller.call("echo")
    with anyio.fail_after(5):
        await servers_of(caller).stop("lines")
        with pytest.raises(UpstreamFailed, match="was stopped"):
            await running
    await until_gone(pid)
    await until_gone(child)
    assert (await about(caller))["pid"] != pid  # the next call starts another, at once


@pytest.mark.requirement("stdio:ending")
async def test_a_process_that_ignores_sigterm_is_killed(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcpgw.upstream.stdio_process.TERM_S", 0.1)
    caller = serve("legacy", "stubborn")
    pid = (await about(caller))["pid"]
    exchange = await caller.send(Verb.TOOLS_CALL, name="line")  # it sleeps, and does not read that its input ends
    with anyio.fail_after(5):
        await servers_of(caller).stop("lines")
    await until_gone(pid)
    await exchange.aclose(None)


@pytest.mark.requirement("stdio:log")
async def test_standard_error_is_logged_line_by_line_with_nothing_live_in_it(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mcpgw.stdio")
    caller = serve()
    await caller.call("complain")
    await eventually(lambda: "lines: last" in caplog.text)
    lines = [record.getMessage() for record in caplog.records]
    assert r"lines: \x1b[31mred\x1b[0m\u2028\u202eright\rto left" in lines
    assert "lines: second" in lines
    assert max(map(len, lines)) == len("lines: ") + 8192


@pytest.mark.requirement("stdio:log")
async def test_a_process_that_complains_without_end_has_to_wait(
    serve: Serve, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcpgw.upstream.stdio_log.BYTES_PER_S", 1000)
    caplog.set_level(logging.INFO, "mcpgw.stdio")
    caller = serve()
    await caller.ask(Verb.DISCOVER)
    began = asyncio.get_running_loop().time()
    with anyio.fail_after(10):
        assert (await caller.call("flood")).text == '"done"'
        while "lines: 299 z" not in caplog.text:
            await asyncio.sleep(0.02)
    assert asyncio.get_running_loop().time() - began > 0.3


@pytest.mark.requirement("upstream:streams")
async def test_a_modern_process_can_be_listened_to() -> None:
    everything = Path(__file__).parents[1] / "fixtures" / "everything_server.py"
    changed: list[tuple[str, str]] = []
    entry = StdioServer(name="lines", command=(sys.executable, str(everything), "--stdio"))
    servers = StdioServers([entry], LIMITS, SystemClock(), lambda name, kind: changed.append((name, kind)))
    caller = Caller(servers, version("lines", transport=Transport.STDIO))
    with anyio.fail_after(15):
        exchange = await caller.send(
            Verb.LISTEN, forwarded={"notifications": b'{"toolsListChanged":true}', "#id": b'"mine"'}
        )
        parts = aiter(exchange)
        assert (await anext(parts)).kind is PartKind.OPENED
        acknowledged = json.loads((await anext(parts)).body)
        await caller.call("test_trigger_tool_change")
        told = json.loads((await anext(parts)).body)
        await exchange.aclose(None)
    assert acknowledged["method"] == "notifications/subscriptions/acknowledged"
    assert told["method"] == "notifications/tools/list_changed"
    for message in (acknowledged, told):
        assert message["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"] == "mine"
    assert changed == [("lines", "tools")]
    await servers.aclose()
