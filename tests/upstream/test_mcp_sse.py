"""Sessions over HTTP+SSE: one for each client, each answer to its own call, what is lost said to be lost."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import anyio
import pytest

from mcpgw.config import LimitsSection
from mcpgw.domain import SYSTEM, PartKind, Scope, Switches, Target, Transport, Verb
from mcpgw.errors import (
    ClientGone,
    GatewayError,
    Killed,
    RateLimited,
    UpstreamFailed,
    UpstreamTimeout,
    UpstreamUnreachable,
    WorldMoved,
)
from mcpgw.upstream.http import HttpClient
from mcpgw.upstream.mcp_sse import SseServers
from tests.eventually import eventually
from tests.fixtures.raw_http import Peer, answer
from tests.parts import switch
from tests.upstream.calls import (
    ALICE,
    BOB,
    LEGACY,
    LIMITS,
    MODERN,
    Caller,
    CountingGate,
    HandClock,
    permit,
    version,
)
from tests.upstream.scripted import ACCEPTED, STREAM, Asked, Scripted, event, plain, result_of, said, scripted
from tests.upstream.sse_server import Conversation, EventServer
from tests.upstream.test_stdio_exclusive import ABLE, other, question_of
from tests.upstream.test_stdio_exclusive import answer as answer_to

Connect = Callable[..., Caller]


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture
async def connect(clock: HandClock, changed: list[tuple[str, str]]) -> AsyncIterator[Connect]:
    """Return a caller, with a session, of the server at a URL."""
    made: list[tuple[SseServers, HttpClient]] = []

    def to(server: Scripted, limits: LimitsSection = LIMITS, **facts: Any) -> Caller:
        http = HttpClient(limits, lambda address: True)
        servers = SseServers(http, limits, clock, lambda name, kind: changed.append((name, kind)))
        made.append((servers, http))
        target = version(server.url, transport=Transport.SSE)
        return Caller(servers, target, **{"client": ABLE, "session": "s-1", **facts})

    yield to
    for servers, http in made:
        await servers.aclose()
        await http.aclose()


def servers_of(caller: Caller) -> SseServers:
    assert isinstance(caller.upstream, SseServers)
    return caller.upstream


def text_of(body: bytes) -> str:
    text: str = json.loads(body)["content"][0]["text"]
    return text


async def never(session: Conversation, asked: Asked) -> None:
    """Do not answer."""


# The session


@pytest.mark.requirement("sse:session")
async def test_a_session_is_opened_greeted_and_used_again(connect: Connect) -> None:
    events = EventServer()
    async with scripted(events) as server:
        caller = connect(server, credential={"authorization": "Bearer ours"})
        initialized = (await caller.ask(Verb.INITIALIZE)).result
        assert (await caller.call("echo")).text == "echo"
        assert (await caller.call("again")).last.facts == {"era": "legacy"}
    assert initialized == {
        "protocolVersion": "2025-03-26",  # the server's own is older than the transport that the client uses
        "capabilities": {"tools": {}, "logging": {}, "resources": {"subscribe": True}},
        "serverInfo": {"name": "events", "version": "1"},
    }
    assert server.verbs == ["GET", "initialize", "notifications/initialized", "tools/call", "tools/call"]
    opening, initialize, *rest = server.asked
    assert opening.headers["accept"] == "text/event-stream"
    assert [asked.target for asked in (initialize, *rest)] == ["/messages?session=0"] * 4
    assert all(asked.headers["authorization"] == "Bearer ours" for asked in server.asked)
    assert [asked.headers["mcp-protocol-version"] for asked in rest] == ["2024-11-05"] * 3
    assert initialize.params == {
        "protocolVersion": "2025-11-25",
        "capabilities": {"elicitation": {}, "roots": {"listChanged": True}},
        "clientInfo": {"name": "tester", "version": "1"},
    }


@pytest.mark.requirement("sse:session")
async def test_a_session_belongs_to_one_client_with_one_server_and_version(connect: Connect) -> None:
    events = EventServer()
    async with scripted(events) as server:
        caller = connect(server)
        modern = other(caller, client=MODERN, session=None)
        callers = [
            caller,
            other(caller, session="s-2"),
            other(caller, who=BOB),
            other(caller, target=dataclasses.replace(caller.target, version="2.0.0")),
            modern,
            modern.known(capabilities=b'{"elicitation":{"url":{}}}'),
            other(caller, who=SYSTEM, client=None, session=None),
            other(caller, credential={"authorization": "Bearer another"}),
        ]
        for own in (*callers, *callers):
            await own.call("echo")
    assert [len(session.asked) for session in events.sessions] == [4] * len(callers)
    assert servers_of(caller).servers_of("s-1") == {"srv"}
    assert servers_of(caller).servers_of("s-3") == frozenset()


@pytest.mark.requirement("sse:session")
async def test_calls_at_once_open_one_session(connect: Connect) -> None:
    events = EventServer()
    async with scripted(events) as server:
        caller = connect(server)
        with anyio.fail_after(5):
            seen = await asyncio.gather(*(caller.call(f"tool-{n}") for n in range(20)))
    assert [one.text for one in seen] == [f"tool-{n}" for n in range(20)]
    assert len(events.sessions) == 1


@pytest.mark.requirement("sse:endpoint")
@pytest.mark.parametrize(
    ("endpoint", "target"),
    [
        ("messages?session={n}", "/messages?session=0"),
        ("/a/../messages/?x=1&session={n}", "/messages/?x=1&session=0"),
        ("?session={n}", "/mcp?session=0"),
        ("{origin}/messages?session={n}", "/messages?session=0"),
        ("//{authority}/m?session={n}", "/m?session=0"),
    ],
)
async def test_where_messages_go_may_be_relative_to_the_stream(connect: Connect, endpoint: str, target: str) -> None:
    events = EventServer()
    async with scripted(events) as server:
        origin = server.url.removesuffix("/mcp")
        events.endpoint = endpoint.replace("{origin}", origin).replace("{authority}", origin.removeprefix("http://"))
        assert (await connect(server).call("echo")).text == "echo"
    assert {asked.target for asked in server.asked[1:]} == {target}


@pytest.mark.requirement("sse:endpoint")
@pytest.mark.parametrize(
    "endpoint",
    [
        "http://127.0.0.1:1/messages?session={n}",
        "https://127.0.0.1/messages?session={n}",
        "//evil.example/messages?session={n}",
        "http://localhost:{port}/messages?session={n}",
        "file:///etc/passwd",
        "http://user@127.0.0.1:{port}/messages",
        "/messages#fragment",
        "/m\u00e4ssages",
        "http://[",
    ],
)
async def test_messages_go_to_the_streams_own_origin_and_nowhere_else(connect: Connect, endpoint: str) -> None:
    events = EventServer()
    async with scripted(events) as server:
        port = server.url.rpartition(":")[2].removesuffix("/mcp")
        events.endpoint = endpoint.replace("{port}", port)
        with anyio.fail_after(5), pytest.raises(UpstreamFailed) as refused:
            await connect(server).call("echo")
        assert refused.value.data["cause"] in {"foreign_endpoint", "bad_endpoint"}
        with anyio.fail_after(5):
            await events.sessions[0].over.wait()
    assert server.verbs == ["GET"]


@pytest.mark.requirement("sse:endpoint")
async def test_a_second_endpoint_changes_nothing(connect: Connect) -> None:
    async def move(session: Conversation, asked: Asked) -> None:
        await session.say("/elsewhere?session=0", "event: endpoint")
        await session.answer(asked, plain("moved"))

    events = EventServer(move=move)
    async with scripted(events) as server:
        caller = connect(server)
        assert (await caller.call("move")).text == "moved"
        assert (await caller.call("echo")).text == "echo"
    assert {asked.target for asked in server.asked[1:]} == {"/messages?session=0"}


@pytest.mark.requirement("sse:session")
@pytest.mark.parametrize(
    ("opening", "cause"),
    [
        (answer(b"no", status=b"404 Not Found"), "http_4xx"),
        (answer(b"no", status=b"401 Unauthorized"), "credential"),
        (answer(b"", b"location: http://127.0.0.1:1/", status=b"307 Temporary Redirect"), "redirect"),
        (answer(b"{}", b"content-type: application/json"), "not_json"),
        (STREAM + event("hello") + b"0\r\n\r\n", "no_endpoint"),
        (STREAM + event("hello"), "no_endpoint"),
    ],
    ids=["unknown", "credential", "redirect", "json", "ends", "silent"],
)
async def test_what_opens_no_session_is_said_to_open_none(connect: Connect, opening: bytes, cause: str) -> None:
    async def odd(asked: Asked, peer: Peer) -> bytes:
        return opening

    async with scripted(odd) as server:
        with anyio.fail_after(5), pytest.raises(UpstreamFailed) as refused:
            await connect(server, LIMITS.model_copy(update={"first_byte_s": 0.3})).call("echo")
    assert refused.value.data["cause"] == cause
    assert server.verbs == ["GET"]


@pytest.mark.requirement("sse:session")
async def test_a_server_that_does_not_shake_hands_is_said_not_to(connect: Connect) -> None:
    async def refuse(session: Conversation, asked: Asked) -> None:
        await session.say({"jsonrpc": "2.0", "id": asked.id, "error": {"code": -32601, "message": "no"}})

    events = EventServer(initialize=refuse)
    async with scripted(events) as server:
        with anyio.fail_after(5), pytest.raises(UpstreamFailed, match="did not answer initialize"):
            await connect(server).call("echo")
        with anyio.fail_after(5):
            await events.sessions[0].over.wait()


# Calls


@pytest.mark.requirement("sse:gate")
@pytest.mark.parametrize("closed", [Killed("killed"), WorldMoved()], ids=["killed", "moved"])
async def test_the_gate_stands_at_each_write(connect: Connect, closed: BaseException) -> None:
    for writes, verbs in enumerate(
        ([], ["GET"], ["GET", "initialize"], ["GET", "initialize", "notifications/initialized"])
    ):
        async with scripted(EventServer()) as server:
            gate = CountingGate(closed=closed, closed_from=writes)
            with anyio.fail_after(5), pytest.raises(type(closed)):
                await connect(server).call("echo", gate=gate)
            assert gate.passed == writes
        assert server.verbs == verbs


@pytest.mark.requirement("sse:foreign-answers")
async def test_equal_ids_of_clients_never_meet_at_a_server_that_answers_late_and_mixed_up(connect: Connect) -> None:
    async def gather(session: Conversation, asked: Asked) -> None:
        held.append((session, asked))
        if len(held) == 40:
            for whose, late in reversed(held):
                number = late.params["arguments"]["n"]
                await whose.answer(late, plain(str(number)))

    held: list[tuple[Conversation, Asked]] = []
    async with scripted(EventServer(gather=gather)) as server:
        caller = connect(server)
        callers = [other(caller, who=who, session=session) for who in (ALICE, BOB) for session in ("s-1", "s-2")]
        with anyio.fail_after(10):
            seen = await asyncio.gather(*(own.call("gather", b'{"n":%d}' % n) for n, own in enumerate(callers * 10)))
    assert [one.text for one in seen] == [str(n) for n in range(40)]


@pytest.mark.requirement("sse:foreign-answers")
async def test_what_answers_nothing_that_was_asked_is_dropped(connect: Connect, changed: list[tuple[str, str]]) -> None:
    async def stray(session: Conversation, asked: Asked) -> None:
        for message in (
            "not JSON",
            "[]",
            {"jsonrpc": "2.0", "id": 10**6, "result": {}},
            {"jsonrpc": "2.0", "id": "x", "result": {}},
            said("notifications/progress", progressToken=10**6, progress=1),
            said("notifications/tools/list_changed"),
        ):
            await session.say(message)
        await session.say("ping", "event: other")
        await session.answer(asked, plain("done"))

    async with scripted(EventServer(stray=stray)) as server:
        seen = await connect(server, client=MODERN, session=None).call("stray")
    assert (seen.kinds, seen.text) == (["whole"], "done")
    assert changed == [("srv", "tools")]


@pytest.mark.requirement("sse:calls")
async def test_progress_comes_with_the_callers_own_token(connect: Connect) -> None:
    async def progress(session: Conversation, asked: Asked) -> None:
        token = asked.params["_meta"]["progressToken"]
        await session.say(said("notifications/progress", progressToken=token, progress=1))
        await session.answer(asked, plain(type(token).__name__))

    async with scripted(EventServer(progress=progress)) as server:
        seen = await connect(server).known(meta=b'{"progressToken":"tok"}').call("progress")
    assert seen.kinds == ["opened", "event", "last"]
    assert seen.events[0]["params"] == {"progressToken": "tok", "progress": 1}
    assert seen.text == "int"


@pytest.mark.requirement("sse:calls")
async def test_an_answer_counts_though_its_post_has_none_yet(connect: Connect) -> None:
    """Some servers answer a POST when the tool is done, which may want to know something from the client first."""

    async def ask(session: Conversation, asked: Asked) -> bytes:
        await session.say({"jsonrpc": "2.0", "id": 7, "method": "elicitation/create", "params": {}})
        found = await session.answer_of_client()
        await session.answer(asked, plain(json.dumps(found)))
        return answer(b"done")

    async with scripted(EventServer(ask=ask)) as server:
        caller = connect(server)
        with anyio.fail_after(5):
            exchange = await caller.send(Verb.TOOLS_CALL, name="ask")
            question, parts = await question_of(exchange)
            await answer_to(caller, question, b'{"action":"accept"}')
            last = await anext(parts)
            await exchange.aclose(None)
    assert json.loads(text_of(last.body)) == {"jsonrpc": "2.0", "id": 7, "result": {"action": "accept"}}


@pytest.mark.requirement("sse:calls")
@pytest.mark.parametrize(
    ("status", "cause"), [(b"400 Bad Request", "http_4xx"), (b"500 Oh", "http_5xx"), (b"302 There", "redirect")]
)
async def test_a_post_that_is_refused_fails_its_own_call(connect: Connect, status: bytes, cause: str) -> None:
    async def refuse(session: Conversation, asked: Asked) -> bytes:
        return answer(b"no", status=status)

    events = EventServer(refuse=refuse, hang=never)
    async with scripted(events) as server:
        caller = connect(server)
        hanging = await caller.send(Verb.TOOLS_CALL, name="hang")
        with anyio.fail_after(5), pytest.raises(UpstreamFailed) as refused:
            await caller.call("refuse")
        assert refused.value.data == {"cause": cause}
        assert (await caller.call("echo")).text == "echo"
        await hanging.aclose(None)
    assert len(events.sessions) == 1


@pytest.mark.requirement("sse:calls")
@pytest.mark.parametrize("reason", [ClientGone("gone"), asyncio.CancelledError(), Killed("killed")])
async def test_a_call_that_is_let_go_of_is_cancelled_at_the_server_but_after_a_kill(
    connect: Connect, reason: BaseException
) -> None:
    events = EventServer(hang=never)
    async with scripted(events) as server:
        caller = connect(server)
        exchange = await caller.send(Verb.TOOLS_CALL, name="hang")
        await exchange.aclose(reason)
        await exchange.aclose(None)
        await anyio.wait_all_tasks_blocked()
        await eventually(lambda: isinstance(reason, Killed) or server.of("notifications/cancelled"))
        await caller.call("echo")
    hung = next(asked for asked in server.asked if asked.params.get("name") == "hang")
    cancelled = [asked.params for asked in server.of("notifications/cancelled")]
    assert cancelled == ([] if isinstance(reason, Killed) else [{"requestId": hung.id}])


# What is lost


@pytest.mark.requirement("sse:lost")
@pytest.mark.parametrize("how", ["ends", "resets", "too-long", "unknown"])
async def test_a_lost_session_fails_what_ran_in_it_and_nothing_is_sent_again(connect: Connect, how: str) -> None:
    async def lose(session: Conversation, asked: Asked) -> bytes:
        if how == "ends":
            await session.end()
        elif how == "resets":
            session.reset()
        elif how == "too-long":
            await session.say("x" * 2000)
        return answer(b"", status=b"404 Not Found") if how == "unknown" else ACCEPTED

    events = EventServer(lose=lose, hang=never)
    async with scripted(events) as server:
        caller = connect(server, LIMITS.model_copy(update={"result_bytes": 1024}))
        running = [asyncio.create_task(caller.call("hang")) for _ in range(3)]
        with anyio.fail_after(5):
            while len(server.of("tools/call")) < 3:
                await asyncio.sleep(0.005)
            with pytest.raises(UpstreamFailed) as lost:
                await caller.call("lose")
            for task in running:
                with pytest.raises(UpstreamFailed) as also:
                    await task
                assert also.value.data == {"cause": "session_lost"}
        assert lost.value.data == {"cause": "session_lost"}
        assert "may have taken effect" in lost.value.fix
        assert len(server.of("tools/call")) == 4
        assert (await caller.call("echo")).text == "echo"
    assert len(events.sessions) == 2


@pytest.mark.requirement("sse:lost")
async def test_an_answer_to_a_question_of_a_lost_session_reaches_nobody(connect: Connect) -> None:
    async def ask(session: Conversation, asked: Asked) -> None:
        await session.say({"jsonrpc": "2.0", "id": 7, "method": "elicitation/create", "params": {}})

    events = EventServer(ask=ask)
    async with scripted(events) as server:
        caller = connect(server)
        exchange = await caller.send(Verb.TOOLS_CALL, name="ask")
        question, parts = await question_of(exchange)
        await events.sessions[0].end()
        with anyio.fail_after(5), pytest.raises(UpstreamFailed):
            await anext(parts)
        await exchange.aclose(None)
        with pytest.raises(UpstreamFailed, match="no longer has the session"):
            await answer_to(caller, question, b"{}")
        second = await caller.send(Verb.TOOLS_CALL, name="ask")
        with pytest.raises(UpstreamFailed, match="no longer has the request"):
            await answer_to(caller, question, b"{}")
        await second.aclose(None)
    assert server.of("answer") == []


@pytest.mark.requirement("sse:lost")
async def test_a_server_that_is_gone_is_unreachable(connect: Connect) -> None:
    events = EventServer()
    async with scripted(events) as server:
        caller = connect(server)
        await caller.call("echo")
    with anyio.fail_after(5), pytest.raises((UpstreamUnreachable, UpstreamFailed)):
        await caller.call("echo")
    with anyio.fail_after(5), pytest.raises(UpstreamUnreachable):
        await caller.call("echo")


# What the server says


@pytest.mark.requirement("sse:server-requests")
@pytest.mark.parametrize(
    "facts",
    [{"client": LEGACY}, {"client": None, "session": None, "who": SYSTEM}],
    ids=["undeclared", "own"],
)
async def test_who_cannot_be_asked_is_not_asked(connect: Connect, facts: Mapping[str, Any]) -> None:
    async def ask(session: Conversation, asked: Asked) -> None:
        await session.say({"jsonrpc": "2.0", "id": "q", "method": "elicitation/create", "params": {}})
        asyncio.get_running_loop().create_task(finish(session, asked))

    async def finish(session: Conversation, asked: Asked) -> None:
        found = await session.answer_of_client()
        await session.answer(asked, plain(str(found["error"]["code"])))

    async with scripted(EventServer(ask=ask)) as server:
        with anyio.fail_after(5):
            assert (await connect(server, **facts).call("ask")).text == "-32601"


@pytest.mark.requirement("sse:server-requests")
async def test_log_messages_updates_and_changed_lists_reach_their_client(
    connect: Connect, changed: list[tuple[str, str]]
) -> None:
    async def log(session: Conversation, asked: Asked) -> None:
        await session.say(said("notifications/message", level="info", data="x"))
        await session.say(said("notifications/resources/list_changed"))
        await session.answer(asked, plain("done"))

    async def subscribe(session: Conversation, asked: Asked) -> None:
        await session.say(said("notifications/resources/updated", uri=asked.params["uri"]))
        await session.answer(asked, {})

    async with scripted(EventServer(log=log, resources_subscribe=subscribe)) as server:
        caller = connect(server)
        with anyio.fail_after(5):
            stream = await caller.send(Verb.STREAM)
            parts = aiter(stream)
            assert (await anext(parts)).kind is PartKind.OPENED
            called = await caller.call("log")
            assert [message["method"] for message in called.events] == ["notifications/message"]
            await caller.ask(Verb.RESOURCES_SUBSCRIBE, name="test://x")
            await caller.ask(Verb.SET_LEVEL, forwarded={"level": b'"error"'})
            heard = [json.loads((await anext(parts)).body)["method"] for _ in range(2)]
            await stream.aclose(None)
        await caller.ask(Verb.ROOTS_CHANGED)
    assert heard == ["notifications/resources/list_changed", "notifications/resources/updated"]
    assert changed == [("srv", "resources")]
    assert server.of("logging/setLevel")[0].params == {"level": "error"}
    assert server.verbs[-1] == "notifications/roots/list_changed"


@pytest.mark.requirement("sse:translation")
async def test_a_modern_client_gets_modern_answers(connect: Connect) -> None:
    async def listed(session: Conversation, asked: Asked) -> None:
        await session.answer(asked, {"tools": []})

    async def missing(session: Conversation, asked: Asked) -> None:
        error = {"code": -32002, "message": "no", "data": {"uri": "x"}}
        await session.say({"jsonrpc": "2.0", "id": asked.id, "error": error})

    async with scripted(EventServer(tools_list=listed, resources_read=missing)) as server:
        caller = connect(server, client=MODERN, session=None)
        info = {"io.modelcontextprotocol/serverInfo": {"name": "events", "version": "1"}}
        discovered = (await caller.ask(Verb.DISCOVER)).result
        tools = (await caller.ask(Verb.TOOLS_LIST)).result
        assert (await caller.ask(Verb.RESOURCES_READ, name="x")).last.error_code == -32602
    assert discovered["supportedVersions"] == ["2026-07-28"]
    assert discovered["_meta"] == info
    assert tools == {"tools": [], "resultType": "complete", "ttlMs": 0, "cacheScope": "private", "_meta": info}
    assert server.of("initialize")[0].params["capabilities"] == {}


# How many, and how they end


@pytest.mark.requirement("sse:bounded")
async def test_sessions_are_bounded_and_end_when_idle(connect: Connect, clock: HandClock) -> None:
    events = EventServer(hang=never)
    async with scripted(events) as server:
        limits = LIMITS.model_copy(update={"sessions": 2, "session_idle_s": 100.0})
        caller, second = connect(server, limits), {"session": "s-2"}
        await caller.call("echo")
        clock.now += 1
        hanging = await other(caller, **second).send(Verb.TOOLS_CALL, name="hang")
        await other(caller, session="s-3").call("echo")
        with anyio.fail_after(5):
            await events.sessions[0].over.wait()
        listening = await other(caller, session="s-3").send(Verb.STREAM)
        with pytest.raises(RateLimited, match=r"in use \(2\)"):
            await caller.call("echo")
        clock.now += 101
        servers_of(caller).sweep()
        await listening.aclose(None)
        await hanging.aclose(Killed("killed"))
        assert not (events.sessions[1].over.is_set() or events.sessions[2].over.is_set())
        clock.now += 101
        servers_of(caller).sweep()
        with anyio.fail_after(5):
            await events.sessions[1].over.wait()
            await events.sessions[2].over.wait()


@pytest.mark.requirement("sse:bounded")
async def test_calls_are_bounded_in_number_and_time(connect: Connect) -> None:
    async with scripted(EventServer(hang=never)) as server:
        caller = connect(server, LIMITS.model_copy(update={"call_s": 0.3, "per_upstream": 2}))
        await caller.ask(Verb.DISCOVER)
        hanging = [await caller.send(Verb.TOOLS_CALL, name="hang") for _ in range(2)]
        with pytest.raises(RateLimited):
            await caller.call("echo")
        for exchange in hanging:
            with anyio.fail_after(5), pytest.raises(UpstreamTimeout) as late:
                await anext(aiter(exchange))
            await exchange.aclose(late.value)
        assert (await caller.call("echo")).text == "echo"


@pytest.mark.requirement("sse:ending")
async def test_sessions_end_with_their_clients_session_a_kill_and_the_gateway(connect: Connect) -> None:
    events = EventServer(hang=never)
    async with scripted(events) as server:
        caller = connect(server)
        bob = other(caller, who=BOB, session="s-2")
        system = other(caller, who=SYSTEM, client=None, session=None)
        for own in (caller, bob, system):
            await own.call("echo")
        assert (await caller.ask(Verb.END_SESSION)).last.status == 202
        servers = servers_of(caller)
        with anyio.fail_after(5):
            servers.end_session("s-1")
            await events.sessions[0].over.wait()
            await servers.end_own("srv")
            await events.sessions[2].over.wait()
            running = asyncio.create_task(bob.call("hang"))
            while server.of("tools/call")[-1].params["name"] != "hang":
                assert not running.done(), running.exception()
                await asyncio.sleep(0.005)
            target = Target.of(permit(caller.target, Verb.TOOLS_LIST).judged.action, "1.0.0")
            await servers.end_killed(Switches([switch(Scope.PRINCIPAL, ALICE.selector)]), target)
            assert not events.sessions[1].over.is_set()
            await servers.end_killed(Switches([switch(Scope.PRINCIPAL, BOB.selector)]), target)
            await events.sessions[1].over.wait()
            with pytest.raises(UpstreamFailed, match="was let go of"):
                await running
            await caller.call("echo")
            await servers.aclose()
            await events.sessions[3].over.wait()


@pytest.mark.requirement("sse:ending")
async def test_what_is_being_posted_when_its_session_ends_has_failed(connect: Connect) -> None:
    posted, over = asyncio.Event(), asyncio.Event()

    async def keep(session: Conversation, asked: Asked) -> None:
        posted.set()
        await over.wait()

    acts: dict[str, Any] = {"notifications_roots/list_changed": keep}
    async with scripted(EventServer(**acts)) as server:
        caller = connect(server)
        await caller.call("echo")
        telling = asyncio.create_task(caller.ask(Verb.ROOTS_CHANGED))
        with anyio.fail_after(5):
            await posted.wait()
            servers_of(caller).end_session("s-1")
            with pytest.raises(UpstreamFailed, match="was let go of"):
                await telling
        over.set()


@pytest.mark.requirement("sse:ending")
async def test_a_session_that_ends_while_it_is_opened_is_given_up(connect: Connect) -> None:
    events = EventServer(initialize=never)
    async with scripted(events) as server:
        caller = connect(server)
        opening = asyncio.create_task(caller.call("echo"))
        with anyio.fail_after(5):
            while not server.of("initialize"):
                await asyncio.sleep(0.005)
            await events.sessions[0].say(result_of(server.of("initialize")[0], {"protocolVersion": "2024-11-05"}))
            servers_of(caller).end_session("s-1")
            with pytest.raises(GatewayError):
                await opening
            await events.sessions[0].over.wait()
