"""The LLM route from the client's socket to the provider's and back, through the real request path."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from mcpgw.config import LimitsSection, Provider
from mcpgw.domain import Decision, Effect, Scope, Verb
from mcpgw.ports import Question
from mcpgw.upstream.http import Response
from tests.edge.llm_parts import Place, place
from tests.eventually import eventually
from tests.fixtures.llm_provider import Provider as Fixture
from tests.fixtures.llm_provider import provider
from tests.parts import Rules, decision, switch

ASK = [{"role": "user", "content": "to be or not to be"}]
TOOLS = [{"type": "function", "function": {"name": "read"}}, {"type": "function", "function": {"name": "delete"}}]
CALLS = [["read", {"path": "a"}], ["delete", {"path": "b"}]]


@pytest.fixture
def anyio_backend() -> Any:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture
async def model() -> AsyncIterator[Fixture]:
    async with provider() as running:
        yield running


def no_deletes(question: Question) -> Effect | Decision:
    """A policy: the tool `delete` is denied, the model `secret` is invisible, `plain` costs nothing."""
    if question.action.verb is Verb.TOOLS_PROPOSE and question.name == "delete" and question.phase == "call":
        return decision(Effect.DENY, rule="no-deletes")
    return Effect.DENY if question.name == "secret" else Effect.ALLOW


@pytest.fixture
async def gate(model: Fixture) -> AsyncIterator[Place]:
    acme = Provider(name="acme", base_url=model.base_url, models=("plain", "tools", "secret", "never-done"))
    open_to_all = Provider(name="open", base_url=model.base_url + "/")
    async with place(acme, open_to_all, policy=Rules(no_deletes)) as running:
        yield running


async def told(response: Response) -> Any:
    return json.loads(await response.body())


async def events(response: Response) -> list[bytes]:
    text = b"".join([chunk async for chunk in response.chunks()])
    return [block for block in text.split(b"\n\n") if block]


def spoken(blocks: list[bytes]) -> str:
    said = ""
    for block in blocks:
        if block.startswith(b"data: {"):
            for choice in json.loads(block[6:])["choices"]:
                said += choice["delta"].get("content") or ""
    return said


@pytest.mark.requirement("llm:passthrough")
async def test_a_completion_passes_both_ways_as_the_bytes_it_came_in(gate: Place, model: Fixture) -> None:
    body = b'{ "messages": [{"role":"user","content":"to  be"}],\n "model":"plain", "seed":12345678901234 }'
    response = await gate.post(body)
    raw = await response.body()
    assert response.status == 200
    assert model.bodies == [body]
    assert json.loads(raw)["choices"][0]["message"]["content"] == "to  be"
    assert raw == json.dumps(json.loads(raw)).encode()
    head = model.asked[0][0].lower()
    assert b"authorization: bearer upstream-key-of-acme\r\n" in head
    assert b"good-key" not in head


@pytest.mark.requirement("llm:receipt")
async def test_every_answer_names_its_action_and_carries_its_receipt(gate: Place) -> None:
    response = await gate.post({"model": "acme/plain", "messages": ASK})
    await response.body()
    assert response.headers[b"mcpgw-receipt"] == b"w0/2/leaf"
    ((action, _),) = gate.of("intent")
    assert response.headers[b"mcpgw-action"].decode() == action.id
    assert (action.server, action.name, action.verb, action.resource) == ("acme", "plain", Verb.CHAT, "/v1")
    streamed = await gate.post({"model": "plain", "messages": ASK, "stream": True})
    blocks = await events(streamed)
    assert b"mcpgw-action" in streamed.headers
    assert blocks[-2:] == [b": mcpgw-receipt: w0/4/leaf", b"data: [DONE]"]


@pytest.mark.requirement("llm:usage")
async def test_usage_and_cost_are_recorded_before_the_answer_ends(gate: Place) -> None:
    counted = {"input_tokens": 1000, "output_tokens": 100, "cached_tokens": 200, "reasoning_tokens": 0}
    for stream in (False, True):
        response = await gate.post({"model": "plain", "messages": ASK, "stream": stream})
        _ = [chunk async for chunk in response.chunks()]
        assert gate.of("outcome")[-1][1] == {"upstream_status": 200, **counted, "cost_usd": 0.001}


@pytest.mark.requirement("llm:judged-is-sent")
async def test_what_the_provider_needs_otherwise_is_rewritten_before_it_is_judged(gate: Place, model: Fixture) -> None:
    body = b'{"messages":[{"role":"user","content":"\\u00e9 a b"}],"model":"acme/plain","stream":true,"seed":1.50}'
    await events(await gate.post(body))
    sent = model.bodies[0]
    assert sent == (
        b'{"messages":[{"role":"user","content":"\\u00e9 a b"}],"model":"plain","stream":true,"seed":1.50,'
        b'"stream_options":{"include_usage":true}}'
    )
    judged = [q.arguments.raw for q in gate.policy.asked if q.phase == "call" and q.arguments is not None]
    assert judged == [sent]
    assert gate.of("intent")[0][1] == sent


@pytest.mark.requirement("llm:stream")
async def test_a_stream_passes_as_it_is_and_only_who_asked_sees_the_usage(gate: Place) -> None:
    asked = {"model": "plain", "messages": ASK, "stream": True}
    plain = await events(await gate.post(asked))
    assert spoken(plain) == "to be or not to be "
    assert not any(b'"usage"' in block for block in plain)
    assert plain[-1] == b"data: [DONE]"
    told = await events(await gate.post({**asked, "stream_options": {"include_usage": True}}))
    assert json.loads(told[-3][6:])["usage"]["prompt_tokens"] == 1000
    assert told[:-3] == plain[:-2]


@pytest.mark.requirement("llm:closed-table")
@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"temprature": 1}, 400, "did you mean `temperature`?"),
        ({"x" * 5000: 1}, 400, "unknown field"),
        ({"functions": []}, 400, "use `tools`"),
        ({"web_search_options": {}}, 403, "`web_search_options` would have the provider act"),
        ({"tools": [{"type": "web_search_preview"}]}, 403, "`web_search_preview`"),
        ({"tools": [{"type": "mcp", "server_url": "https://x.example"}]}, 403, "`mcp`"),
        ({"tools": [{"type": "code_interpreter", "container": {"type": "auto"}}]}, 403, "act for you"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, 400, "unknown tool type `custom`"),
        ({"tools": [{"type": "function"}]}, 400, "function.name"),
        ({"tools": {}}, 400, "not a list"),
        ({"tool_choice": {"type": "mcp"}}, 403, "`mcp`"),
        ({"tool_choice": "sometimes"}, 400, "tool_choice"),
        (
            {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"type": "mcp"}]}}},
            403,
            "`mcp`",
        ),
        ({"stream": "yes"}, 400, "neither true nor false"),
        ({"stream_options": {"x": 1}}, 400, "stream_options"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "root", "content": "x"}]}, 400, "no known role"),
        ({"model": 7}, 400, "`model` is missing"),
    ],
)
async def test_what_is_not_in_the_table_is_refused_by_name(
    gate: Place, model: Fixture, change: dict[str, Any], status: int, words: str
) -> None:
    response = await gate.post({"model": "plain", "messages": ASK, **change})
    error = (await told(response))["error"]
    assert response.status == status
    assert words in error["message"]
    assert len(error["message"]) < 400
    assert error["type"] == ("permission_error" if status == 403 else "invalid_request_error")
    assert error["param"]
    assert model.asked == []
    assert gate.of("refused")[0][1] == error["code"]


@pytest.mark.requirement("llm:strict-body")
@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "parse_error"),
        (b"{", "parse_error"),
        (b"[]", "invalid_request"),
        (b'{"model":"plain","model":"secret","messages":[]}', "invalid_request"),
        (b'{"model":"plain","messages":[{"role":"user","content":"a","c\\u006fntent":"b"}]}', "invalid_request"),
        (b'{"model":"plain","messages":[],"seed":NaN}', "parse_error"),
        (b'{"model":"plain","messages":' + b"[" * 100 + b"]" * 100 + b"}", "invalid_request"),
    ],
)
async def test_a_body_that_two_parsers_could_read_differently_is_refused(gate: Place, body: bytes, code: str) -> None:
    response = await gate.post(body)
    assert (response.status, (await told(response))["error"]["code"]) == (400, code)


@pytest.mark.requirement("llm:order")
async def test_authentication_comes_before_everything_that_a_body_says(gate: Place) -> None:
    for body in ({"model": "plain", "messages": ASK}, {"nonsense": 1}, b"not json"):
        for key in (None, "bad-key"):
            response = await gate.post(body, key=key)
            error = (await told(response))["error"]
            assert (response.status, error["type"]) == (401, "authentication_error")
            assert response.headers[b"www-authenticate"] == b'Bearer scope="llm:use"'
    large = LimitsSection(body_bytes=2000)
    async with place(limits=large) as small:
        assert (await small.post(b"x" * 3000, key=None)).status == 413


async def test_only_json_is_taken(gate: Place) -> None:
    response = await gate.post({"model": "plain", "messages": ASK}, content_type="text/plain")
    assert response.status == 415


@pytest.mark.requirement("llm:visibility")
async def test_a_model_that_may_not_be_seen_answers_like_one_that_nobody_has(gate: Place, model: Fixture) -> None:
    answers = []
    for name in ("acme/secret", "acme/nothing"):
        response = await gate.post({"model": name, "messages": ASK})
        headers = {k: v for k, v in response.headers.items() if k not in {b"mcpgw-action", b"date", b"content-length"}}
        answers.append((response.status, headers, (await response.body()).replace(name.encode(), b"NAME")))
    assert answers[0] == answers[1]
    assert model.asked == []
    assert (await gate.post({"model": "other/plain", "messages": ASK})).status == 400
    assert (await gate.post({"model": "open/anything", "messages": ASK})).status == 200


@pytest.mark.requirement("llm:models")
async def test_the_list_of_models_holds_what_the_caller_may_use(gate: Place, model: Fixture) -> None:
    listed = await told(await gate.ask(b"GET", "/v1/models"))
    assert [m["id"] for m in listed["data"]] == ["acme/plain", "acme/tools", "acme/never-done"]
    assert (await told(await gate.ask(b"GET", "/v1/models/acme/plain")))["owned_by"] == "acme"
    assert (await told(await gate.ask(b"GET", "/v1/models/acme%2Fplain")))["id"] == "acme/plain"
    hidden = await gate.ask(b"GET", "/v1/models/acme/secret")
    missing = await gate.ask(b"GET", "/v1/models/acme/missing")
    assert (hidden.status, await hidden.body()) == (404, await missing.body())
    gate.throw(switch(Scope.MODEL, "acme/plain"))
    listed = await told(await gate.ask(b"GET", "/v1/models"))
    assert [m["id"] for m in listed["data"]] == ["acme/tools", "acme/never-done"]
    assert (await gate.ask(b"GET", "/v1/models", key=None)).status == 401
    assert model.asked == []


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [(b"GET", "/v1/chat/completions", 405), (b"POST", "/v1/models", 405), (b"POST", "/v1/responses", 404)],
)
async def test_what_is_not_served_says_so_in_openais_form(gate: Place, method: bytes, path: str, status: int) -> None:
    response = await gate.ask(method, path)
    assert response.status == status
    assert (await told(response))["error"]["type"] == "invalid_request_error"


@pytest.mark.requirement("llm:proposals")
@pytest.mark.parametrize("stream", [False, True])
async def test_a_proposed_call_that_the_policy_denies_does_not_leave(gate: Place, stream: bool) -> None:
    messages = [{"role": "user", "content": json.dumps(CALLS)}]
    response = await gate.post({"model": "tools", "messages": messages, "tools": TOOLS, "stream": stream})
    if stream:
        blocks = await events(response)
        text, raw = spoken(blocks), b"".join(blocks)
        assert text.startswith("Let me see. ")
        assert b'"finish_reason":"tool_calls"' in raw
    else:
        raw = await response.body()
        choice = json.loads(raw)["choices"][0]
        text = choice["message"]["content"]
        assert [c["function"]["name"] for c in choice["message"]["tool_calls"]] == ["read"]
        assert choice["finish_reason"] == "tool_calls"
    assert "`delete`" in text and "no-deletes" in text
    assert b'"delete"' not in raw
    children = [(a.name, a.parent, what) for a, what in gate.of("intent") if a.verb is Verb.TOOLS_PROPOSE]
    parent = next(a.id for a, _ in gate.of("intent") if a.verb is Verb.CHAT)
    assert children == [("read", parent, b'{"path": "a"}')]
    assert [a.name for a, _ in gate.of("refused")] == ["delete"]
    assert gate.of("outcome")[-1][1]["proposed"] == 2
    assert gate.of("outcome")[-1][1]["refused"] == 1


@pytest.mark.requirement("llm:upstream-errors")
@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("limited", 429, "rate_limit_exceeded"),
        ("wrong-key", 502, "upstream_failed"),
        ("html", 502, "upstream_failed"),
        ("redirects", 502, "upstream_failed"),
    ],
)
async def test_a_provider_that_refuses_is_reported_without_its_secrets(
    gate: Place, name: str, status: int, code: str
) -> None:
    response = await gate.post({"model": f"open/{name}", "messages": ASK})
    body = await response.body()
    assert (response.status, json.loads(body)["error"]["code"]) == (status, code)
    assert b"hunter2" not in body


@pytest.mark.requirement("llm:cut-stream")
async def test_a_stream_that_is_cut_ends_with_an_error_and_not_with_done(gate: Place) -> None:
    blocks = await events(await gate.post({"model": "open/cuts", "messages": ASK, "stream": True}))
    assert json.loads(blocks[-1][6:])["error"]["code"] == "upstream_failed"
    assert b"data: [DONE]" not in blocks
    blocks = await events(await gate.post({"model": "open/says-error", "messages": ASK, "stream": True}))
    assert json.loads(blocks[-1][6:])["error"]["message"] == "overloaded"


@pytest.mark.requirement("llm:kill")
async def test_a_kill_of_the_model_cuts_its_running_stream(gate: Place, model: Fixture) -> None:
    response = await gate.post({"model": "never-done", "messages": ASK, "stream": True})
    blocks = b""
    with anyio.fail_after(5):
        async for chunk in response.chunks():
            blocks += chunk
            if b"to " in blocks and not gate.world.switches:
                await model.started.wait()
                gate.throw(switch(Scope.MODEL, "acme/never-done"))
        await model.gone.wait()
    last = json.loads(blocks.strip().split(b"\n\n")[-1][6:])["error"]
    assert (last["code"], last["data"]["reason"]) == ("killed", "killed")
    again = await gate.post({"model": "never-done", "messages": ASK})
    assert again.status == 403
    assert len(model.asked) == 1


@pytest.mark.requirement("llm:disconnect")
@pytest.mark.parametrize(("name", "stream"), [("never-done", True), ("hangs", False)])
async def test_a_client_that_goes_away_ends_the_providers_work(
    gate: Place, model: Fixture, name: str, stream: bool
) -> None:
    provider_name = "open/hangs" if name == "hangs" else name
    call = asyncio.create_task(gate.post({"model": provider_name, "messages": ASK, "stream": stream}))
    with anyio.fail_after(5):
        await model.started.wait()
        if stream:
            await (await call).aclose()
        else:
            call.cancel()
        await model.gone.wait()
    assert gate.board.calls == {} or await _settled(gate)


async def _settled(gate: Place) -> bool:
    await eventually(lambda: not gate.board.calls, within_s=2)
    return True


@pytest.mark.requirement("llm:deadlines")
async def test_a_provider_that_hangs_costs_a_timeout(model: Fixture) -> None:
    slow = Provider(name="slow", base_url=model.base_url)
    async with place(slow, limits=LimitsSection(call_s=0.3, first_byte_s=5.0)) as gate:
        response = await gate.post({"model": "slow/hangs", "messages": ASK})
        assert (response.status, (await told(response))["error"]["code"]) == (504, "upstream_timeout")
        await model.gone.wait()
