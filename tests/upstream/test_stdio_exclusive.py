"""Servers run as a process for each principal, or each session: what only its own client can do with a process."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

import anyio
import pytest

from mcpgw.config import LimitsSection, StdioServer
from mcpgw.domain import SYSTEM, Era, Part, PartKind, Scope, Switches, Target, Transport, Verb
from mcpgw.errors import (
    InvalidRequest,
    Killed,
    MethodNotAllowed,
    RateLimited,
    UpstreamFailed,
    UpstreamTimeout,
    UpstreamUnreachable,
    WorldMoved,
)
from mcpgw.ports import Exchange
from mcpgw.upstream.stdio import StdioServers
from tests.fixtures.processes import state_of
from tests.parts import switch
from tests.upstream.calls import ALICE, BOB, LEGACY, LIMITS, MODERN, Caller, CountingGate, HandClock, permit, version
from tests.upstream.test_stdio import LINES, about, servers_of, until_gone

ABLE = dataclasses.replace(LEGACY, capabilities=b'{"elicitation":{},"roots":{"listChanged":true}}')
Serve = Callable[..., Caller]


@pytest.fixture
async def serve(clock: HandClock, changed: list[tuple[str, str]]) -> AsyncIterator[Serve]:
    """Declare one line server and return a caller of it with a session; its processes end with the test."""
    async with AsyncExitStack() as stack:

        def declare(era: str = "legacy", quirk: str = "", *, limits: LimitsSection = LIMITS, **facts: Any) -> Caller:
            command = (sys.executable, "-IS", str(LINES), era, *([quirk] if quirk else []))
            entry = StdioServer(name="srv", command=command, **{"per": "session", **facts})
            servers = StdioServers([entry], limits, clock, lambda name, kind: changed.append((name, kind)))
            stack.push_async_callback(servers.aclose)
            return Caller(servers, version("srv", transport=Transport.STDIO), client=ABLE, session="s-1")

        yield declare


def other(caller: Caller, **facts: Any) -> Caller:
    return dataclasses.replace(caller, **facts)


async def pid_of(caller: Caller) -> int:
    return int((await about(caller))["pid"])


async def answer(caller: Caller, question: Mapping[str, Any], result: bytes, **facts: Any) -> Part:
    forwarded = {"id": json.dumps(question["id"]).encode(), "result": result}
    return (await caller.ask(Verb.ANSWER, forwarded=forwarded, **facts)).last


async def question_of(exchange: Exchange) -> tuple[dict[str, Any], AsyncIterator[Part]]:
    """Return the first event of an answer, and what comes after it."""
    parts = aiter(exchange)
    assert (await anext(parts)).kind is PartKind.OPENED
    question: dict[str, Any] = json.loads((await anext(parts)).body)
    return question, parts


def text_of(part: Part) -> Any:
    return json.loads(json.loads(part.body)["content"][0]["text"])


# Whose a process is


@pytest.mark.requirement("stdio:exclusive")
async def test_a_process_per_principal_serves_all_that_one_does_and_nobody_else(serve: Serve) -> None:
    caller = serve(per="principal")
    alice = await pid_of(caller)
    assert await pid_of(other(caller, session="s-2")) == alice
    as_able = dataclasses.replace(MODERN, capabilities=b'{"roots":{},"elicitation":{}}')
    assert await pid_of(other(caller, session=None, client=as_able)) == alice
    bob = await pid_of(other(caller, who=BOB))
    assert await pid_of(other(caller, who=SYSTEM, session=None, client=None)) not in {alice, bob}
    assert bob != alice


@pytest.mark.requirement("stdio:exclusive")
async def test_a_process_that_is_told_once_what_its_client_can_do_is_for_clients_that_can_do_the_same(
    serve: Serve,
) -> None:
    caller = serve(per="principal")
    modern = other(caller, session=None, client=MODERN)
    unable, able = await pid_of(modern), await pid_of(caller)
    assert unable != able
    assert await pid_of(modern) == unable


@pytest.mark.requirement("stdio:exclusive")
@pytest.mark.parametrize("per", ["principal", "session"])
async def test_a_process_that_is_told_by_each_request_is_for_all_that_a_principal_does(serve: Serve, per: str) -> None:
    caller = other(serve("modern", per=per), session=None, client=MODERN)
    caller = other(caller, target=dataclasses.replace(caller.target, era=Era.MODERN))
    pid = await pid_of(caller)
    assert await pid_of(caller.known(capabilities=b'{"elicitation":{}}')) == pid
    of_session = await pid_of(other(caller, session="s-1", client=ABLE))
    assert (of_session == pid) is (per == "principal")


@pytest.mark.requirement("stdio:exclusive")
async def test_a_process_per_principal_is_greeted_in_the_generation_that_tells_its_clients_apart(serve: Serve) -> None:
    caller = serve("dual", per="principal")
    assert (await caller.call("echo")).last.facts == {"era": "modern"}


@pytest.mark.requirement("stdio:exclusive")
async def test_a_process_per_session_is_for_a_session_or_for_equal_requests_without_one(serve: Serve) -> None:
    caller = serve(per="session")
    first = await pid_of(caller)
    assert await pid_of(caller) == first
    seen = {first, await pid_of(other(caller, session="s-2")), await pid_of(other(caller, who=BOB))}
    modern = other(caller, session=None, client=MODERN)
    seen.add(await pid_of(modern))
    assert await pid_of(modern) in seen
    seen.add(await pid_of(modern.known(capabilities=b'{"elicitation":{}}')))
    assert len(seen) == 5


@pytest.mark.requirement("stdio:exclusive")
async def test_a_process_is_told_of_its_client_and_tells_it_all_that_it_offers(serve: Serve) -> None:
    caller = serve()
    initialized = (await caller.ask(Verb.INITIALIZE, forwarded={"protocolVersion": b'"2025-06-18"'})).result
    assert initialized == {
        "protocolVersion": "2025-06-18",
        "capabilities": {"tools": {"listChanged": True}, "logging": {}, "resources": {"subscribe": True}},
        "serverInfo": {"name": "lines", "version": "1"},
        "instructions": "be kind",
    }
    told = json.loads((await caller.call("requests")).text)
    assert [request["method"] for request in told] == ["initialize", "notifications/initialized", "tools/call"]
    assert told[0]["params"] == {
        "protocolVersion": "2025-06-18",
        "capabilities": {"elicitation": {}, "roots": {"listChanged": True}},
        "clientInfo": {"name": "tester", "version": "1"},
    }


@pytest.mark.requirement("stdio:exclusive")
async def test_a_process_is_greeted_in_the_generation_of_its_client_first(serve: Serve) -> None:
    caller = serve("dual")
    assert (await caller.call("echo")).last.facts == {"era": "legacy"}
    assert (await other(caller, session=None, client=MODERN).call("echo")).last.facts == {"era": "modern"}


@pytest.mark.requirement("stdio:exclusive")
async def test_a_process_that_refuses_the_handshake_is_replaced_by_one_that_is_asked_first(serve: Serve) -> None:
    caller = serve("modern", "settles")
    for session in ("s-1", "s-2"):
        told = json.loads((await other(caller, session=session).call("requests")).text)
        assert [request["method"] for request in told] == ["server/discover", "tools/call"]


# What only an own process can do


@pytest.mark.requirement("stdio:server-requests")
@pytest.mark.parametrize("per", ["principal", "session"])
async def test_a_process_asks_its_client_on_the_stream_of_the_call(serve: Serve, per: str) -> None:
    caller = serve(per=per)
    exchange = await caller.send(Verb.TOOLS_CALL, name="ask")
    question, parts = await question_of(exchange)
    assert question["method"] == "elicitation/create"
    assert question["id"] != "q1"
    assert (await answer(caller, question, b'{ "action":"decline"}')).status == 202
    last = await anext(parts)
    assert (last.kind, text_of(last)) == (PartKind.LAST, {"q1": {"action": "decline"}, "q2": {}})
    with pytest.raises(UpstreamFailed, match="no longer has the request") as late:
        await answer(caller, question, b'{"action":"accept"}')
    assert late.value.data == {"cause": "session_lost"}
    await exchange.aclose(None)


@pytest.mark.requirement("stdio:server-requests")
async def test_questions_with_equal_ids_find_their_own_clients_at_once(serve: Serve) -> None:
    caller = serve(max_processes=20)
    callers = [other(caller, who=who, session=f"s-{n}") for n, who in enumerate([ALICE, BOB] * 10)]

    asked: list[Caller] = []
    all_asked = anyio.Event()

    async def converse(own: Caller, name: str) -> None:
        exchange = await own.send(Verb.TOOLS_CALL, name="ask")
        question, parts = await question_of(exchange)
        asked.append(own)
        if len(asked) == len(callers):
            all_asked.set()
        await all_asked.wait()
        await answer(own, question, b'{"name":"%b"}' % name.encode())
        assert text_of(await anext(parts))["q1"] == {"name": name}
        await exchange.aclose(None)

    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            for n, own in enumerate(callers):
                group.start_soon(converse, own, f"client-{n}")


@pytest.mark.requirement("stdio:server-requests")
async def test_nobody_answers_for_another(serve: Serve) -> None:
    caller = serve()
    exchange = await caller.send(Verb.TOOLS_CALL, name="ask")
    question, parts = await question_of(exchange)
    for stranger in (other(caller, who=BOB), other(caller, session="s-2"), other(caller, client=MODERN, session=None)):
        with pytest.raises(UpstreamFailed, match="no longer has the session"):
            await answer(stranger, question, b"{}")
        await stranger.call("echo")  # has a process of its own now
        with pytest.raises(UpstreamFailed, match="no longer has the request"):
            await answer(stranger, question, b"{}")
    with pytest.raises(InvalidRequest):
        await caller.ask(Verb.ANSWER, forwarded={"result": b"{}"})
    await answer(caller, question, b'{"mine":true}')
    assert text_of(await anext(parts))["q1"] == {"mine": True}
    await exchange.aclose(None)


@pytest.mark.requirement("stdio:server-requests")
@pytest.mark.parametrize(
    "facts",
    [
        {"client": LEGACY},
        {"client": dataclasses.replace(LEGACY, capabilities=b'"none"')},
        {"client": dataclasses.replace(MODERN, capabilities=b'{"elicitation":{}}'), "session": None},
        {"client": None, "session": None, "who": SYSTEM},
    ],
    ids=["undeclared", "malformed", "modern", "own"],
)
async def test_who_cannot_be_asked_is_not_asked(serve: Serve, facts: Mapping[str, Any]) -> None:
    answers = json.loads((await other(serve(), **facts).call("ask")).text)
    assert answers["q1"]["code"] == -32601
    assert answers["q2"] == {}


@pytest.mark.requirement("stdio:server-requests")
@pytest.mark.parametrize("closed", [Killed("killed"), WorldMoved()], ids=["killed", "moved"])
async def test_an_answer_passes_the_gate_and_can_be_given_again_when_the_world_moved(
    serve: Serve, closed: BaseException
) -> None:
    caller = serve()
    exchange = await caller.send(Verb.TOOLS_CALL, name="ask")
    question, parts = await question_of(exchange)
    with pytest.raises(type(closed)):
        await answer(caller, question, b'{"first":1}', gate=CountingGate(closed=closed))
    await answer(caller, question, b'{"second":1}')
    assert text_of(await anext(parts))["q1"] == {"second": 1}
    await exchange.aclose(None)


@pytest.mark.requirement("stdio:server-requests")
async def test_a_question_that_is_withdrawn_or_whose_call_is_over_is_not_open(serve: Serve) -> None:
    caller = serve()
    seen = await caller.call("withdraw")
    assert (seen.kinds, seen.text) == (["opened", "event", "last"], '"done"')
    with pytest.raises(UpstreamFailed, match="no longer has the request"):
        await answer(caller, seen.events[0], b"{}")
    exchange = await caller.send(Verb.TOOLS_CALL, name="leave")
    question, _ = await question_of(exchange)
    await exchange.aclose(None)
    with pytest.raises(UpstreamFailed, match="no longer has the request"):
        await answer(caller, question, b"{}")


@pytest.mark.requirement("stdio:server-requests")
async def test_a_process_that_waits_for_its_client_is_not_silent(serve: Serve) -> None:
    caller = serve(limits=LIMITS.model_copy(update={"stream_idle_s": 0.05}))
    exchange = await caller.send(Verb.TOOLS_CALL, name="leave")
    question, parts = await question_of(exchange)
    waiting = asyncio.ensure_future(anext(parts))
    assert await asyncio.wait([waiting], timeout=0.2) == (set(), {waiting})
    waiting.cancel()
    await asyncio.wait([waiting])
    await exchange.aclose(None)
    exchange = await caller.send(Verb.TOOLS_CALL, name="leave")
    question, parts = await question_of(exchange)
    await answer(caller, question, b"{}")
    with anyio.fail_after(5), pytest.raises(UpstreamTimeout):
        await anext(parts)
    await exchange.aclose(None)


@pytest.mark.requirement("stdio:server-requests")
async def test_a_process_that_dies_takes_its_questions_with_it(serve: Serve, clock: HandClock) -> None:
    caller = serve()
    exchange = await caller.send(Verb.TOOLS_CALL, name="leave")
    question, parts = await question_of(exchange)
    with pytest.raises(UpstreamFailed, match="exit status 3"):
        await caller.call("die")
    with pytest.raises(UpstreamFailed, match="exit status 3"):
        await anext(parts)
    await exchange.aclose(None)
    with pytest.raises(UpstreamUnreachable, match="not started again"):
        await caller.call("echo")
    clock.now += 1
    second = await caller.send(Verb.TOOLS_CALL, name="leave")  # whose question has the same id at the server
    with pytest.raises(UpstreamFailed, match="no longer has"):
        await answer(caller, question, b"{}")
    await second.aclose(None)


@pytest.mark.requirement("stdio:listening")
async def test_log_messages_come_with_the_call_and_the_rest_where_the_client_listens(
    serve: Serve, changed: list[tuple[str, str]]
) -> None:
    caller = serve()
    alone = await caller.call("log")
    assert [event["method"] for event in alone.events] == [
        "notifications/message",
        "notifications/message",
        "notifications/prompts/list_changed",
    ]
    stream = await caller.send(Verb.STREAM)
    parts = aiter(stream)
    assert (await anext(parts)).kind is PartKind.OPENED
    called = await caller.call("log")
    assert [event["params"]["level"] for event in called.events] == ["debug", "warning"]
    assert json.loads((await anext(parts)).body)["method"] == "notifications/prompts/list_changed"
    assert changed == [("srv", "prompts")] * 2
    subscribed = await caller.ask(Verb.RESOURCES_SUBSCRIBE, name="test://x")
    assert (subscribed.kinds, subscribed.result) == (["whole"], {})
    updated = json.loads((await anext(parts)).body)
    assert (updated["method"], updated["params"]) == ("notifications/resources/updated", {"uri": "test://x"})
    await stream.aclose(None)


@pytest.mark.requirement("stdio:listening")
async def test_a_stream_ends_with_its_process_and_the_next_one_hears_the_next(serve: Serve, clock: HandClock) -> None:
    caller = serve(limits=LIMITS.model_copy(update={"stream_s": 0.3}))
    stream = await caller.send(Verb.STREAM)
    with pytest.raises(UpstreamFailed):
        await caller.call("die")
    assert [(part.kind, part.body) async for part in aiter(stream)] == [(PartKind.OPENED, b""), (PartKind.LAST, b"")]
    await stream.aclose(None)
    with pytest.raises(UpstreamUnreachable, match="not started again"):
        await caller.send(Verb.STREAM)
    clock.now += 1
    with anyio.fail_after(5):
        assert (await caller.ask(Verb.STREAM)).kinds == ["opened", "last"]  # for as long as a stream may be


@pytest.mark.requirement("stdio:listening")
async def test_a_client_sets_the_level_and_says_that_its_roots_changed(serve: Serve) -> None:
    caller = serve()
    assert (await caller.ask(Verb.ROOTS_CHANGED)).last.status == 202  # there is no process yet to tell
    assert (await caller.ask(Verb.SET_LEVEL, forwarded={"level": b'"error"'})).result == {}
    assert (await caller.ask(Verb.ROOTS_CHANGED)).last.status == 202
    assert (await caller.ask(Verb.PROGRESS, forwarded={"progressToken": b"7", "progress": b"1"})).last.status == 202
    told = json.loads((await caller.call("requests")).text)
    assert [(r["method"], r["params"]) for r in told[2:-1]] == [
        ("logging/setLevel", {"level": "error"}),
        ("notifications/roots/list_changed", {}),
        ("notifications/progress", {"progressToken": 7, "progress": 1}),
    ]


@pytest.mark.requirement("stdio:listening")
async def test_a_modern_client_hears_of_its_own_call_alone_and_from_its_level_on(serve: Serve) -> None:
    caller = other(serve(), client=MODERN, session=None)
    assert (await caller.call("log")).kinds == ["whole"]
    logged = (await caller.known(log_level="info").call("log")).events
    assert [event["params"]["level"] for event in logged] == ["warning"]


# How many there are, and how they end


@pytest.mark.requirement("stdio:bounded")
async def test_the_process_unused_for_longest_makes_room_and_none_that_is_in_use(
    serve: Serve, clock: HandClock
) -> None:
    caller = serve(max_processes=3)
    pids = []
    for number in range(3):
        clock.now += 1
        pids.append(await pid_of(other(caller, session=f"s-{number}")))
    clock.now += 1
    assert await pid_of(other(caller, session="s-0")) == pids[0]
    await about(other(caller, session="s-3"))
    await until_gone(pids[1])
    hanging = await other(caller, session="s-0").send(Verb.TOOLS_CALL, name="hang")
    listening = await other(caller, session="s-2").send(Verb.STREAM)
    assert await pid_of(other(caller, session="s-2")) == pids[2]
    asking = await other(caller, session="s-3").send(Verb.TOOLS_CALL, name="leave")
    with pytest.raises(RateLimited, match=r"in use \(3\)") as full:
        await other(caller, session="s-4").call("echo")
    assert full.value.data == {"retry_after_s": 5}
    await asking.aclose(None)
    assert (await other(caller, session="s-4").call("echo")).text == "{}"
    for exchange in (hanging, listening):
        await exchange.aclose(None)


@pytest.mark.requirement("stdio:bounded")
async def test_the_gateways_own_questions_take_no_clients_process(serve: Serve, clock: HandClock) -> None:
    caller = serve("dual", max_processes=1)
    system = other(caller, who=SYSTEM, session=None, client=None)
    pids = [await pid_of(caller), await pid_of(system)]
    hanging = await caller.send(Verb.TOOLS_CALL, name="hang")
    assert [await pid_of(caller), await pid_of(system)] == pids
    for verb in (Verb.LISTEN, Verb.STREAM):
        with pytest.raises(MethodNotAllowed):
            await system.ask(verb, forwarded={"notifications": b'{"toolsListChanged":true}', "#id": b"1"})
    clock.now += 301
    servers_of(caller).sweep()
    await until_gone(pids[1])
    assert await pid_of(caller) == pids[0]
    await hanging.aclose(None)


@pytest.mark.requirement("stdio:bounded")
async def test_what_is_ending_counts(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcpgw.upstream.stdio_process.TERM_S", 0.3)
    caller = serve("legacy", "stubborn", max_processes=1)
    pid = await pid_of(caller)
    exchange = await caller.send(Verb.TOOLS_CALL, name="line")  # it sleeps, and does not read that its input ends
    await exchange.aclose(None)
    second = asyncio.create_task(about(other(caller, session="s-2")))
    assert (await second)["pid"] != pid
    assert state_of(pid) == "gone"


@pytest.mark.requirement("stdio:bounded")
async def test_a_process_that_nobody_uses_is_ended(serve: Serve, clock: HandClock) -> None:
    caller = serve(idle_s=300)
    idle = await pid_of(caller)
    busy = await pid_of(other(caller, session="s-2"))
    hanging = await other(caller, session="s-2").send(Verb.TOOLS_CALL, name="hang")
    heard = await pid_of(other(caller, session="s-3"))
    listening = await other(caller, session="s-3").send(Verb.STREAM)
    clock.now += 300
    servers_of(caller).sweep()
    assert await pid_of(caller) == idle
    clock.now += 301
    servers_of(caller).sweep()
    await until_gone(idle)
    assert (await pid_of(other(caller, session="s-2")), await pid_of(other(caller, session="s-3"))) == (busy, heard)
    for exchange in (hanging, listening):
        await exchange.aclose(None)
    clock.now += 301
    servers_of(caller).sweep()
    await until_gone(busy)
    await until_gone(heard)
    assert await pid_of(caller) != idle


@pytest.mark.requirement("stdio:ending")
async def test_a_process_ends_with_the_session_that_it_is_for(serve: Serve) -> None:
    caller = serve()
    pid, kept = await pid_of(caller), await pid_of(other(caller, session="s-2"))
    assert (await caller.ask(Verb.END_SESSION)).last.status == 202
    servers_of(caller).end_session("s-1")
    await until_gone(pid)
    assert await pid_of(other(caller, session="s-2")) == kept
    shared = serve(per="principal")
    pid = await pid_of(shared)
    servers_of(shared).end_session("s-1")
    assert await pid_of(shared) == pid


@pytest.mark.requirement("stdio:ending")
@pytest.mark.parametrize(
    ("scope", "selector", "left"),
    [
        (Scope.PRINCIPAL, ALICE.selector, {"bob"}),
        (Scope.CLIENT, ALICE.client_id, set()),
        (Scope.SERVER, "srv", set()),
        (Scope.GLOBAL, "*", set()),
        (Scope.TOOL, "srv/echo", {"alice", "bob"}),
        (Scope.PRINCIPAL, "test|carol", {"alice", "bob"}),
    ],
)
async def test_a_kill_ends_the_processes_that_serve_nobody_else(
    serve: Serve, scope: Scope, selector: str, left: set[str]
) -> None:
    caller = serve()
    callers = {"alice": caller, "bob": other(caller, who=BOB)}
    pids = {name: await pid_of(own) for name, own in callers.items()}
    running = asyncio.create_task(caller.call("hang"))
    await caller.call("echo")
    target = Target.of(permit(caller.target, Verb.TOOLS_LIST).judged.action)
    with anyio.fail_after(5):
        await servers_of(caller).end_killed(Switches([switch(scope, selector)]), target)
    for name, pid in pids.items():
        assert (state_of(pid) in {"gone", "Z"}) is (name not in left)
    if "alice" not in left:
        with anyio.fail_after(5), pytest.raises(UpstreamFailed, match="was stopped"):
            await running
    running.cancel()
    await asyncio.wait([running])


@pytest.mark.requirement("stdio:ending")
async def test_all_processes_of_a_server_are_stopped_together_with_those_that_begin(serve: Serve) -> None:
    caller = serve()
    pids = [await pid_of(other(caller, session=f"s-{n}")) for n in range(3)]
    starting = asyncio.create_task(other(caller, session="s-4").call("echo"))
    await asyncio.sleep(0)
    with anyio.fail_after(5):
        await servers_of(caller).stop("srv")
        with pytest.raises(UpstreamUnreachable, match="is being stopped"):
            await starting
    for pid in pids:
        await until_gone(pid)
    assert await pid_of(caller) not in pids  # the next call starts another, at once


# A modern process


@pytest.mark.requirement("stdio:input-required")
@pytest.mark.parametrize("per", ["shared", "principal", "session"])
async def test_a_modern_process_asks_a_modern_client_by_its_answer(serve: Serve, per: str) -> None:
    able = dataclasses.replace(MODERN, capabilities=b'{"elicitation":{"form":{}}}')
    caller = other(serve("modern", per=per), client=able, session=None)
    wanted = (await caller.call("input")).result
    assert wanted["resultType"] == "input_required"
    assert wanted["inputRequests"] == {"name": {"method": "elicitation/create", "params": {"message": "who?"}}}
    answers = b'{"name":{"action":"accept","content":{"name":"Ada"}}}'
    forwarded = {"inputResponses": answers, "requestState": b'"state-1"'}
    answered = json.loads((await caller.call("input", forwarded=forwarded)).text)
    assert answered == {"answers": json.loads(answers), "state": "state-1"}
    told = json.loads((await caller.call("requests")).text)
    capabilities = told[-1]["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"]
    assert capabilities == {"elicitation": {"form": {}}}
