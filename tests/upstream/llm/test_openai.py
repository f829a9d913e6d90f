"""The adapter of OpenAI's API against providers that answer in odd ways."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from mcpgw.config import LimitsSection, LlmSection, Provider
from mcpgw.domain import (
    Action,
    Arguments,
    Decision,
    Effect,
    Judged,
    Part,
    PartKind,
    Permit,
    Principal,
    Receipt,
    Route,
    Verb,
)
from mcpgw.errors import Killed, MethodNotFound, UnknownName, UpstreamFailed, UpstreamTimeout, UsageError
from mcpgw.upstream.http import HttpClient
from mcpgw.upstream.llm.openai import OpenAiUpstream
from tests.fixtures.raw_http import Script, always, answer, once, serve
from tests.parts import agent

JSON = b"content-type: application/json"
SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n\r\n"
HELLO = b'data: {"choices":[{"index":0,"delta":{"content":"hello"}}]}\n\n'
DONE = b"data: [DONE]\n\n"


@pytest.fixture
async def client() -> AsyncIterator[HttpClient]:
    made = HttpClient(LimitsSection(), lambda address: True)
    yield made
    await made.aclose()


def permit(*, stream: bool = True, **change: Any) -> Permit:
    asked: dict[str, Any] = {
        "id": "a",
        "route": Route.LLM,
        "verb": Verb.CHAT,
        "resource": "/v1",
        "received_at": 0.0,
        "server": "acme",
        "name": "m",
        "arguments": Arguments(json.dumps({"model": "m", "stream": stream}).encode()),
    }
    action = Action(**(asked | change))
    judged = Judged(
        principal=agent(),
        action=action,
        decision=Decision(Effect.ALLOW, ("rule",), "p"),
        arguments=action.arguments,
        epoch=1,
    )
    return Permit(judged, None, Receipt("w0", 0, ""))


async def seen(who: Principal, chat: Action) -> bool:
    return True


def upstream_of(client: HttpClient, base_url: str, limits: LimitsSection | None = None) -> OpenAiUpstream:
    llm = LlmSection(providers=(Provider(name="acme", base_url=base_url),))
    return OpenAiUpstream(client, llm, limits or LimitsSection(), cost=lambda provider, model, usage: 0.5, sees=seen)


async def ask(client: HttpClient, script: Script, parts: list[Part], *, stream: bool = True, **limits: Any) -> None:
    async with serve(script) as server:
        upstream = upstream_of(client, server.url, LimitsSection(**limits))
        exchange = await upstream.send(permit(stream=stream), {}, lambda: None)
        try:
            async for part in exchange:
                parts.append(part)
        finally:
            await exchange.aclose(None)


@pytest.mark.requirement("llm:stream")
@pytest.mark.parametrize("end", [DONE, b"data: [DONE]", b"data: [DONE]\n", b"data:[DONE]\r\n\r\n"])
async def test_the_end_of_a_stream_is_known_however_it_is_written(client: HttpClient, end: bytes) -> None:
    parts: list[Part] = []
    await ask(client, once(SSE, b": working\n\n" + HELLO, end), parts)
    assert [p.kind for p in parts] == [PartKind.OPENED, PartKind.EVENT, PartKind.EVENT, PartKind.LAST]
    assert b"".join(p.body for p in parts).startswith(b": working\n\n" + HELLO + end)
    assert parts[-1].body.strip().endswith(b"[DONE]")


@pytest.mark.requirement("llm:cut-stream")
@pytest.mark.parametrize("end", [b"", b'data: {"choices":[', b'data: {"choices":[]}\n\n'])
async def test_a_stream_without_its_end_is_a_failure(client: HttpClient, end: bytes) -> None:
    parts: list[Part] = []
    with pytest.raises(UpstreamFailed, match="`acme` ended its stream before the end"):
        await ask(client, once(SSE, HELLO, end), parts)
    assert all(p.kind is not PartKind.LAST for p in parts)


@pytest.mark.requirement("llm:upstream-errors")
@pytest.mark.parametrize(
    ("script", "stream"),
    [
        (once(SSE, b"data: pong\n\n", DONE), True),
        (once(SSE, b"data: [1]\n\n", DONE), True),
        (once(SSE, b'data: {"choices":7}\n\n', DONE), True),
        (once(SSE, HELLO, DONE), False),
        (always(answer(b"{", JSON)), False),
        (always(answer(b"[]", JSON)), False),
        (always(answer(b"", JSON)), False),
        (always(answer(b"{}", b"content-type: text/html")), False),
        (always(answer(b"{}", JSON, status=b"202 Accepted")), False),
        (always(answer(b"upstream down", status=b"503 Service Unavailable")), False),
    ],
)
async def test_an_answer_in_another_form_is_a_failure(client: HttpClient, script: Script, stream: bool) -> None:
    with pytest.raises(UpstreamFailed, match="`acme`"):
        await ask(client, script, [], stream=stream)


async def test_a_json_answer_to_a_stream_is_taken_whole(client: HttpClient) -> None:
    parts: list[Part] = []
    await ask(client, always(answer(b'{"error":{"message":"no"}}', JSON, status=b"400 Bad Request")), parts)
    assert [(p.kind, p.status, p.failed) for p in parts] == [(PartKind.WHOLE, 400, True)]
    assert parts[0].facts == {"upstream_status": 400}


@pytest.mark.requirement("llm:usage")
@pytest.mark.parametrize("usage", ["7", '{"prompt_tokens":-5}', '{"prompt_tokens":"many"}', "null"])
async def test_a_usage_that_is_none_is_not_recorded(client: HttpClient, usage: str) -> None:
    parts: list[Part] = []
    await ask(client, always(answer(b'{"choices":[],"usage":%b}' % usage.encode(), JSON)), parts, stream=False)
    assert parts[0].facts == {"upstream_status": 200}


@pytest.mark.requirement("llm:usage")
async def test_of_several_usages_the_last_counts(client: HttpClient) -> None:
    parts: list[Part] = []
    counts = [b'data: {"choices":[{}],"usage":{"prompt_tokens":%d}}\n\n' % n for n in (1, 2, 3)]
    await ask(client, once(SSE, *counts, DONE), parts)
    assert parts[-1].facts["input_tokens"] == 3
    assert parts[-1].facts["cost_usd"] == 0.5
    assert all(not p.facts for p in parts[1:-1])


@pytest.mark.requirement("llm:deadlines")
async def test_a_stream_ends_with_its_life(client: HttpClient) -> None:
    with pytest.raises(UpstreamTimeout, match="lasted longer"):
        await ask(client, once(SSE, HELLO, DONE), [], stream_s=0.0)


@pytest.mark.requirement("gate:first-write")
async def test_a_closed_gate_lets_nothing_through(client: HttpClient) -> None:
    def shut() -> None:
        raise Killed("stopped")

    async with serve(always(answer(b"{}", JSON))) as server:
        upstream = upstream_of(client, server.url)
        with pytest.raises(Killed):
            await upstream.send(permit(), {}, shut)
        with pytest.raises(Killed):
            await upstream.send(permit(verb=Verb.MODELS_LIST, server=None, name=None), {}, shut)
    assert server.requests == []


async def test_only_what_a_provider_offers_is_asked_of_it(client: HttpClient) -> None:
    upstream = upstream_of(client, "http://127.0.0.1:1/v1")
    with pytest.raises(UnknownName):
        await upstream.send(permit(server="other"), {}, lambda: None)
    with pytest.raises(UnknownName):
        await upstream.send(permit(server=None), {}, lambda: None)
    with pytest.raises(MethodNotFound):
        await upstream.send(permit(verb=Verb.TOOLS_CALL), {}, lambda: None)
    with pytest.raises(UsageError):
        upstream_of(client, "https://user:secret@provider.example/v1")
