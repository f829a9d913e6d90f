"""Sessions, streams and cancellation towards servers of the handshake era, byte by byte."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from typing import Any

import anyio
import pytest

from mcpgw.domain import PartKind, Verb
from mcpgw.errors import (
    Cancelled,
    ClientGone,
    InvalidRequest,
    Killed,
    MethodNotAllowed,
    UpstreamFailed,
    UpstreamTimeout,
    WorldMoved,
)
from mcpgw.upstream.http import HttpClient
from mcpgw.upstream.mcp_http import McpHttpUpstream
from tests.eventually import eventually
from tests.fixtures.raw_http import Peer, answer
from tests.upstream.calls import LEGACY, LIMITS, Caller, CountingGate, HandClock, mcp_http, version
from tests.upstream.scripted import (
    END,
    STREAM,
    Asked,
    Handshaking,
    event,
    plain,
    refusal,
    reply,
    result_of,
    said,
    scripted,
)


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return "asyncio", {"use_uvloop": request.param}


def caller_of(upstream: McpHttpUpstream, url: str) -> Caller:
    return Caller(upstream, version(url), client=LEGACY, session="s-1")


@pytest.mark.requirement("upstream:sessions")
async def test_a_handshake_says_what_the_client_says_and_each_request_names_the_session(
    upstream: McpHttpUpstream,
) -> None:
    async with scripted(Handshaking("2025-06-18")) as server:
        caller = caller_of(upstream, server.url).known(capabilities=b'{"roots":{}}', protocol_version="2025-06-18")
        initialized = await caller.ask(Verb.INITIALIZE)
        assert initialized.result["serverInfo"] == {"name": "scripted", "version": "1"}
        await caller.ask(Verb.INITIALIZED)
        await caller.ask(Verb.INITIALIZED)
        await caller.call("t")
        await caller.ask(Verb.SET_LEVEL, forwarded={"level": b'"info"'})
    assert server.verbs == ["initialize", "notifications/initialized", "tools/call", "logging/setLevel"]
    assert server.asked[0].params == {
        "protocolVersion": "2025-06-18",
        "capabilities": {"roots": {}},
        "clientInfo": {"name": "tester", "version": "1"},
    }
    assert "mcp-session-id" not in server.asked[0].headers
    for asked in server.asked[1:]:
        assert asked.headers["mcp-session-id"] == "session-1"
        assert asked.headers["mcp-protocol-version"] == "2025-06-18"
    assert server.asked[3].params == {"level": "info"}


@pytest.mark.requirement("upstream:sessions")
async def test_a_server_without_session_ids_gets_none(upstream: McpHttpUpstream) -> None:
    async with scripted(Handshaking(session=None)) as server:
        await caller_of(upstream, server.url).call("t")
        await caller_of(upstream, server.url).call("t")
    assert server.verbs == ["initialize", "notifications/initialized", "tools/call", "tools/call"]
    assert not any("mcp-session-id" in asked.headers for asked in server.asked)


@pytest.mark.requirement("upstream:sessions")
@pytest.mark.parametrize(
    "lost",
    [
        answer(b"", status=b"404 Not Found"),
        refusal(-32000, "Bad Request: No valid session ID provided", id=1),
        refusal(-32600, "Session terminated", status=b"404 Not Found"),
    ],
    ids=["404", "typescript-sdk", "python-sdk"],
)
async def test_a_lost_session_is_opened_again_once_and_the_call_sent_again(
    upstream: McpHttpUpstream, lost: bytes
) -> None:
    forgetful = True

    async def call(asked: Asked, peer: Peer) -> bytes:
        if forgetful and handshaking.opened == 1:
            return lost
        return reply(asked, plain("fine"))

    handshaking = Handshaking(tools_call=call)
    async with scripted(handshaking) as server:
        gate = CountingGate()
        assert (await caller_of(upstream, server.url).call("t", gate=gate)).text == "fine"
        assert server.verbs == ["initialize", "notifications/initialized", "tools/call"] * 2
        assert gate.passed == 6


@pytest.mark.requirement("upstream:sessions")
async def test_a_server_that_loses_every_session_fails_the_call(upstream: McpHttpUpstream) -> None:
    async def call(asked: Asked, peer: Peer) -> bytes:
        return answer(b"", status=b"404 Not Found")

    async with scripted(Handshaking(tools_call=call)) as server:
        with pytest.raises(UpstreamFailed) as failed:
            await caller_of(upstream, server.url).call("t")
        assert failed.value.data == {"cause": "session_lost"}
        assert len(server.of("tools/call")) == 2


@pytest.mark.requirement("upstream:sessions")
async def test_idle_sessions_and_those_of_a_client_that_is_gone_are_forgotten(
    upstream: McpHttpUpstream, clock: HandClock
) -> None:
    handshaking = Handshaking()
    async with scripted(handshaking) as server:
        caller = caller_of(upstream, server.url)
        await caller.call("t")
        clock.now += LIMITS.session_idle_s - 1
        await caller.call("t")
        assert handshaking.opened == 1
        clock.now += LIMITS.session_idle_s + 1
        await caller.call("t")
        assert handshaking.opened == 2
        upstream.end_session("s-1")
        await caller.call("t")
        assert handshaking.opened == 3


@pytest.mark.requirement("upstream:sessions")
async def test_there_are_no_more_sessions_than_allowed(clock: HandClock) -> None:
    limits = LIMITS.model_copy(update={"sessions": 2})
    http = HttpClient(limits, lambda address: True)
    upstream = mcp_http(http, clock, limits)
    handshaking = Handshaking()
    async with scripted(handshaking) as server:
        for session in ("a", "b", "a", "c", "a", "b"):
            await dataclasses.replace(caller_of(upstream, server.url), session=session).call("t")
        assert handshaking.opened == 4  # b was unused for longest when c came
    await http.aclose()


@pytest.mark.requirement("upstream:sessions")
async def test_calls_at_once_share_one_handshake(upstream: McpHttpUpstream) -> None:
    handshaking = Handshaking()
    async with scripted(handshaking) as server:
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(caller_of(upstream, server.url).call, "t")
        assert handshaking.opened == 1
        assert len(server.of("notifications/initialized")) == 1


@pytest.mark.requirement("upstream:sessions")
@pytest.mark.parametrize("session", ["has space", "é", "x" * 2000])
async def test_a_session_id_that_no_header_can_carry_fails_the_handshake(
    upstream: McpHttpUpstream, session: str
) -> None:
    async with scripted(Handshaking(session=session)) as server:
        with pytest.raises(UpstreamFailed, match="session id"):
            await caller_of(upstream, server.url).call("t")


@pytest.mark.requirement("upstream:sessions")
async def test_the_refusal_of_a_handshake_is_the_clients_to_read(upstream: McpHttpUpstream) -> None:
    async def initialize(asked: Asked, peer: Peer) -> bytes:
        return refusal(-32602, "not this version", id=asked.id, status=b"200 OK")

    async with scripted(Handshaking(initialize=initialize)) as server:
        refused = (await caller_of(upstream, server.url).ask(Verb.INITIALIZE)).last
        assert (refused.error_code, json.loads(refused.body)["message"]) == (-32602, "not this version")
        with pytest.raises(UpstreamFailed, match="refused the handshake"):
            await caller_of(upstream, server.url).call("t")


@pytest.mark.requirement("upstream:notifications")
async def test_notifications_are_posted_in_the_session_and_answered_with_nothing(upstream: McpHttpUpstream) -> None:
    async with scripted(Handshaking()) as server:
        caller = caller_of(upstream, server.url)
        for verb, facts in NOTIFIED:
            assert (await caller.ask(verb, **facts)).last.status == 202  # no session yet: nobody to tell
        assert server.asked == []
        await caller.ask(Verb.INITIALIZE)
        for verb, facts in NOTIFIED:
            seen = await caller.ask(verb, **facts)
            assert (seen.kinds, seen.last.body) == (["whole"], b"")
    assert [a.message for a in server.asked[1:]] == [
        said("notifications/progress", progressToken=1, progress=2),
        said("notifications/roots/list_changed"),
        said("notifications/cancelled", requestId=17, reason="enough"),
    ]


NOTIFIED: list[tuple[Verb, dict[str, Any]]] = [
    (Verb.PROGRESS, {"forwarded": {"progressToken": b"1", "progress": b"2"}}),
    (Verb.ROOTS_CHANGED, {}),
    (Verb.CANCELLED, {"name": "17", "forwarded": {"requestId": b"1", "reason": b'"enough"'}}),
    (Verb.CANCELLED, {"forwarded": {"requestId": b"1"}}),
]


@pytest.mark.requirement("upstream:server-requests")
async def test_only_the_closed_table_of_server_requests_is_relayed(upstream: McpHttpUpstream) -> None:
    questions = ["elicitation/create", "sampling/createMessage", "roots/list", "ping", "tools/list", "x/y"]

    async def call(asked: Asked, peer: Peer) -> None:
        await peer.write(STREAM)
        for number, method in enumerate(questions):
            await peer.write(event({**said(method), "id": f"q{number}"}))
        await peer.write(event(result_of(asked, plain("fine"))) + END)

    async with scripted(Handshaking(tools_call=call)) as server:
        seen = await caller_of(upstream, server.url).call("t")
        assert [(e["method"], e["id"]) for e in seen.events] == [
            ("elicitation/create", "q0"),
            ("sampling/createMessage", "q1"),
            ("roots/list", "q2"),
        ]
        answered = {a.id: a.message for a in server.of("answer")}
    assert answered["q3"]["result"] == {}
    assert answered["q4"]["error"]["code"] == answered["q5"]["error"]["code"] == -32601
    assert len(answered) == 3


@pytest.mark.requirement("upstream:server-requests")
async def test_an_answer_of_the_client_is_posted_as_it_is(upstream: McpHttpUpstream) -> None:
    async with scripted(Handshaking()) as server:
        caller = caller_of(upstream, server.url)
        with pytest.raises(UpstreamFailed, match="no longer has the session"):
            await caller.ask(Verb.ANSWER, forwarded={"id": b'"q0"', "result": b"{}"})
        await caller.ask(Verb.INITIALIZE)
        await caller.ask(Verb.ANSWER, forwarded={"id": b'"q0"', "result": b'{"action":"accept"}'})
        await caller.ask(Verb.ANSWER, forwarded={"id": b"4", "error": b'{"code":-1,"message":"no"}'})
        with pytest.raises(InvalidRequest):
            await caller.ask(Verb.ANSWER, forwarded={"id": b"4"})
    assert [a.message for a in server.of("answer")] == [
        {"jsonrpc": "2.0", "id": "q0", "result": {"action": "accept"}},
        {"jsonrpc": "2.0", "id": 4, "error": {"code": -1, "message": "no"}},
    ]


@pytest.mark.requirement("upstream:streams")
async def test_a_server_without_a_stream_of_its_own_says_so(upstream: McpHttpUpstream) -> None:
    async def get(asked: Asked, peer: Peer) -> bytes:
        return answer(b"", status=b"405 Method Not Allowed")

    async with scripted(Handshaking(GET=get)) as server:
        with pytest.raises(MethodNotAllowed):
            await caller_of(upstream, server.url).send(Verb.STREAM)


@pytest.mark.requirement("upstream:streams")
async def test_a_stream_ends_when_the_server_ends_it_and_holds_no_answers(upstream: McpHttpUpstream) -> None:
    async def get(asked: Asked, peer: Peer) -> bytes:
        stray = {"jsonrpc": "2.0", "id": 1, "result": {}}
        return STREAM + event(stray) + event(said("notifications/resources/updated", uri="x")) + END

    async with scripted(Handshaking(GET=get)) as server:
        seen = await caller_of(upstream, server.url).ask(Verb.STREAM)
    assert seen.kinds == ["opened", "event"]
    assert seen.events[0]["params"] == {"uri": "x"}


@pytest.mark.requirement("upstream:resumption")
async def test_a_stream_is_resumed_after_the_servers_own_delay_from_its_last_event(upstream: McpHttpUpstream) -> None:
    asked_at: dict[str, float] = {}
    running: list[Asked] = []
    now = asyncio.get_running_loop().time

    async def call(asked: Asked, peer: Peer) -> bytes:
        running.append(asked)
        asked_at["closed"] = now()
        first = event(said("notifications/progress", progressToken=1, progress=1), "id: e1")
        return STREAM + event("", "id: e0", "retry: 50") + first + END

    async def get(asked: Asked, peer: Peer) -> bytes:
        asked_at["resumed"] = now()
        if asked.headers["last-event-id"] == "e1":
            return STREAM + event(said("notifications/progress", progressToken=1, progress=2), "id: e2") + END
        return STREAM + event(result_of(running[0], plain("fine")), "id: e3")

    async with scripted(Handshaking(tools_call=call, GET=get)) as server:
        seen = await caller_of(upstream, server.url).call("t")
        assert [e["params"]["progress"] for e in seen.events] == [1, 2]
        assert seen.text == "fine"
        assert [a.headers["last-event-id"] for a in server.of("GET")] == ["e1", "e2"]
    assert asked_at["resumed"] - asked_at["closed"] >= 0.1


@pytest.mark.requirement("upstream:resumption")
async def test_a_stream_that_cannot_be_resumed_fails_its_call(upstream: McpHttpUpstream) -> None:
    async def call(asked: Asked, peer: Peer) -> bytes:
        return STREAM + event("", "id: e0", "retry: 1") + END

    async def nothing(asked: Asked, peer: Peer) -> bytes:
        return STREAM + END

    async def refused(asked: Asked, peer: Peer) -> bytes:
        return answer(b"", status=b"405 Method Not Allowed")

    for get, cause, gets in ((nothing, "cut", 3), (refused, "http_4xx", 1)):
        async with scripted(Handshaking(tools_call=call, GET=get)) as server:
            with pytest.raises(UpstreamFailed) as failed:
                await caller_of(upstream, server.url).call("t")
            assert failed.value.data["cause"] == cause
            assert len(server.of("GET")) == gets


@pytest.mark.requirement("upstream:gate")
async def test_when_the_world_moves_a_call_is_judged_again_before_its_stream_is_resumed(
    upstream: McpHttpUpstream,
) -> None:
    running: list[Asked] = []

    async def call(asked: Asked, peer: Peer) -> bytes:
        running.append(asked)
        return STREAM + event("", "id: e0", "retry: 1") + END

    async def get(asked: Asked, peer: Peer) -> bytes:
        return STREAM + event(result_of(running[0], plain("fine")))

    async with scripted(Handshaking(tools_call=call, GET=get)) as server:
        gate = CountingGate(closed=WorldMoved(), closed_from=3)
        caller = caller_of(upstream, server.url)
        exchange = await caller.send(Verb.TOOLS_CALL, gate, name="t")
        parts = aiter(exchange)
        assert (await anext(parts)).kind is PartKind.OPENED
        assert (await anext(parts)).facts == {"closed": True}
        asking = await anext(parts)
        assert (asking.kind, asking.body, asking.facts) == (PartKind.EVENT, b"", {})
        assert server.of("GET") == []
        gate.closed = None  # the pipeline has judged again
        assert (await anext(parts)).kind is PartKind.LAST
        await exchange.aclose(None)
        gate = CountingGate(closed=Killed("killed"), closed_from=1)
        with pytest.raises(Killed):
            await caller.call("t", gate=gate)
        assert len(server.of("GET")) == 1


@pytest.mark.requirement("upstream:cancellation")
@pytest.mark.parametrize("reason", [ClientGone("gone"), Cancelled("enough"), UpstreamTimeout("late"), None])
async def test_letting_go_of_a_call_tells_the_server_which_request_is_cancelled(
    upstream: McpHttpUpstream, reason: BaseException | None
) -> None:
    gone = asyncio.Event()

    async def call(asked: Asked, peer: Peer) -> None:
        await peer.write(STREAM + event(said("notifications/progress", progressToken=1, progress=1)))
        await peer.gone()
        gone.set()

    async with scripted(Handshaking(tools_call=call)) as server:
        gate = CountingGate()
        exchange = await caller_of(upstream, server.url).send(Verb.TOOLS_CALL, gate, name="t")
        await anext(aiter(exchange))
        gate.closed = reason  # as the board has cut it
        await exchange.aclose(asyncio.CancelledError() if reason is None else reason)
        await eventually(lambda: server.of("notifications/cancelled"))
        cancelled = server.of("notifications/cancelled")[0]
        assert cancelled.params == {"requestId": server.of("tools/call")[0].id}
        assert cancelled.headers["mcp-session-id"] == "session-1"
        with anyio.fail_after(5):
            await gone.wait()


@pytest.mark.requirement("upstream:cancellation")
async def test_after_a_kill_nothing_is_sent_to_the_server(upstream: McpHttpUpstream) -> None:
    gone = asyncio.Event()

    async def call(asked: Asked, peer: Peer) -> None:
        await peer.write(STREAM + event(said("notifications/progress", progressToken=1, progress=1)))
        await peer.gone()
        gone.set()

    async with scripted(Handshaking(tools_call=call)) as server:
        # The board cuts by cancelling the task; only the gate tells a kill from a client that has gone.
        for reason in (Killed("killed"), asyncio.CancelledError()):
            gone.clear()
            gate = CountingGate()
            exchange = await caller_of(upstream, server.url).send(Verb.TOOLS_CALL, gate, name="t")
            await anext(aiter(exchange))
            gate.closed = Killed("killed")
            await exchange.aclose(reason)
            with anyio.fail_after(5):
                await gone.wait()
        await upstream.aclose()
        assert server.of("notifications/cancelled") == []


@pytest.mark.requirement("upstream:cancellation")
async def test_a_call_cancelled_before_its_answer_began_is_cancelled_at_the_server(upstream: McpHttpUpstream) -> None:
    arrived = asyncio.Event()

    async def call(asked: Asked, peer: Peer) -> None:
        arrived.set()
        await peer.gone()

    async with scripted(Handshaking(tools_call=call)) as server:
        task = asyncio.create_task(caller_of(upstream, server.url).call("t"))
        with anyio.fail_after(5):
            await arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await eventually(lambda: server.of("notifications/cancelled"))


@pytest.mark.requirement("upstream:streams")
async def test_a_changed_list_is_told_to_the_gateway(upstream: McpHttpUpstream, changed: list[tuple[str, str]]) -> None:
    async def call(asked: Asked, peer: Peer) -> bytes:
        told = b"".join(event(said(f"notifications/{k}/list_changed")) for k in ("tools", "prompts", "resources"))
        return STREAM + told + event(result_of(asked, plain("fine"))) + END

    async with scripted(Handshaking(tools_call=call)) as server:
        seen = await caller_of(upstream, server.url).call("t")
    assert changed == [("srv", "tools"), ("srv", "prompts"), ("srv", "resources")]
    assert len(seen.events) == 3
