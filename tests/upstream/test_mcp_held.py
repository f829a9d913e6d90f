"""Servers of the handshake era that ask a modern client something: the call waits, and a retry goes on with it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
import pytest

from mcpgw.domain import Arguments, Verb
from mcpgw.errors import (
    ClientGone,
    InvalidParams,
    Killed,
    RequestTimeout,
    Unauthenticated,
    UpstreamFailed,
    UpstreamUnreachable,
    WorldMoved,
)
from tests.eventually import eventually
from tests.fixtures.raw_http import Peer, answer
from tests.upstream.calls import BOB, LIMITS, CountingGate, HandClock, version
from tests.upstream.inquiring import ABLE, ACCEPT, HELD_S, SOON_S, Client, Inquirer, Questions, a_client, form
from tests.upstream.scripted import END, STREAM, Asked, Scripted, event, plain, refusal, result_of, said, scripted

SAMPLING = ("sampling/createMessage", {"messages": [], "maxTokens": 10})
ROOTS = ("roots/list", {})

Serve = Callable[..., AbstractAsyncContextManager[tuple[Client, Scripted]]]


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture
def serve(clock: HandClock) -> Serve:
    @asynccontextmanager
    async def serving(inquirer: Inquirer) -> AsyncIterator[tuple[Client, Scripted]]:
        async with scripted(inquirer) as server, a_client(server.url, clock) as client:
            with anyio.fail_after(SOON_S):
                yield client, server

    return serving


# A question and its answer


@pytest.mark.requirement("held:asked")
async def test_a_question_is_the_answer_and_the_retry_goes_on_with_the_call(serve: Serve) -> None:
    async with serve(Inquirer([form("who?")])) as (client, server):
        first = await client.call("t", b'{"x":1}')
        assert first.kinds == ["whole"]
        assert first.last.facts == {"upstream_status": 200, "era": "legacy", "asks": ["elicitation/create"]}
        questions = Questions.of(first)
        assert questions.only == {"method": "elicitation/create", "params": form("who?")[1]}
        assert len(client.shelf) == 1
        last = await client.retry(questions, arguments=b'{"x":1}')
        assert last.kinds == ["whole"]
        assert last.result["resultType"] == "complete"
        assert json.loads(last.text) == {"q1": {"jsonrpc": "2.0", "id": "q1", "result": ACCEPT}}
        assert [len(server.of(verb)) for verb in ("initialize", "tools/call", "answer")] == [1, 1, 1]
        assert server.of("tools/call")[0].params == {"name": "t", "arguments": {"x": 1}}
        assert server.of("answer")[0].headers["mcp-session-id"] == "session-1"
        [(reason, retry)] = client.ended
        assert reason is None
        assert retry is not None
        assert len(client.shelf) == 0


@pytest.mark.requirement("held:asked")
async def test_a_call_may_ask_round_after_round(serve: Serve) -> None:
    async with serve(Inquirer([form("one?")], [form("two?")])) as (client, server):
        first = Questions.of(await client.call())
        second = Questions.of(await client.retry(first))
        assert second.only["params"]["message"] == "two?"
        assert first.key != second.key
        assert first.state != second.state
        last = await client.retry(second, {first.key: {"action": "decline"}, second.key: ACCEPT})
        assert json.loads(last.text)["q2"]["result"] == ACCEPT
        assert len(server.of("tools/call")) == 1


@pytest.mark.requirement("held:asked")
async def test_what_is_asked_at_once_is_asked_together(serve: Serve) -> None:
    async with serve(Inquirer([form("who?"), SAMPLING, ROOTS])) as (client, _):
        seen = await client.call()
        questions = Questions.of(seen)
        assert [asked["method"] for asked in questions.asked.values()] == [
            "elicitation/create",
            "sampling/createMessage",
            "roots/list",
        ]
        assert seen.last.facts["asks"] == ["elicitation/create", "roots/list", "sampling/createMessage"]
        keys = list(questions.asked)
        answers = {keys[0]: ACCEPT, keys[1]: {"role": "assistant"}, keys[2]: {"roots": []}, "other": {"x": 1}}
        told = json.loads((await client.retry(questions, answers)).text)
        assert [told[f"q{n}"]["result"] for n in (1, 2, 3)] == [ACCEPT, {"role": "assistant"}, {"roots": []}]


@pytest.mark.requirement("held:asked")
async def test_what_was_not_answered_is_asked_again(serve: Serve) -> None:
    async with serve(Inquirer([form("who?"), ROOTS])) as (client, server):
        questions = Questions.of(await client.call())
        who, roots = questions.asked
        again = Questions.of(await client.retry(questions, {}))
        assert again.asked == questions.asked
        assert server.of("answer") == []
        left = Questions.of(await client.retry(again, {who: ACCEPT, "other": ACCEPT}))
        assert list(left.asked) == [roots]
        assert [a.id for a in server.of("answer")] == ["q1"]
        last = await client.retry(left, {who: {"action": "decline"}, roots: {"roots": []}})
        assert json.loads(last.text)["q1"]["result"] == ACCEPT
        assert len(server.of("answer")) == 2


@pytest.mark.requirement("held:asked")
@pytest.mark.parametrize(
    ("verb", "name"), [(Verb.TOOLS_CALL, "t"), (Verb.PROMPTS_GET, "p"), (Verb.RESOURCES_READ, "test://x")]
)
async def test_calls_prompts_and_resources_can_ask(serve: Serve, verb: Verb, name: str) -> None:
    inquirer = Inquirer([form("who?")])
    inquirer.handlers[verb.value] = inquirer.handlers["tools/call"]
    async with serve(inquirer) as (client, server):
        questions = Questions.of(await client.call(name, verb=verb))
        assert (await client.retry(questions, tool=name, verb=verb)).result["resultType"] == "complete"
        assert len(server.of(verb.value)) == 1


@pytest.mark.requirement("held:asked")
async def test_a_question_loses_what_only_its_own_generation_knows(serve: Serve) -> None:
    meta = {"progressToken": 1, "io.modelcontextprotocol/related-task": {"taskId": "t"}, "com.example/x": 1}
    url = {"mode": "url", "message": "there", "url": "https://example.com/x", "elicitationId": "e1", "_meta": meta}
    asked = form("who?", task={"ttl": 1}, _meta={"progressToken": 2})
    async with serve(Inquirer([("elicitation/create", url), asked])) as (client, _):
        first, second = Questions.of(await client.call()).asked.values()
        assert first["params"] == {
            "mode": "url",
            "message": "there",
            "url": "https://example.com/x",
            "_meta": {"com.example/x": 1},
        }
        assert second["params"] == form("who?")[1]


@pytest.mark.requirement("held:asked")
async def test_each_turn_has_its_own_progress_and_log_level(serve: Serve) -> None:
    steps: list[Any] = []

    async def call(asked: Asked, peer: Peer) -> None:
        token = asked.params["_meta"]["progressToken"]
        steps.append(token)

        def progress(step: int, of: Any = token) -> bytes:
            return event(said("notifications/progress", progressToken=of, progress=step))

        log = event(said("notifications/message", level="info", data="x"))
        await peer.write(STREAM + progress(1) + log + event({**said("roots/list"), "id": "q1"}))
        await inquirer.answered("q1")
        await peer.write(progress(2) + progress(9, "other") + log + event(result_of(asked, plain("fine"))) + END)

    inquirer = Inquirer(tools_call=call)
    async with serve(inquirer) as (client, _):
        first = await client.known(meta=b'{"progressToken":"one"}').call()
        assert first.kinds == ["opened", "event", "last"]
        assert first.events[0]["params"] == {"progressToken": "one", "progress": 1}
        second = await client.known(meta=b'{"progressToken":2}', log_level="warning").retry(Questions.of(first))
        assert [e["params"] for e in second.events] == [{"progressToken": 2, "progress": 2}]
        assert second.text == "fine"
        assert isinstance(steps[0], int)


@pytest.mark.requirement("held:asked")
async def test_a_stream_that_ends_while_its_call_waits_is_taken_up_again(serve: Serve) -> None:
    running: list[Asked] = []

    async def call(asked: Asked, peer: Peer) -> bytes:
        running.append(asked)
        return STREAM + event({**said("roots/list"), "id": "q1"}, "id: e1", "retry: 1") + END

    async def get(asked: Asked, peer: Peer) -> bytes:
        assert asked.headers["last-event-id"] == "e1"
        await inquirer.answered("q1")
        return STREAM + event(result_of(running[0], plain("fine")), "id: e2")

    inquirer = Inquirer(tools_call=call, GET=get)
    async with serve(inquirer) as (client, server):
        questions = Questions.of(await client.call())
        assert (await client.retry(questions)).text == "fine"
        assert (len(server.of("tools/call")), len(server.of("GET"))) == (1, 1)


@pytest.mark.requirement("held:asked")
async def test_a_server_that_talks_on_has_its_question_asked_all_the_same(serve: Serve) -> None:
    async def call(asked: Asked, peer: Peer) -> None:
        await peer.write(STREAM + event({**said("roots/list"), "id": "q1"}))
        while "q1" not in inquirer.answers:
            await peer.write(event(said("notifications/progress", progressToken=asked.id, progress=1)))
            await asyncio.sleep(0.01)
        await peer.write(event(result_of(asked, plain("fine"))) + END)

    inquirer = Inquirer(tools_call=call)
    async with serve(inquirer) as (client, _):
        assert (await client.retry(Questions.of(await client.call()))).text == "fine"


# Whose call it is


@pytest.mark.requirement("held:state")
async def test_only_the_same_call_of_the_same_principal_can_go_on(serve: Serve, clock: HandClock) -> None:
    async with serve(Inquirer([form("who?")])) as (client, server):
        questions = Questions.of(await client.call("t", b'{"x":1,"y":[2]}'))
        other = version(server.url, server="other")
        refused = []
        for who, tool, arguments, state in (
            (client.by(who=BOB), "t", b'{"x":1,"y":[2]}', questions.state),
            (client.by(target=other), "t", b'{"x":1,"y":[2]}', questions.state),
            (client, "other", b'{"x":1,"y":[2]}', questions.state),
            (client, "t", b'{"x":1,"y":[3]}', questions.state),
            (client, "t", b'{"x":1,"y":[2]}', questions.state[:-4] + "AAAA"),
            (client, "t", b'{"x":1,"y":[2]}', "x"),
        ):
            with pytest.raises(InvalidParams) as error:
                await who.retry(Questions(questions.asked, state), tool=tool, arguments=arguments)
            refused.append((error.value.message, error.value.fix))
        with pytest.raises(InvalidParams):
            await client.call("t", b'{"x":1,"y":[2]}', forwarded={"requestState": b"7"})
        assert len(set(refused)) == 1
        assert server.of("answer") == []
        # However the same arguments are written.
        assert (
            json.loads((await client.retry(questions, arguments=b'{ "y":[2], "x":1 }')).text)["q1"]["result"] == ACCEPT
        )
        assert len(server.of("tools/call")) == 1


@pytest.mark.requirement("held:state")
async def test_a_state_works_once_and_in_time(serve: Serve, clock: HandClock) -> None:
    async with serve(Inquirer([form("who?")])) as (client, server):
        used = Questions.of(await client.call())
        await client.retry(used)
        late = Questions.of(await client.call())
        clock.now += HELD_S
        for questions in (used, late):
            with pytest.raises(InvalidParams, match="names no call of yours that waits"):
                await client.retry(questions)
        assert (len(server.of("tools/call")), len(server.of("answer"))) == (2, 1)


@pytest.mark.requirement("held:state")
async def test_of_two_retries_at_once_one_goes_on(serve: Serve) -> None:
    async with serve(Inquirer([form("who?")])) as (client, server):
        questions = Questions.of(await client.call())
        outcomes = await asyncio.gather(*(client.retry(questions) for _ in range(5)), return_exceptions=True)
        refused = [outcome for outcome in outcomes if isinstance(outcome, InvalidParams)]
        assert len(refused) == 4
        assert len(server.of("answer")) == 1


@pytest.mark.requirement("held:never-twice")
async def test_answers_without_their_state_are_no_new_call(serve: Serve) -> None:
    async with serve(Inquirer([form("who?")])) as (client, server):
        questions = Questions.of(await client.call())
        with pytest.raises(InvalidParams):
            await client.call(forwarded={"inputResponses": json.dumps({questions.key: ACCEPT}).encode()})
        assert len(server.of("tools/call")) == 1


@pytest.mark.requirement("held:state")
@pytest.mark.parametrize("answers", [b"[]", b'"x"', b'{"k":1}', b'{"k":[]}'])
async def test_answers_that_are_none_are_refused_and_the_call_waits_on(serve: Serve, answers: bytes) -> None:
    async with serve(Inquirer([form("who?")])) as (client, _):
        questions = Questions.of(await client.call())
        forwarded = {"inputResponses": answers, "requestState": json.dumps(questions.state).encode()}
        with pytest.raises(InvalidParams, match="must be an object of objects"):
            await client.call(forwarded=forwarded)
        assert (await client.retry(questions)).result["resultType"] == "complete"


# What a server may not ask


@pytest.mark.requirement("held:undeclared")
@pytest.mark.parametrize(
    ("capabilities", "question"),
    [
        (b"{}", form("who?")),
        (b"{}", SAMPLING),
        (b"{}", ROOTS),
        (b'{"elicitation":true}', form("who?")),
        (b'{"elicitation":{"url":{}}}', form("who?")),
        (b'{"elicitation":{}}', ("elicitation/create", {"mode": "url", "message": "x", "url": "https://x"})),
        (b'{"elicitation":{"url":{}}}', ("elicitation/create", {"mode": "url", "message": "x", "url": "javascript:1"})),
        (b'{"sampling":{}}', ("sampling/createMessage", {"messages": [], "tools": []})),
        (b'{"sampling":{}}', ("tasks/get", {"taskId": "x"})),
    ],
)
async def test_what_a_client_cannot_be_asked_is_refused_to_the_server(
    serve: Serve, capabilities: bytes, question: tuple[str, Any]
) -> None:
    async with serve(Inquirer([question])) as (client, _):
        told = json.loads((await client.known(capabilities=capabilities).call()).text)
        assert told["q1"]["error"]["code"] == -32601


@pytest.mark.requirement("held:undeclared")
async def test_other_requests_cannot_ask(serve: Serve) -> None:
    async def complete(asked: Asked, peer: Peer) -> None:
        await peer.write(STREAM + event({**said("roots/list"), "id": "q1"}) + event({**said("ping"), "id": "q2"}))
        await inquirer.answered("q1", "q2")
        await peer.write(event(result_of(asked, {"completion": {"values": []}})) + END)

    inquirer = Inquirer(completion_complete=complete)
    async with serve(inquirer) as (client, _):
        assert (await client.call(verb=Verb.COMPLETE)).kinds == ["whole"]
        assert inquirer.answers["q1"]["error"]["code"] == -32601
        assert inquirer.answers["q2"]["result"] == {}


@pytest.mark.requirement("held:undeclared")
async def test_a_server_hears_only_of_what_can_be_carried_across(serve: Serve) -> None:
    declared: list[Any] = []
    for capabilities, told in (
        (ABLE.capabilities, {"elicitation": {"form": {}, "url": {}}, "sampling": {}, "roots": {}}),
        (b'{"elicitation":{},"tasks":{},"experimental":{"x":{}}}', {"elicitation": {}}),
        (b'{"sampling":{"tools":{},"context":{},"x":{}}}', {"sampling": {"context": {}, "tools": {}}}),
        (b'{"roots":{"listChanged":true}}', {"roots": {}}),
        (b'{"roots":1}', {}),
        (b"{}", {}),
    ):
        async with serve(Inquirer()) as (client, server):
            await client.known(capabilities=capabilities).call()
            declared.append((server.of("initialize")[0].params["capabilities"], told))
    assert [found for found, _ in declared] == [told for _, told in declared]


# URLs that must be visited first


def urls(*urls: str) -> dict[str, Any]:
    elicitations = [
        {"mode": "url", "elicitationId": f"e{n}", "url": url, "message": "go"} for n, url in enumerate(urls)
    ]
    return {"code": -32042, "message": "authorize", "data": {"elicitations": elicitations}}


def failing(error: dict[str, Any]) -> Any:
    async def call(asked: Asked, peer: Peer) -> bytes:
        if asked.params["arguments"].get("authorized"):
            return STREAM + event(result_of(asked, plain("fine"))) + END
        return STREAM + event({"jsonrpc": "2.0", "id": asked.id, "error": error}) + END

    return call


@pytest.mark.requirement("held:url")
async def test_a_server_that_wants_urls_visited_first_gets_a_fresh_call_afterwards(serve: Serve) -> None:
    async with serve(Inquirer(tools_call=failing(urls("https://x/1", "http://x/2")))) as (client, server):
        seen = await client.call()
        assert seen.result == {
            "resultType": "input_required",
            "inputRequests": {
                f"e{n}": {"method": "elicitation/create", "params": {"mode": "url", "message": "go", "url": url}}
                for n, url in enumerate(("https://x/1", "http://x/2"))
            },
        }
        assert len(client.shelf) == 0
        answers = {"inputResponses": b'{"e0":{"action":"accept"},"e1":{"action":"accept"}}'}
        assert (await client.call("t", b'{"authorized":1}', forwarded=answers)).text == "fine"
        assert len(server.of("tools/call")) == 2
        assert server.of("tools/call")[1].params == {"name": "t", "arguments": {"authorized": 1}}


@pytest.mark.requirement("held:url")
async def test_a_client_that_cannot_visit_urls_is_told_what_is_missing(serve: Serve) -> None:
    async with serve(Inquirer(tools_call=failing(urls("https://x")))) as (client, _):
        last = (await client.known(capabilities=b'{"elicitation":{}}').call()).last
        assert last.error_code == -32021
        assert json.loads(last.body)["data"] == {"requiredCapabilities": {"elicitation": {"url": {}}}}


@pytest.mark.requirement("held:url")
@pytest.mark.parametrize(
    "error",
    [
        {"code": -32042, "message": "x"},
        {"code": -32042, "message": "x", "data": {"elicitations": []}},
        {"code": -32042, "message": "x", "data": {"elicitations": [{"url": "https://x"}]}},
        urls("javascript:alert(1)"),
        urls(*["https://x"] * 17),
    ],
)
async def test_an_error_that_names_no_urls_is_an_internal_one(serve: Serve, error: dict[str, Any]) -> None:
    async with serve(Inquirer(tools_call=failing(error))) as (client, _):
        assert (await client.call()).last.error_code == -32603


# Calls that end while they wait


@pytest.mark.requirement("held:ended")
@pytest.mark.parametrize(
    "reason", [Killed("killed"), RequestTimeout("late"), Unauthenticated("revoked")], ids=["kill", "expiry", "revoked"]
)
async def test_a_server_is_told_that_a_call_ended_while_it_waited(serve: Serve, reason: BaseException) -> None:
    inquirer = Inquirer([form("who?")])
    async with serve(inquirer) as (client, server):
        questions = Questions.of(await client.call())
        client.end(reason)
        await inquirer.cut.wait()
        await eventually(lambda: server.of("notifications/cancelled"))
        [told] = server.of("notifications/cancelled")
        assert told.params == {"requestId": server.of("tools/call")[0].id}
        assert told.headers["mcp-session-id"] == "session-1"
        assert client.ended == [(reason, None)]
        with pytest.raises(InvalidParams):
            await client.retry(questions)
        assert server.of("answer") == []


@pytest.mark.requirement("held:ended")
async def test_a_client_that_leaves_its_retry_cancels_the_call(serve: Serve) -> None:
    async def call(asked: Asked, peer: Peer) -> None:
        await peer.write(STREAM + event({**said("roots/list"), "id": "q1"}))
        await inquirer.answered("q1")
        await peer.write(event(said("notifications/progress", progressToken=asked.id, progress=1)))
        await peer.gone()
        inquirer.cut.set()

    inquirer = Inquirer(tools_call=call)
    async with serve(inquirer) as (client, server):
        curious = client.known(meta=b'{"progressToken":1}')
        questions = Questions.of(await curious.call())
        forwarded = {
            "inputResponses": json.dumps({questions.key: {"roots": []}}).encode(),
            "requestState": json.dumps(questions.state).encode(),
        }
        right = curious.permit(name="t", arguments=Arguments(), forwarded=forwarded)
        exchange = await curious.caller.upstream.send(right, {}, CountingGate())
        async for part in exchange:
            if part.body:
                break
        await exchange.aclose(ClientGone("gone"))
        await inquirer.cut.wait()
        await eventually(lambda: server.of("notifications/cancelled"))


@pytest.mark.requirement("held:never-twice")
async def test_a_server_that_died_fails_the_retry_and_is_not_called_again(serve: Serve) -> None:
    async def call(asked: Asked, peer: Peer) -> None:
        await peer.write(STREAM + event({**said("roots/list"), "id": "q1"}))
        await inquirer.answered("q1")
        peer.reset()

    inquirer = Inquirer(tools_call=call)
    async with serve(inquirer) as (client, server):
        questions = Questions.of(await client.call())
        with pytest.raises(UpstreamFailed):
            await client.retry(questions)
        with pytest.raises(InvalidParams):
            await client.retry(questions)
        assert len(server.of("tools/call")) == 1


@pytest.mark.requirement("held:never-twice")
@pytest.mark.parametrize(
    ("reply", "cause"),
    [
        (answer(b"", status=b"404 Not Found"), "session_lost"),
        (refusal(-32600, status=b"400 Bad Request"), "http_4xx"),
        (answer(b"", status=b"503 Service Unavailable"), "http_5xx"),
    ],
    ids=["session-lost", "refused", "unwell"],
)
async def test_an_answer_that_the_server_does_not_take_is_the_end_of_its_call(
    serve: Serve, reply: bytes, cause: str
) -> None:
    async def taken(asked: Asked, peer: Peer) -> bytes:
        return reply

    inquirer = Inquirer([form("who?")], answer=taken)
    async with serve(inquirer) as (client, server):
        questions = Questions.of(await client.call())
        with pytest.raises(UpstreamFailed) as failed:
            await client.retry(questions)
        assert failed.value.data["cause"] == cause
        await inquirer.cut.wait()
        with pytest.raises(InvalidParams):
            await client.retry(questions)
        assert len(server.of("tools/call")) == 1


@pytest.mark.requirement("held:never-twice")
async def test_a_server_that_cannot_be_reached_leaves_the_call_waiting(clock: HandClock) -> None:
    inquirer = Inquirer([form("who?")])
    async with a_client("http://127.0.0.1:1", clock) as client:
        async with scripted(inquirer) as server:
            client.caller.target = version(server.url)
            questions = Questions.of(await client.call())
            gate = CountingGate()
        # The same place, and nobody there any more.
        with pytest.raises(UpstreamUnreachable):
            await client.retry(questions, gate=gate)
        assert gate.passed == 0
        assert len(client.shelf) == 1


# The gate


@pytest.mark.requirement("held:gate")
@pytest.mark.parametrize("closed", [WorldMoved(), Killed("killed")], ids=["moved", "killed"])
async def test_a_retry_that_may_not_write_takes_nothing_over(serve: Serve, closed: BaseException) -> None:
    async with serve(Inquirer([form("who?")])) as (client, server):
        questions = Questions.of(await client.call())
        for answers in (None, {}):
            gate = CountingGate(closed=closed)
            with pytest.raises(type(closed)):
                await client.retry(questions, answers, gate=gate)
            assert len(client.shelf) == 1
        assert server.of("answer") == []
        gate = CountingGate()
        assert (await client.retry(questions, gate=gate)).result["resultType"] == "complete"
        assert gate.passed == 1


@pytest.mark.requirement("held:gate")
async def test_each_answer_of_a_retry_passes_the_gate(serve: Serve) -> None:
    async with serve(Inquirer([form("who?"), ROOTS, SAMPLING])) as (client, server):
        questions = Questions.of(await client.call())
        gate = CountingGate(closed=Killed("killed"), closed_from=2)
        with pytest.raises(Killed):
            await client.retry(questions, gate=gate)
        assert len(server.of("answer")) == gate.passed == 2


@pytest.mark.requirement("held:gate")
async def test_a_call_that_waits_outlives_the_limits_of_a_stream(clock: HandClock) -> None:
    """Silence and length count while somebody listens."""
    limits = LIMITS.model_copy(update={"stream_idle_s": 0.5, "stream_s": 0.8})
    inquirer = Inquirer([form("who?")], [form("and?")])
    async with scripted(inquirer) as server, a_client(server.url, clock, limits=limits) as client:
        with anyio.fail_after(SOON_S):
            last = await client.call()
            for _ in range(2):
                await asyncio.sleep(0.6)
                last = await client.retry(Questions.of(last))
            assert last.result["resultType"] == "complete"
