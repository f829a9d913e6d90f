"""A call of a handshake-era client on a modern server: one request, and one more for each round of questions."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from mcpgw.config import LimitsSection
from mcpgw.domain import Action, ClientFacts, Judged, Part, PartKind, Verb
from mcpgw.errors import InvalidRequest, WorldMoved
from mcpgw.ports import Exchange
from mcpgw.upstream.mcp_for_legacy_questions import InputRequired, Question, Unaskable, abilities, input_required
from mcpgw.upstream.mcp_modern import ERA, NotModern
from mcpgw.upstream.mcp_parts import (
    LEGACY_VERSIONS,
    MODERN_VERSIONS,
    RESERVED,
    Asked,
    Whole,
    accepted,
    cancelled,
    encode,
    members,
    next_id,
    notification,
    request,
)
from mcpgw.upstream.mcp_translate import legacy_answer
from mcpgw.upstream.mcp_wire import ALIVE, opened_late

MAX_ROUNDS = 10  # of one call, as the SDKs have it
MAX_WORLDS = 5
KEEP_ALIVE_S = 15.0
# Before a round that no answer of the client begins: the server only wants to be asked again, or the user is away at a
# URL. Both double from round to round.
PAUSE_S, MAX_PAUSE_S = 0.05, 2.0
AWAY_PAUSE_S, MAX_AWAY_PAUSE_S = 1.0, 15.0
_CONSENT = b'{"action":"accept"}'
# What the answer to a question is sent in. From a client of this era they are no parameters.
_OF_ROUNDS = frozenset({"inputResponses", "requestState"})
_INTERNAL = -32603
_NOBODY = ClientFacts(protocol_version=LEGACY_VERSIONS[-1], modern=False)


class _Elicited(msgspec.Struct, gc=False):
    action: str = ""


class _Error(msgspec.Struct, gc=False):
    message: str = ""


_elicited = msgspec.json.Decoder(_Elicited).decode
_error = msgspec.json.Decoder(_Error).decode


class Call(Protocol):
    """A permitted call. `server` is the slug of the one that it is for."""

    @property
    def judged(self) -> Judged: ...

    @property
    def action(self) -> Action: ...

    @property
    def server(self) -> str: ...


class Way(Call, Protocol):
    """How such a call gets to its modern server, over whatever leads there."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the record says of what comes back."""
        ...

    def gate(self) -> None: ...

    async def ask(self, asked: Asked, action: Action) -> Exchange:
        """Send `action`, which holds the judged values, and whose client is a modern one. Raises NotModern."""
        ...


def modern_facts(client: ClientFacts | None, log_level: str | None) -> ClientFacts:
    """Return what a client of the handshake era says of itself, as a modern one says it with each request."""
    client = client or _NOBODY
    meta = {key: value for key, value in members(client.meta).items() if not key.startswith(RESERVED)}
    return ClientFacts(
        protocol_version=MODERN_VERSIONS[-1],
        modern=True,
        capabilities=abilities(client).raw,
        info=client.info,
        meta=encode(meta),
        log_level=log_level,
    )


@dataclass(frozen=True, slots=True)
class Crossed:
    """A permitted call as it stands on the modern wire. `action` holds the judged values, and `client` its facts."""

    way: Way
    action: Action

    @classmethod
    def of(
        cls,
        way: Way,
        log_level: str | None = None,
        *,
        verb: Verb | None = None,
        forwarded: Mapping[str, bytes] | None = None,
    ) -> Crossed:
        """Return the call; `verb` and `forwarded`, where another request does what the client asks for."""
        action = way.action
        kept = {name: raw for name, raw in action.forwarded.items() if name not in _OF_ROUNDS}
        action = dataclasses.replace(
            action,
            verb=verb or action.verb,
            forwarded=kept if forwarded is None else forwarded,
            client=modern_facts(action.client, log_level),
        )
        return cls(way, action)

    async def write(self, more: Mapping[str, bytes] | None = None) -> tuple[Asked, Exchange]:
        """Send it under an id of its own; `more` are further parameters. Raises NotModern."""
        action = self.action
        asked = Asked(action.verb, self.way.server, ERA)
        if more:
            action = dataclasses.replace(action, forwarded={**action.forwarded, **more})
        return asked, await self.way.ask(asked, action)


