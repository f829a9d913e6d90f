"""Providers with OpenAI's API: chat completions, plain and streamed, as the bytes they came in."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, cast

import msgspec

from mcpgw.config import LimitsSection, LlmSection
from mcpgw.domain import Action, Part, PartKind, Permit, Principal, Verb
from mcpgw.errors import MethodNotFound, NotFound, UnknownName, UpstreamFailed, UpstreamTimeout
from mcpgw.ports import Exchange, Gate
from mcpgw.upstream.http import HttpClient, Response, Url
from mcpgw.upstream.llm.usage import Cost, Usage, facts
from mcpgw.upstream.own import OneAnswer
from mcpgw.upstream.sse import SseEvent, SseSplitter

DONE = b"[DONE]"
USAGE_ONLY = "usage_only"
"""Fact of an event that holds nothing but the usage: a caller who did not ask for it need not get it."""
HEADERS = [(b"content-type", b"application/json"), (b"accept", b"application/json, text/event-stream")]
Sees = Callable[[Principal, Action], Awaitable[bool]]
"""Whether this caller may see the model that the action (verb CHAT) names: policy phase `list`, and no kill switch."""


class _Request(msgspec.Struct, gc=False):
    stream: bool | None = None


class _Answer(msgspec.Struct, gc=False):
    """Of an answer, or of one event of a stream, what the record wants."""

    usage: Any = None
    choices: list[msgspec.Raw] | None = None
    error: Any = None


_request = msgspec.json.Decoder(_Request).decode
_answer = msgspec.json.Decoder(_Answer).decode
_encode = msgspec.json.encode


class OpenAiUpstream:
    """Implements `ports.Upstream` for the route LLM.

    `cost` prices a call. `sees` filters the list of models, which is answered from the configuration.
    """

    def __init__(self, http: HttpClient, llm: LlmSection, limits: LimitsSection, *, cost: Cost, sees: Sees) -> None:
        """Raises UsageError for a base URL that is none."""
        self._http = http
        self._limits = limits
        self._cost = cost
        self._sees = sees
        self._models = [(p.name, model) for p in llm.providers for model in p.models]
        self._urls = {p.name: Url.parse(f"{p.base_url.rstrip('/')}/chat/completions") for p in llm.providers}

    async def send(self, permit: Permit, credential: Mapping[str, str], gate: Gate) -> Exchange:
        action = permit.judged.action
        if action.verb is Verb.MODELS_LIST:
            body = await self._listed(permit.judged.principal, action)
            gate()
            return OneAnswer(Part(PartKind.WHOLE, body))
        if action.verb is not Verb.CHAT:
            raise MethodNotFound(f"{action.verb.value} is not offered by model providers")
        url = self._urls.get(action.server or "")
        if url is None:
            raise UnknownName(f"Unknown model: {action.name}")
        body = permit.judged.arguments.raw
        streams = bool(_request(body).stream)
        headers = [*HEADERS, *((k.encode("latin-1"), v.encode("latin-1")) for k, v in credential.items())]
        # A whole answer begins when the model has ended.
        first_byte_s = self._limits.first_byte_s if streams else self._limits.call_s
        response = await self._http.request(b"POST", url, headers, body, gate, first_byte_s=first_byte_s)
        return Completion(response, action, self._limits, streams=streams, cost=self._cost)

    async def _listed(self, who: Principal, action: Action) -> bytes:
        """Return the list of the models that the caller may see; of one model, where the action names it."""
        seen: list[dict[str, Any]] = []
        for provider, model in self._models:
            if action.name not in (None, f"{provider}/{model}"):
                continue
            chat = dataclasses.replace(action, verb=Verb.CHAT, server=provider, name=model)
            if await self._sees(who, chat):
                seen.append({"id": f"{provider}/{model}", "object": "model", "created": 0, "owned_by": provider})
        if action.name is None:
            return _encode({"object": "list", "data": seen})
        if not seen:
            raise NotFound("no such model", fix="GET /v1/models lists them")
        return _encode(seen[0])


class Completion:
    """A provider's answer that is arriving."""

    def __init__(self, response: Response, action: Action, limits: LimitsSection, *, streams: bool, cost: Cost) -> None:
        self._response = response
        self._provider = action.server or ""
        self._model = action.name or ""
        self._limits = limits
        self._cost = cost
        self._used: Usage | None = None
        self._media_type = response.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        is_stream = streams and response.status == 200 and self._media_type == b"text/event-stream"
        self._parts = self._stream() if is_stream else self._whole()

    def __aiter__(self) -> AsyncIterator[Part]:
        return self._parts

    async def aclose(self, reason: BaseException | None) -> None:
        await self._parts.aclose()
        await self._response.aclose()

    async def _whole(self) -> AsyncGenerator[Part, None]:
        status = self._response.status
        if 300 <= status < 400:
            raise self._failed(f"answered with a redirect (HTTP {status}), which is not followed")
        if status in {401, 403}:
            # Its body may quote the key.
            raise self._failed(f"refused the gateway's credential (HTTP {status})")
        if self._media_type != b"application/json" or not (status == 200 or status >= 400):
            raise self._failed(f"answered HTTP {status} with neither JSON nor the stream asked for")
        body = await self._response.body()
        self._note(self._understood(body))
        yield Part(PartKind.WHOLE, body, status, failed=status != 200, facts=self._facts())

    async def _stream(self) -> AsyncGenerator[Part, None]:
        yield Part(PartKind.OPENED, facts={"upstream_status": 200})
        now = asyncio.get_running_loop().time
        until = now() + self._limits.stream_s
        splitter = SseSplitter(self._limits.result_bytes)
        async with aclosing(cast(AsyncGenerator[bytes, None], self._response.chunks())) as chunks:
            async for chunk in chunks:
                if now() >= until:
                    raise UpstreamTimeout(f"the stream of `{self._provider}` lasted longer than limits.stream_s")
                for event in splitter.feed(chunk):
                    part = self._part(event)
                    yield part
                    if part.kind is PartKind.LAST:
                        return
        rest = splitter.finish()
        if rest is None or rest.data != DONE:
            raise self._failed("ended its stream before the end of the answer")
        yield self._part(dataclasses.replace(rest, raw=rest.raw + b"\n\n"))

    def _part(self, event: SseEvent) -> Part:
        if event.data == DONE:
            return Part(PartKind.LAST, event.raw, facts=self._facts())
        if not event.data:
            return Part(PartKind.EVENT, event.raw)
        answer = self._understood(event.data)
        if answer.error is not None:
            return Part(PartKind.LAST, event.raw, failed=True, facts=self._facts())
        if self._note(answer) and not answer.choices:
            return Part(PartKind.EVENT, event.raw, facts={USAGE_ONLY: True})
        return Part(PartKind.EVENT, event.raw)

    def _understood(self, text: bytes) -> _Answer:
        try:
            return _answer(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise self._failed("answered with what is not JSON in OpenAI's form") from None

    def _note(self, answer: _Answer) -> bool:
        """Remember the usage, the last one counts; say whether there was one."""
        if answer.usage is None:
            return False
        try:
            self._used = msgspec.convert(answer.usage, Usage)
        except msgspec.ValidationError:
            return False  # counts that are none are not in the record
        return True

    def _facts(self) -> Mapping[str, Any]:
        told: dict[str, Any] = {"upstream_status": self._response.status}
        if self._used is not None:
            told.update(facts(self._used, self._cost(self._provider, self._model, self._used)))
        return told

    def _failed(self, what: str) -> UpstreamFailed:
        return UpstreamFailed(f"provider `{self._provider}` {what}", fix="check llm.providers, or try later")
