"""Clients of the handshake era in front of processes that speak 2026-07-28 alone."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import anyio
import pytest

from mcpgw.config import StdioServer
from mcpgw.domain import Arguments, Part, PartKind, Transport, Verb
from mcpgw.errors import Cancelled, InvalidRequest, Killed, MethodNotFound, UpstreamFailed, UpstreamUnreachable
from mcpgw.upstream import mcp_for_legacy_stream
from mcpgw.upstream.stdio import StdioServers
from tests.upstream.calls import BOB, LEGACY, LIMITS, Caller, CountingGate, HandClock, version
from tests.upstream.stateless import answer, answered, next_question
from tests.upstream.test_mcp_for_legacy_stream import PROMPTS, UPDATED, reading, subscription
from tests.upstream.test_stdio import LINES, servers_of

ABLE = dataclasses.replace(LEGACY, capabilities=b'{"elicitation":{}}')
ADA = b'{"action":"accept","content":{"name":"Ada"}}'
WATCHED = "test://x"
PER = ["shared", "principal", "session"]
Serve = Callable[..., Caller]


@pytest.fixture
async def serve(clock: HandClock) -> AsyncIterator[Serve]:
    """Declare a line server and return a caller of it with a session; its processes end with the test."""
    async with AsyncExitStack() as stack:

        def declare(per: str = "session") -> Caller:
            command = (sys.executable, "-IS", str(LINES), "modern")
            entry = StdioServer.model_validate({"name": "srv", "command": command, "per": per})
            servers = StdioServers([entry], LIMITS, clock, lambda name, kind: None)
            stack.push_async_callback(servers.aclose)
            return Caller(servers, version("srv", transport=Transport.STDIO), client=ABLE, session="s-1")

        yield declare


def other(caller: Caller, **facts: Any) -> Caller:
    return dataclasses.replace(caller, **facts)


async def requests_of(caller: Caller) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((await caller.call("requests")).text)
    return found


# What it asks


@pytest.mark.requirement("stdio:across")
@pytest.mark.parametrize("per", PER)
async def test_what_a_process_asks_is_asked_on_the_stream_and_the_call_made_again_with_the_answer(
    serve: Serve, per: str
) -> None:
    caller = serve(per)
    exchange = await caller.send(Verb.TOOLS_CALL, name="input", arguments=Arguments(b"{}"))
    seen = await answered(caller, exchange, {"elicitation/create": ADA})
    assert (seen.kinds[0], seen.kinds[-1]) == ("opened", "last")
    assert json.loads(seen.text) == {"answers": {"name": json.loads(ADA)}, "state": "state-1"}
    assert seen.last.facts == {"era": "modern", "rounds": 2}
    first, second = [r["params"] for r in await requests_of(caller) if r.get("params", {}).get("name") == "input"]
    assert first["_meta"]["io.modelcontextprotocol/clientCapabilities"] == {"elicitation": {}}
    assert (second["inputResponses"], second["requestState"]) == ({"name": json.loads(ADA)}, "state-1")


@pytest.mark.requirement("stdio:across")
async def test_a_question_is_answered_by_the_session_that_was_asked_alone(serve: Serve) -> None:
    caller = serve("shared")
    exchange = await caller.send(Verb.TOOLS_CALL, name="input")
    asked = await next_question(exchange)
    for stranger in (other(caller, who=BOB), other(caller, session="s-2")):
        with pytest.raises(UpstreamFailed, match="no longer has the request"):
            await answer(stranger, asked["id"], ADA)
    with pytest.raises(Killed):
        forwarded = {"id": json.dumps(asked["id"]).encode(), "result": ADA}
        await caller.ask(Verb.ANSWER, CountingGate(closed=Killed("killed")), forwarded=forwarded)
    assert (await answer(caller, asked["id"], ADA)).last.status == 202
    with pytest.raises(InvalidRequest):
        await answer(caller, asked["id"], ADA)
    parts = [part async for part in exchange]
    await exchange.aclose(None)
    assert json.loads(json.loads(parts[-1].body)["content"][0]["text"])["state"] == "state-1"


@pytest.mark.requirement("stdio:across")
async def test_who_cannot_be_asked_is_told_what_was_wanted(serve: Serve) -> None:
    caller = other(serve(), client=LEGACY)
    seen = await caller.call("input")
    assert seen.last.failed
    assert "did not declare that it can" in seen.result["content"][0]["text"]


@pytest.mark.requirement("stdio:across")
async def test_a_retry_that_may_not_be_written_ends_the_call(serve: Serve) -> None:
    caller, gate = serve(), CountingGate()
    exchange = await caller.send(Verb.TOOLS_CALL, gate, name="input")
    asked = await next_question(exchange)
    gate.closed = Killed("killed")
    await answer(caller, asked["id"], ADA)
    with pytest.raises(Killed):
        [part async for part in exchange]
    await exchange.aclose(gate.closed)
    assert [r["params"]["name"] for r in await requests_of(caller) if r.get("method") == "tools/call"] == [
        "input",
        "requests",
    ]


# What it says meanwhile


@pytest.mark.requirement("stdio:across")
async def test_progress_comes_under_the_clients_own_token(serve: Serve) -> None:
    seen = await serve("shared").known(meta=b'{"progressToken":"mine"}').call("progress")
    assert [event["params"] for event in seen.events] == [
        {"progressToken": "mine", "progress": step, "vendor": 1} for step in (1, 2)
    ]
    assert seen.text == '"int"'


@pytest.mark.requirement("stdio:across")
@pytest.mark.parametrize("per", ["principal", "session"])
async def test_log_messages_are_those_of_the_level_that_the_session_has_set(serve: Serve, per: str) -> None:
    caller = serve(per)
    assert (await caller.call("log_level")).kinds == ["whole"]
    assert (await caller.ask(Verb.SET_LEVEL, forwarded={"level": b'"info"'})).result == {}
    seen = await caller.call("log_level")
    assert [event["params"]["level"] for event in seen.events] == ["info", "warning"]
    assert (await other(caller, session="s-2").call("log_level")).kinds == ["whole"]
    servers_of(caller).end_session("s-1")
    assert (await caller.call("log_level")).kinds == ["whole"]


@pytest.mark.requirement("stdio:across")
async def test_a_shared_process_has_no_log_for_anybody(serve: Serve) -> None:
    caller = serve("shared")
    assert "logging" not in (await caller.ask(Verb.INITIALIZE)).result["capabilities"]
    with pytest.raises(MethodNotFound):
        await caller.ask(Verb.SET_LEVEL, forwarded={"level": b'"info"'})


@pytest.mark.requirement("stdio:across")
async def test_a_call_that_nobody_waits_for_is_cancelled(serve: Serve) -> None:
    caller = serve()
    exchange = await caller.send(Verb.TOOLS_CALL, name="hang")
    await exchange.aclose(Cancelled("cancelled"))
    await anyio.wait_all_tasks_blocked()
    requests = await requests_of(caller)
    hanging = next(r for r in requests if r.get("params", {}).get("name") == "hang")
    cancelled = [r["params"] for r in requests if r.get("method") == "notifications/cancelled"]
    assert cancelled == [{"requestId": hanging["id"]}]


# What changes


@pytest.mark.requirement("stdio:across")
@pytest.mark.parametrize("per", PER)
async def test_what_changes_is_told_on_the_stream_of_each_session_as_it_asked(serve: Serve, per: str) -> None:
    caller = serve(per)
    assert (await caller.ask(Verb.INITIALIZE)).result["capabilities"]["resources"] == {"subscribe": True}
    second = other(caller, session="s-2")
    async with reading(caller) as mine, reading(second) as others:
        await caller.ask(**subscription(WATCHED))
        for one, stream in ((caller, mine), (second, others)):
            await one.call("change")
            assert (await stream.next())["method"] == PROMPTS
        assert await mine.next() == {"jsonrpc": "2.0", "method": UPDATED, "params": {"uri": WATCHED}}
        await caller.ask(**subscription(WATCHED, Verb.RESOURCES_UNSUBSCRIBE))


@pytest.mark.requirement("stdio:across")
async def test_a_stream_goes_on_with_the_next_process(
    serve: Serve, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mcp_for_legacy_stream, "RELISTEN_S", 0.01)
    caller = serve()
    async with reading(caller) as stream:
        await caller.call("change")
        assert (await stream.next())["method"] == PROMPTS
        with pytest.raises(UpstreamFailed):
            await caller.call("die")
        with pytest.raises(UpstreamUnreachable, match="not started again"):
            await caller.call("echo")
        clock.now += 1
        told = asyncio.ensure_future(stream.next())  # which listens again
        with anyio.fail_after(5):
            while await heard(caller) == 0:
                await asyncio.sleep(0)
            assert (await told)["method"] == PROMPTS


async def heard(caller: Caller) -> int:
    """Change something; return how many listeners the process has told."""
    try:
        return int((await caller.call("change")).text)
    except UpstreamUnreachable:
        return 0


@pytest.mark.requirement("stdio:across")
async def test_a_stream_that_is_let_go_of_ends_at_the_process(serve: Serve) -> None:
    caller = serve()
    exchange = await caller.send(Verb.STREAM)
    opened: Part = await anext(aiter(exchange))
    assert (opened.kind, opened.facts) == (PartKind.OPENED, {"era": "modern"})
    assert await heard(caller) == 1
    await exchange.aclose(None)
    with anyio.fail_after(5):
        while await heard(caller):
            await asyncio.sleep(0)