@dataclass(slots=True, eq=False)
class OpenQuestion:
    """A question that a client was asked. `answer` is the member of its response, and what that holds, raw."""

    question: Question
    elicitation_id: str
    bound_to: tuple[str, str | None, str]
    answer: asyncio.Future[tuple[str, bytes]]
    id: int = field(default_factory=next_id)

    @property
    def refusal(self) -> str | None:
        """What to say when the client has refused to answer."""
        if not self.answer.done() or self.answer.result()[0] == "result":
            return None
        try:
            words = _error(self.answer.result()[1]).message[:200]
        except msgspec.DecodeError:
            words = ""
        return f"the client refused {self.question.method}{': ' if words else ''}{words}"


class OpenQuestions:
    """All questions that are waiting for an answer, by our id for them."""

    def __init__(self) -> None:
        self._open: dict[bytes, OpenQuestion] = {}

    def ask(self, call: Call, question: Question, elicitation_id: str) -> OpenQuestion:
        answer: asyncio.Future[tuple[str, bytes]] = asyncio.get_running_loop().create_future()
        asked = OpenQuestion(question, elicitation_id, bound_to(call), answer)
        self._open[b"%d" % asked.id] = asked
        return asked

    def drop(self, asked: OpenQuestion) -> None:
        self._open.pop(b"%d" % asked.id, None)

    def find(self, call: Call) -> OpenQuestion | None:
        """Return what an answer is for: nothing, when another caller or session was asked."""
        asked = self._open.get(call.action.forwarded.get("id", b""))
        return asked if asked is not None and asked.bound_to == bound_to(call) else None

    def answer(self, way: Way) -> Whole:
        """Hand a client's answer to the call that waits for it. Raises InvalidRequest, and what the gate raises."""
        asked = self.find(way)
        if asked is None or asked.answer.done():
            raise InvalidRequest("this answers no request that is open")
        forwarded = way.action.forwarded
        member = "result" if "result" in forwarded else "error"
        value = forwarded.get(member, b"")
        if not value.startswith(b"{"):
            raise InvalidRequest(f"the `{member}` of an answer must be an object")
        way.gate()
        asked.answer.set_result((member, value))
        return accepted(era=ERA)


def bound_to(call: Call) -> tuple[str, str | None, str]:
    """Return what a question, and what is held for a session of a client, is bound to."""
    return call.judged.principal.key, call.action.session, call.server


