"""What a modern server wants to know, asked of a client of the handshake era on the stream of its call."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import anyio
import pytest

from mcpgw.domain import Arguments, PartKind, Verb
from mcpgw.errors import Cancelled, InvalidRequest, Killed, UpstreamFailed, WorldMoved
from mcpgw.upstream import mcp_for_legacy_call
from mcpgw.upstream.http import HttpClient
from mcpgw.upstream.mcp_http import McpHttpUpstream
from tests.fixtures.raw_http import Peer
from tests.upstream.calls import BOB, LIMITS, Caller, CountingGate, HandClock, Seen, mcp_http, read
from tests.upstream.scripted import STREAM, Asked, Handler, event, reply, said, scripted
from tests.upstream.stateless import (
    Stateless,
    answer,
    answered,
    at_url,
    complete,
    form,
    next_question,
    question_in,
    wanting,
)
from tests.upstream.test_mcp_for_legacy import client_of

ABLE = b'{"elicitation":{"form":{},"url":{}},"sampling":{"tools":{}},"roots":{}}'
ACCEPTED = b'{"action":"accept","content":{"name":"Ada"}}'
ANSWERS = {
    "elicitation/create": ACCEPTED,
    "sampling/createMessage": b'{"role":"assistant","content":{"type":"text","text":"Hi"},"model":"m"}',
    "roots/list": b'{"roots":[{"uri":"file:///work"}]}',
}
SAMPLING = {
    "method": "sampling/createMessage",
    "params": {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}], "maxTokens": 5},
}
ROOTS = {"method": "roots/list"}


@pytest.fixture
def legacy(upstream: McpHttpUpstream, modern_server: str) -> Caller:
    return client_of(upstream, modern_server, capabilities=ABLE)


def asking(*rounds: Mapping[str, Any]) -> Stateless:
    """Return a server that answers the first call, and each retry, with the next of these results, and then is done."""
    left = list(rounds)

    async def call(asked: Asked, peer: Peer) -> bytes:
        return reply(asked, left.pop(0) if left else complete("done"))

    handlers: dict[str, Handler] = {"tools_call": call, "prompts_get": call, "resources_read": call}
    return Stateless(**handlers)


async def call(caller: Caller, answers: Mapping[str, bytes] = ANSWERS, verb: Verb = Verb.TOOLS_CALL) -> Seen:
    return await answered(caller, await caller.send(verb, name="t"), answers)


def said_of(seen: Seen) -> str:
    """Return why a call could not be answered, however its method says so."""
    if seen.last.error_code is not None:
        assert seen.last.error_code == -32603
        message: str = json.loads(seen.last.body)["message"]
        return message
    assert seen.result["isError"] and seen.last.failed
    return seen.text


# Questions and answers


@pytest.mark.requirement("for-legacy:questions")
async def test_all_that_is_asked_at_once_is_asked_on_the_stream_and_answered_together(legacy: Caller) -> None:
    exchange = await legacy.send(Verb.TOOLS_CALL, name="test_input_required_result_multiple_inputs")
    parts = aiter(exchange)
    assert (await anext(parts)).kind is PartKind.OPENED
    asked = [question_in(await anext(parts)) for _ in range(3)]
    assert [question["method"] for question in asked if question] == list(ANSWERS)
    for question in reversed(asked):
        assert question is not None
        await answer(legacy, question["id"], ANSWERS[question["method"]])
    last = await anext(parts)
    assert (last.kind, json.loads(last.body)["content"][0]["text"]) == (PartKind.LAST, "Hi Ada has 1 root(s).")
    assert last.facts["rounds"] == 2
    await exchange.aclose(None)


@pytest.mark.requirement("for-legacy:questions")
async def test_a_server_may_ask_in_one_round_after_the_other(legacy: Caller) -> None:
    exchange = await legacy.send(Verb.TOOLS_CALL, name="test_input_required_result_multi_round")
    first = await next_question(exchange)
    await answer(legacy, first["id"], ACCEPTED)
    second = await next_question(exchange)
    await answer(legacy, second["id"], b'{"action":"accept","content":{"color":"blue"}}')
    assert first["id"] != second["id"]
    assert (await read(exchange)).text == "Ada likes blue."


@pytest.mark.requirement("for-legacy:questions")
@pytest.mark.parametrize("action", ["decline", "cancel"])
async def test_the_server_is_told_that_the_user_did_not_want_to(legacy: Caller, action: str) -> None:
    exchange = await legacy.send(Verb.TOOLS_CALL, name="test_input_required_result_elicitation")
    refusal = json.dumps({"action": action}).encode()
    assert (await answered(legacy, exchange, {"elicitation/create": refusal})).text == f"Hello, {action}!"


@pytest.mark.requirement("for-legacy:questions")
async def test_a_prompt_may_ask_too(legacy: Caller) -> None:
    exchange = await legacy.send(Verb.PROMPTS_GET, name="test_input_required_result_prompt")
    seen = await answered(legacy, exchange, {"elicitation/create": b'{"action":"accept","content":{"context":"c"}}'})
    assert seen.result["messages"][0]["content"]["text"] == "Use this context: c"


@pytest.mark.requirement("for-legacy:questions")
async def test_a_retry_is_the_same_request_with_the_answers_and_the_very_state(upstream: McpHttpUpstream) -> None:
    state = '"sÿ\\u00ff\\/ ="'
    first = json.dumps(wanting(user=form(), where=ROOTS))[:-1].encode() + b',"requestState":%b}' % state.encode()

    async def once(asked: Asked, peer: Peer) -> bytes:
        if "inputResponses" in asked.params:
            return reply(asked, complete("done"))
        body = b'{"jsonrpc":"2.0","id":%d,"result":%b}' % (asked.id, first)
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
        return head + body

    async with scripted(Stateless(tools_call=once)) as server:
        caller = client_of(upstream, server.url, capabilities=ABLE, meta=b'{"progressToken":7}')
        arguments = Arguments(b'{"n": 1.50}')
        exchange = await caller.send(Verb.TOOLS_CALL, name="t", arguments=arguments)
        assert (await answered(caller, exchange, ANSWERS)).text == "done"
        before, after = server.of("tools/call")
    assert before.id != after.id
    assert after.params["inputResponses"] == {
        "user": json.loads(ACCEPTED),
        "where": json.loads(ANSWERS["roots/list"]),
    }
    assert b'"requestState":%b' % state.encode() in after.body
    assert b'"arguments":{"n": 1.50}' in after.body
    for asked in (before, after):
        assert asked.params["_meta"]["progressToken"] == 7
        assert asked.headers["mcp-name"] == "t"
    assert "requestState" not in before.params


@pytest.mark.requirement("for-legacy:questions")
async def test_what_the_server_sends_between_its_questions_arrives(legacy: Caller) -> None:
    noting = legacy.known(meta=b'{"progressToken":"tok"}')
    exchange = await noting.send(Verb.TOOLS_CALL, name="test_streaming_elicitation")
    seen = await answered(noting, exchange, ANSWERS)
    methods = ["notifications/progress", "elicitation/create", "notifications/progress"]
    assert [message["method"] for message in seen.events] == methods
    assert seen.text == "Hello, Ada!"


# Answers


@pytest.mark.requirement("for-legacy:answers")
async def test_only_the_client_that_was_asked_can_answer(upstream: McpHttpUpstream) -> None:
    async with scripted(asking(wanting(user=form()))) as server:
        caller = client_of(upstream, server.url, capabilities=ABLE)
        exchange = await caller.send(Verb.TOOLS_CALL, name="t")
        question = await next_question(exchange)
        strangers = [
            dataclasses.replace(caller, who=BOB),
            dataclasses.replace(caller, session="s-2"),
            dataclasses.replace(caller, target=dataclasses.replace(caller.target, server="other")),
        ]
        for stranger in strangers:
            await stranger.call("t")  # whose sessions have crossed, too
            with pytest.raises(InvalidRequest, match="open"):
                await answer(stranger, question["id"], b'{"action":"accept","content":{"name":"Eve"}}')
        assert "inputResponses" not in str([asked.params for asked in server.asked])
        await answer(caller, question["id"], ACCEPTED)
        with pytest.raises(InvalidRequest, match="open"):
            await answer(caller, question["id"], ACCEPTED)
        assert (await read(exchange)).text == "done"


@pytest.mark.requirement("for-legacy:answers")
async def test_an_answer_passes_a_gate_of_its_own(upstream: McpHttpUpstream) -> None:
    async with scripted(asking(wanting(user=form()))) as server:
        caller = client_of(upstream, server.url, capabilities=ABLE)
        exchange = await caller.send(Verb.TOOLS_CALL, name="t")
        forwarded = {"id": b"%d" % (await next_question(exchange))["id"], "result": ACCEPTED}
        with pytest.raises(Killed):
            await caller.ask(Verb.ANSWER, CountingGate(closed=Killed("stopped")), forwarded=forwarded)
        with pytest.raises(InvalidRequest, match="object"):
            await caller.ask(Verb.ANSWER, forwarded={**forwarded, "result": b"[]"})
        assert len(server.of("tools/call")) == 1
        assert (await caller.ask(Verb.ANSWER, forwarded=forwarded)).last.status == 202
        assert (await read(exchange)).text == "done"


# What a client can be asked


async def refused(upstream: McpHttpUpstream, question: Mapping[str, Any], verb: Verb, **facts: Any) -> str:
    """Return why a client was not asked; nothing reaches it, and nothing more the server."""
    async with scripted(asking(wanting(k=question))) as server:
        seen = await call(client_of(upstream, server.url, **facts), {}, verb)
        assert seen.kinds == ["whole"]
        assert len(server.asked) - len(server.of("server/discover")) - len(server.of("initialize")) == 1
    return said_of(seen)


@pytest.mark.requirement("for-legacy:askable")
@pytest.mark.parametrize("verb", [Verb.TOOLS_CALL, Verb.PROMPTS_GET, Verb.RESOURCES_READ])
@pytest.mark.parametrize(
    ("question", "facts", "why"),
    [
        (form(), {"capabilities": b'{"sampling":{}}'}, "ask the user"),
        (form(), {"capabilities": b'{"elicitation":{"url":{}}}'}, "does not have"),
        (form(), {"capabilities": ABLE, "protocol_version": "2025-03-26"}, "ask the user"),
        (SAMPLING, {"capabilities": ABLE, "protocol_version": "2025-03-26"}, "model"),
        (ROOTS, {"capabilities": ABLE, "protocol_version": "2025-03-26"}, "roots"),
        (ROOTS, {}, "roots"),
        (SAMPLING, {}, "model"),
        (at_url("https://x.example"), {"capabilities": b'{"elicitation":{}}'}, "URL"),
        (at_url("https://x.example"), {"capabilities": ABLE, "protocol_version": "2025-06-18"}, "URL"),
        ({"method": "ping"}, {"capabilities": ABLE}, "cannot be asked"),
        ({"method": "elicitation/create", "params": {"mode": "smoke"}}, {"capabilities": ABLE}, "does not have"),
        (
            {"method": "sampling/createMessage", "params": {"messages": [], "tools": []}},
            {"capabilities": b'{"sampling":{}}'},
            "tools",
        ),
        (
            form(colors={"type": "array", "items": {"type": "string", "enum": ["red"]}}),
            {"capabilities": ABLE, "protocol_version": "2025-06-18"},
            "choice",
        ),
        (
            form(color={"type": "string", "oneOf": [{"title": "Red"}]}),
            {"capabilities": ABLE, "protocol_version": "2025-06-18"},
            "cannot read",
        ),
    ],
)
async def test_what_a_client_cannot_be_asked_ends_the_call_with_the_reason(
    upstream: McpHttpUpstream, question: Mapping[str, Any], verb: Verb, facts: dict[str, Any], why: str
) -> None:
    assert why in await refused(upstream, question, verb, **facts)


@pytest.mark.requirement("for-legacy:askable")
async def test_a_form_of_2025_06_18_has_no_mode_and_titles_as_it_knows_them(upstream: McpHttpUpstream) -> None:
    titled = {"type": "string", "title": "T", "oneOf": [{"const": "r", "title": "Red"}, {"const": "b"}]}
    asked_for = form(color=titled, name={"type": "string", "format": "email"})
    async with scripted(asking(wanting(k=asked_for))) as server:
        caller = client_of(upstream, server.url, capabilities=ABLE, protocol_version="2025-06-18")
        exchange = await caller.send(Verb.TOOLS_CALL, name="t")
        question = await next_question(exchange)
        await exchange.aclose(None)
    assert question["params"] == {
        "message": "Who are you?",
        "requestedSchema": {
            "type": "object",
            "properties": {
                "color": {"type": "string", "title": "T", "enum": ["r", "b"], "enumNames": ["Red", "b"]},
                "name": {"type": "string", "format": "email"},
            },
        },
    }


@pytest.mark.requirement("for-legacy:askable")
@pytest.mark.parametrize(
    ("revision", "content"),
    [("2025-06-18", {"type": "text", "text": "a"}), ("2025-11-25", [{"type": "text", "text": "a"}])],
)
async def test_messages_for_the_clients_model_are_those_of_its_revision(
    upstream: McpHttpUpstream, revision: str, content: Any
) -> None:
    async with scripted(asking(wanting(k=SAMPLING))) as server:
        caller = client_of(upstream, server.url, capabilities=ABLE, protocol_version=revision)
        exchange = await caller.send(Verb.TOOLS_CALL, name="t")
        question = await next_question(exchange)
        await exchange.aclose(None)
    assert question["params"] == {"messages": [{"role": "user", "content": content}], "maxTokens": 5}


@pytest.mark.requirement("for-legacy:askable")
async def test_a_question_keeps_of_its_meta_what_means_something_to_the_client(upstream: McpHttpUpstream) -> None:
    meta = {"own": 1, "progressToken": 3, "io.modelcontextprotocol/clientInfo": {}}
    question = {"method": "roots/list", "params": {"_meta": meta}}
    async with scripted(asking(wanting(k=question))) as server:
        exchange = await client_of(upstream, server.url, capabilities=ABLE).send(Verb.TOOLS_CALL, name="t")
        assert (await next_question(exchange))["params"] == {"_meta": {"own": 1}}
        await exchange.aclose(None)


@pytest.mark.requirement("for-legacy:askable")
async def test_a_user_is_sent_to_a_url_once_and_told_when_that_is_done(
    upstream: McpHttpUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mcp_for_legacy_call, "AWAY_PAUSE_S", 0.01)
    there = wanting(state="s", login=at_url("https://login.example/1"))
    async with scripted(asking(there, there, there)) as server:
        caller = client_of(upstream, server.url, capabilities=ABLE)
        seen = await call(caller, {"elicitation/create": b'{"action":"accept"}'})
        retries = server.of("tools/call")[1:]
    question, done = seen.events
    assert question["params"] == {
        "mode": "url",
        "message": "Sign in",
        "url": "https://login.example/1",
        "elicitationId": question["params"]["elicitationId"],
    }
    assert done["method"] == "notifications/elicitation/complete"
    assert done["params"] == {"elicitationId": question["params"]["elicitationId"]}
    assert [asked.params["inputResponses"] for asked in retries] == [{"login": {"action": "accept"}}] * 3
    assert seen.text == "done"


@pytest.mark.requirement("for-legacy:askable")
async def test_a_user_who_did_not_want_to_go_to_a_url_is_asked_again_if_the_server_wants(
    upstream: McpHttpUpstream,
) -> None:
    there = wanting(login=at_url("https://login.example/1"))
    async with scripted(asking(there, there)) as server:
        caller = client_of(upstream, server.url, capabilities=ABLE)
        seen = await call(caller, {"elicitation/create": b'{"action":"decline"}'})
    assert [message["method"] for message in seen.events] == ["elicitation/create"] * 2
    assert len({message["params"]["elicitationId"] for message in seen.events}) == 2


# Bounds


@pytest.mark.requirement("for-legacy:rounds")
async def test_a_server_that_only_wants_to_be_asked_again_is_asked_after_growing_pauses_and_not_for_ever(
    upstream: McpHttpUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    paused: list[float] = []

    async def sleep(pause_s: float) -> None:
        paused.append(pause_s)

    monkeypatch.setattr("mcpgw.upstream.mcp_for_legacy_call.asyncio.sleep", sleep)
    async with scripted(asking(*[wanting(state="s")] * 20)) as server:
        seen = await client_of(upstream, server.url).call("t")
        assert len(server.of("tools/call")) == 1 + mcp_for_legacy_call.MAX_ROUNDS
    assert paused == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0, 2.0]
    assert seen.kinds == ["whole"]
    assert "10 rounds" in said_of(seen)


@pytest.mark.requirement("for-legacy:rounds")
async def test_a_server_that_asks_without_end_is_given_up_on(upstream: McpHttpUpstream) -> None:
    async with scripted(asking(*[wanting(user=form())] * 20)) as server:
        seen = await call(client_of(upstream, server.url, capabilities=ABLE))
    assert "10 rounds" in said_of(seen)
    assert len(seen.events) == mcp_for_legacy_call.MAX_ROUNDS


@pytest.mark.requirement("for-legacy:rounds")
@pytest.mark.parametrize("limit", ["held_s", "stream_s"])
async def test_a_client_that_does_not_answer_in_time_is_not_waited_for(clock: HandClock, limit: str) -> None:
    limits = LIMITS.model_copy(update={limit: 0.2})
    http = HttpClient(limits, lambda address: True)
    async with scripted(asking(wanting(user=form()))) as server:
        caller = client_of(mcp_http(http, clock, limits), server.url, capabilities=ABLE)
        seen = await caller.call("t")
        question, withdrawn = seen.events
        assert withdrawn["method"] == "notifications/cancelled"
        assert withdrawn["params"] == {"requestId": question["id"]}
        assert "in time" in said_of(seen)
        with pytest.raises(InvalidRequest):
            await answer(caller, question["id"], ACCEPTED)
    await http.aclose()


@pytest.mark.requirement("for-legacy:rounds")
async def test_a_client_that_thinks_for_long_hears_that_it_is_waited_for(
    upstream: McpHttpUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mcp_for_legacy_call, "KEEP_ALIVE_S", 0.01)
    async with scripted(asking(wanting(user=form()))) as server:
        exchange = await client_of(upstream, server.url, capabilities=ABLE).send(Verb.TOOLS_CALL, name="t")
        await next_question(exchange)
        with anyio.fail_after(5):
            alive = await anext(aiter(exchange))
        await exchange.aclose(None)
    assert (alive.kind, alive.body) == (PartKind.EVENT, b"")


@pytest.mark.requirement("for-legacy:rounds")
@pytest.mark.parametrize(
    "result",
    [
        {"resultType": "input_required"},
        {"resultType": "input_required", "requestState": 7},
        {"resultType": "input_required", "inputRequests": []},
        {"resultType": "task", "taskId": "1"},
        {"resultType": "input_required", "inputRequests": {str(n): ROOTS for n in range(33)}},
    ],
)
async def test_a_server_that_asks_in_no_way_that_there_is_fails_its_call(
    upstream: McpHttpUpstream, result: dict[str, Any]
) -> None:
    async with scripted(asking(result)) as server:
        with pytest.raises(UpstreamFailed) as failed:
            await call(client_of(upstream, server.url, capabilities=ABLE))
    assert failed.value.data["cause"] in {"malformed", "not_complete", "task", "too_many_questions"}


@pytest.mark.requirement("for-legacy:rounds")
async def test_a_list_cannot_ask(upstream: McpHttpUpstream) -> None:
    async def listed(asked: Asked, peer: Peer) -> bytes:
        return reply(asked, wanting(user=form()))

    async with scripted(Stateless(prompts_list=listed)) as server:
        with pytest.raises(UpstreamFailed):
            await client_of(upstream, server.url, capabilities=ABLE).ask(Verb.PROMPTS_LIST)


# Ends


@pytest.mark.requirement("for-legacy:ended")
@pytest.mark.parametrize("verb", [Verb.TOOLS_CALL, Verb.PROMPTS_GET])
async def test_a_client_that_answers_with_an_error_ends_the_call_and_is_asked_nothing_more(
    upstream: McpHttpUpstream, verb: Verb
) -> None:
    async with scripted(asking(wanting(user=form(), where=ROOTS))) as server:
        caller = client_of(upstream, server.url, capabilities=ABLE)
        exchange = await caller.send(verb, name="t")
        first = await next_question(exchange)
        second = await next_question(exchange)
        await answer(caller, first["id"], b'{"code":-1,"message":"the dialog broke"}', member="error")
        seen = await read(exchange)
        assert len(server.of(verb.value)) == 1
    (withdrawn,) = seen.events
    assert withdrawn["params"] == {"requestId": second["id"]}
    assert said_of(seen) == "the client refused elicitation/create: the dialog broke"
    with pytest.raises(InvalidRequest):
        await answer(caller, second["id"], ANSWERS["roots/list"])


@pytest.mark.requirement("for-legacy:ended")
async def test_a_call_that_is_let_go_while_its_client_is_asked_is_over(upstream: McpHttpUpstream) -> None:
    async with scripted(asking(wanting(user=form()))) as server:
        caller = client_of(upstream, server.url, capabilities=ABLE)
        exchange = await caller.send(Verb.TOOLS_CALL, name="t")
        question = await next_question(exchange)
        waiting = asyncio.create_task(read(exchange))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await exchange.aclose(Cancelled("cancelled by the client"))
        with pytest.raises(InvalidRequest):
            await answer(caller, question["id"], ACCEPTED)
        assert len(server.of("tools/call")) == 1


@pytest.mark.requirement("for-legacy:ended")
async def test_a_retry_that_is_streaming_is_hung_up_on_when_the_call_is_let_go(upstream: McpHttpUpstream) -> None:
    hung_up = asyncio.Event()

    async def rounds(asked: Asked, peer: Peer) -> bytes | None:
        if "inputResponses" not in asked.params:
            return reply(asked, wanting(user=form()))
        await peer.write(STREAM + event(said("notifications/progress", progressToken=1, progress=1)))
        await peer.gone()
        hung_up.set()
        return None

    async with scripted(Stateless(tools_call=rounds)) as server:
        caller = client_of(upstream, server.url, capabilities=ABLE)
        exchange = await caller.send(Verb.TOOLS_CALL, name="t")
        await answer(caller, (await next_question(exchange))["id"], ACCEPTED)
        assert (await anext(aiter(exchange))).kind is PartKind.EVENT
        await exchange.aclose(Cancelled("cancelled by the client"))
        with anyio.fail_after(5):
            await hung_up.wait()


@pytest.mark.requirement("for-legacy:gate")
async def test_a_call_whose_world_moved_while_its_client_was_asked_is_judged_again_before_the_retry(
    upstream: McpHttpUpstream,
) -> None:
    moved = False

    def gate() -> None:
        if moved:
            raise WorldMoved

    async with scripted(asking(wanting(user=form()))) as server:
        caller = client_of(upstream, server.url, capabilities=ABLE)
        exchange = await caller.send(Verb.TOOLS_CALL, gate, name="t")
        question = await next_question(exchange)
        moved = True
        await answer(caller, question["id"], ACCEPTED)
        judged_at = await anext(aiter(exchange))
        assert (judged_at.kind, judged_at.body) == (PartKind.EVENT, b"")
        assert len(server.of("tools/call")) == 1
        moved = False  # judged again, and allowed
        assert (await read(exchange)).text == "done"


@pytest.mark.requirement("for-legacy:gate")
async def test_a_call_that_is_killed_while_its_client_is_asked_is_not_retried(upstream: McpHttpUpstream) -> None:
    async with scripted(asking(wanting(user=form()))) as server:
        caller = client_of(upstream, server.url, capabilities=ABLE)
        await caller.ask(Verb.INITIALIZE)
        gate = CountingGate(closed=Killed("stopped"), closed_from=1)
        exchange = await caller.send(Verb.TOOLS_CALL, gate, name="t")
        await answer(caller, (await next_question(exchange))["id"], ACCEPTED)
        with pytest.raises(Killed):
            await read(exchange)
        assert len(server.of("tools/call")) == 1