class Rounds:
    """An exchange: what the server sends is passed on, what it asks is asked on the client's stream, and retried."""

    def __init__(
        self,
        crossed: Crossed,
        first: tuple[Asked, Exchange],
        questions: OpenQuestions,
        new_id: Callable[[], str],
        limits: LimitsSection,
    ) -> None:
        self._crossed = crossed
        self._asked, self._current = first
        self._questions = questions
        self._new_id = new_id
        self._abilities = abilities(crossed.way.action.client or _NOBODY)
        self._until = asyncio.get_running_loop().time() + limits.stream_s
        self._answer_s = limits.held_s
        self._pauses = 0
        self._responses: dict[str, bytes] = {}
        self._away: dict[str, str] = {}  # URLs that the user has consented to go to, and their elicitation ids
        opened = Part(PartKind.OPENED, facts=crossed.way.facts)
        self._parts = opened_late(self._read(), opened, at_once=False)

    def __aiter__(self) -> AsyncIterator[Part]:
        return self._parts

    async def aclose(self, reason: BaseException | None) -> None:
        await self._parts.aclose()
        await self._current.aclose(reason)

    async def _read(self) -> AsyncGenerator[Part, None]:
        for retries in range(MAX_ROUNDS + 1):
            last: Part | None = None
            async for part in self._current:
                if part.kind in (PartKind.WHOLE, PartKind.LAST):
                    last = part
                else:
                    yield ALIVE if part.kind is PartKind.OPENED else part
            await self._current.aclose(None)
            if last is None:
                raise self._asked.failed("cut", "ended its stream before the answer")
            required = None
            if last.error_code is None:
                required = input_required(self._asked, last.body)
                for message in self._back(required):
                    yield Part(PartKind.EVENT, message)
            if required is None:
                yield self._final(last, retries)
                return
            if retries == MAX_ROUNDS:
                break
            try:
                async with aclosing(self._ask(required)) as parts:
                    async for part in parts:
                        yield part
            except Unaskable as reason:
                yield self._refusal(str(reason))
                return
            async with aclosing(self._retry(required.state)) as parts:
                async for part in parts:
                    yield part
        yield self._refusal(f"the server asked for input in more than {MAX_ROUNDS} rounds")

    def _final(self, last: Part, retries: int) -> Part:
        part = legacy_answer(self._asked.verb, last)
        facts = {**part.facts, "rounds": retries + 1} if retries else part.facts
        return dataclasses.replace(part, kind=PartKind.LAST, facts=facts)

    def _refusal(self, text: str) -> Part:
        """Return the end of a call whose questions cannot be answered: for a model to read, where it is a tool's."""
        facts = {**self._crossed.way.facts, "input_required": True}
        if self._asked.verb is Verb.TOOLS_CALL:
            result = {"content": [{"type": "text", "text": text}], "isError": True}
            return Part(PartKind.LAST, encode(result), failed=True, facts=facts)
        error = {"code": _INTERNAL, "message": text}
        return Part(PartKind.LAST, encode(error), error_code=_INTERNAL, facts=facts)

    async def _ask(self, required: InputRequired) -> AsyncGenerator[Part, None]:
        """Ask all questions at once and note the answers; raises Unaskable when one cannot be had."""
        self._responses = {}
        asking: dict[str, OpenQuestion] = {}
        requests: list[bytes] = []
        try:
            for key, question in required.questions.items():
                if question.url in self._away:
                    self._responses[key] = _CONSENT
                    continue
                elicitation_id = self._new_id()
                params = self._abilities.request(question, elicitation_id)
                asking[key] = asked = self._questions.ask(self._crossed.way, question, elicitation_id)
                requests.append(request(asked.id, question.method, params))
            for message in requests:
                yield Part(PartKind.EVENT, message)
            if not asking:
                await asyncio.sleep(self._pause(away=bool(required.questions)))
                return
            self._pauses = 0
            async with aclosing(self._answers(asking)) as parts:
                async for part in parts:
                    yield part
        finally:
            for asked in asking.values():
                self._questions.drop(asked)

    async def _answers(self, asking: Mapping[str, OpenQuestion]) -> AsyncGenerator[Part, None]:
        """Wait until all have been answered, or one refused: then the others are taken back."""
        now = asyncio.get_running_loop().time
        until = min(self._until, now() + self._answer_s)
        pending = {asked.answer for asked in asking.values()}
        refusal: str | None = None
        while pending and refusal is None:
            wait_s = min(KEEP_ALIVE_S, max(0.0, until - now()))
            done, pending = await asyncio.wait(pending, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
            refusal = next((r for asked in asking.values() if (r := asked.refusal) is not None), None)
            if not done and now() >= until:
                refusal = "the client did not answer the server's question in time"
            elif not done:
                yield ALIVE
        if refusal is not None:
            for asked in asking.values():
                if not asked.answer.done():
                    yield Part(PartKind.EVENT, cancelled(asked.id))
            raise Unaskable(refusal)
        for key, asked in asking.items():
            _, self._responses[key] = asked.answer.result()
            if asked.question.url is not None and _accepted(self._responses[key]):
                self._away[asked.question.url] = asked.elicitation_id

    async def _retry(self, state: bytes) -> AsyncGenerator[Part, None]:
        """Send the call again with the answers. When the world has moved, it is judged again first, by a part."""
        more: dict[str, bytes] = {}
        if self._responses:
            more["inputResponses"] = encode({key: msgspec.Raw(raw) for key, raw in self._responses.items()})
        if state:
            more["requestState"] = state
        for attempt in range(MAX_WORLDS):
            try:
                self._asked, self._current = await self._crossed.write(more)
            except WorldMoved:
                yield ALIVE
                await asyncio.sleep(0.05 * attempt)  # the part may wait in a queue before it is judged
            except NotModern as contradiction:
                raise contradiction.failure from None
            else:
                return
        raise self._asked.failed("superseded", "was not written to: the gateway's state changed too fast")

    def _pause(self, *, away: bool) -> float:
        first_s, most_s = (AWAY_PAUSE_S, MAX_AWAY_PAUSE_S) if away else (PAUSE_S, MAX_PAUSE_S)
        pause_s: float = min(first_s * 2**self._pauses, most_s)
        self._pauses += 1
        return pause_s

    def _back(self, required: InputRequired | None) -> list[bytes]:
        """Return the word that the user is done at a URL, for each that the server no longer asks for."""
        asked_for = {question.url for question in required.questions.values()} if required is not None else set()
        done = [url for url in self._away if url not in asked_for]
        method = "notifications/elicitation/complete"
        return [notification(method, encode({"elicitationId": self._away.pop(url)})) for url in done]


def _accepted(response: bytes) -> bool:
    try:
        return _elicited(response).action == "accept"
    except msgspec.DecodeError:
        return False
