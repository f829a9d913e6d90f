"""One call on a connection that carries many, and what its client reads of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

import msgspec
from msgspec import Raw

from mcpgw.config import LimitsSection
from mcpgw.domain import Action, Judged, Part, PartKind, Verb
from mcpgw.errors import UpstreamFailed, UpstreamTimeout, WorldMoved
from mcpgw.ports import Gate
from mcpgw.upstream.farewells import Farewells, last_word
from mcpgw.upstream.frames import Pending
from mcpgw.upstream.greeting import Greeting, Live
from mcpgw.upstream.holding import Holding, Question
from mcpgw.upstream.mcp_for_modern_questions import (
    MAX_QUESTIONS,
    SUSPENDABLE,
    URL_REQUIRED,
    able,
    asked_as,
    key_of,
    urls_required,
)
from mcpgw.upstream.mcp_parts import (
    Asked,
    Message,
    cancelled,
    encode,
    members,
    modern_meta,
    notification,
    params_of,
    request,
)
from mcpgw.upstream.mcp_retelling import AT_ONCE_S, LOG, PROGRESS, TOKEN, own_token
from mcpgw.upstream.mcp_tasks import without_tasks
from mcpgw.upstream.mcp_translate import LOG_LEVELS, is_complete, legacy_answer, modern_answer
from mcpgw.upstream.mcp_wire import ALIVE, opened_late

MAX_WORLDS = 5


class _Logged(msgspec.Struct, gc=False):
    level: str


_logged = msgspec.json.Decoder(_Logged).decode


class FramedCall:
    """A request on a connection, until its answer. A modern client reads it in turns, if the server asks something."""

    def __init__(
        self,
        live: Live,
        judged: Judged,
        gate: Gate,
        limits: LimitsSection,
        farewells: Farewells,
        holding: Holding | None,
    ) -> None:
        action = judged.action
        client_id = action.forwarded.get("#id") if action.verb is Verb.LISTEN else None
        self.live = live
        self.asked = asked = Asked(action.verb, live.link.name, live.greeting.era, client_id=client_id)
        params = _call_params(live.greeting, action, judged.arguments.raw, asked.id)
        self._frame = request(asked.id, action.verb.value, params)
        self._token = _token_of(action)
        self._judged = judged
        self._gate = gate
        self._limits = limits
        self._farewells = farewells
        self._holding = holding
        self._asked = 0  # how often the server has asked something, which no key may come up for twice
        self._owed = False  # an answer, by the server
        asks = live.asks(judged) if holding is not None or _is_legacy(action) else frozenset()
        self._pending = live.link.frames.expect(asked.id, hears=live.hears(judged), asks=asks)

    async def write(self) -> None:
        def gate() -> None:
            self._gate()
            self._owed = True

        await self.live.link.write(self._frame, gate, self.asked.id)

    def go_on(self, judged: Judged, gate: Gate) -> None:
        """Go on in the name of a retry."""
        self._judged, self._gate = judged, gate
        self._token = _token_of(judged.action)

    async def aclose(self, reason: BaseException | None) -> None:
        """Let go. The server is told that nobody waits, unless it has answered, or the call may write no more."""
        self._let_go(self._gate, reason)

    def abandon(self) -> None:
        self._let_go(last_word, None)

    def _let_go(self, gate: Gate, reason: BaseException | None) -> None:
        self.live.link.frames.forget(self._pending)
        if self._owed:
            self._owed = False
            link, body = self.live.link, cancelled(self.asked.id)
            self._farewells.say(lambda gate: link.write(body, gate), gate, reason)

    async def parts(self) -> AsyncGenerator[Part, None]:
        """Yield what the server says, up to its answer or to what it asks a modern client."""
        limits, frames = self._limits, self.live.link.frames
        now = asyncio.get_running_loop().time
        listens = self.asked.verb is Verb.LISTEN
        until = now() + limits.stream_s
        within_s = limits.stream_s if listens else limits.call_s
        questions: dict[str, Question] = {}
        while True:
            if questions and frames.is_silent(self._pending):
                await asyncio.sleep(AT_ONCE_S)
                if frames.is_silent(self._pending) and self._holding is not None:
                    yield self._holding.suspend(self._judged, HeldFrame(self, questions), era=self.asked.era)
                    return
            # While the server waits for its client, silence is not the server's.
            patience_s = limits.stream_s if frames.asks(self._pending) else within_s
            message = await frames.next(self._pending, min(patience_s, until - now()))
            if message.has_id and message.method is not None and not _is_legacy(self._judged.action):
                self._note(message, questions)
                continue
            part = self._read(message)
            if part is None:
                continue
            yield part
            if part.kind is PartKind.LAST:
                return
            within_s = limits.stream_s if listens else limits.stream_idle_s

    def _read(self, message: Message) -> Part | None:
        """Return what to tell the client of a message; None: nothing."""
        action, asked = self._judged.action, self.asked
        if message.method is None:
            self._owed = False
            return _answer(self.live.greeting, action, asked, asked.answer(message, PartKind.LAST, None))
        if not _is_for(action, message):
            return None
        if self._token is not None and message.method == PROGRESS:
            message = _with_token(message, self._token)
        return asked.event(message)

    def _note(self, message: Message, questions: dict[str, Question]) -> None:
        """Add what the server wants to know of a modern client to its other questions, if that can be asked."""
        client = self._judged.action.client
        asked = asked_as(message, able(client.capabilities)) if client is not None else None
        if asked is None or len(questions) >= MAX_QUESTIONS:
            self.live.link.frames.refuse(message)
            return
        self._asked += 1
        questions[key_of(self._asked)] = Question(message.id, message.method or "", asked)

    async def say(self, answers: Sequence[bytes]) -> AsyncGenerator[Part, None]:
        """Write further answers of a retry. When the world moves, the call is judged again first, by a part."""
        for answer in answers:
            for attempt in range(MAX_WORLDS):
                try:
                    await self.live.link.write(answer, self._gate)
                    break
                except WorldMoved:
                    yield ALIVE
                    await asyncio.sleep(0.05 * attempt)  # the part may wait in a queue before it is judged
            else:
                raise self.asked.failed("superseded", "was not written to: the gateway's state changed too fast")


@dataclass(frozen=True, slots=True, eq=False)
class HeldFrame:
    """Implements `ports.Held`: a call, and by key the questions in it that wait, under their ids among the frames."""

    call: FramedCall
    questions: Mapping[str, Question]

    def end(self, reason: BaseException) -> None:
        self.call.abandon()


class FramedTurn:
    """An exchange: what a server says up to its answer, or to what it asks of the client.

    Before that it is told `answers`; `first`: then the client is asked that once more, before the server says anything.
    """

    def __init__(self, call: FramedCall, answers: Sequence[bytes] = (), first: Part | None = None) -> None:
        self._call = call
        self._held = False
        self._turn = self._read(answers, first)
        opened = Part(PartKind.OPENED, facts={"era": call.live.greeting.era})
        self._parts = opened_late(self._turn, opened, at_once=False)

    def __aiter__(self) -> AsyncIterator[Part]:
        return self._parts

    async def aclose(self, reason: BaseException | None) -> None:
        await self._parts.aclose()
        await self._turn.aclose()
        if not self._held:
            await self._call.aclose(reason)

    async def _read(self, answers: Sequence[bytes], first: Part | None) -> AsyncGenerator[Part, None]:
        async with aclosing(self._call.say(answers)) as parts:
            async for part in parts:
                yield part
        if first is not None:
            self._held = True
            yield first
            return
        async with aclosing(self._call.parts()) as parts:
            async for part in parts:
                self._held = part.held is not None
                yield part


class FramedStream:
    """An exchange: what a server sends to a client that listens, of its own accord.

    It ends with the connection, without a word: the client listens again, and hears the next one.
    """

    def __init__(self, live: Live, judged: Judged, limits: LimitsSection) -> None:
        self._era = live.greeting.era
        self._frames = live.link.frames
        self._stream_s = limits.stream_s
        self._pending: Pending = self._frames.listen(live.asks(judged))
        self._parts = self._read()

    def __aiter__(self) -> AsyncIterator[Part]:
        return self._parts

    async def aclose(self, reason: BaseException | None) -> None:
        await self._parts.aclose()
        self._frames.forget(self._pending)

    async def _read(self) -> AsyncGenerator[Part, None]:
        now = asyncio.get_running_loop().time
        until = now() + self._stream_s
        yield Part(PartKind.OPENED, facts={"era": self._era})
        try:
            while True:
                message = await self._frames.next(self._pending, until - now())
                yield Part(PartKind.EVENT, message.data)
        except (UpstreamTimeout, UpstreamFailed):
            yield Part(PartKind.LAST, facts={"era": self._era})


def _is_legacy(action: Action) -> bool:
    return action.client is not None and not action.client.modern


def _call_params(found: Greeting, action: Action, arguments: bytes, own_id: int) -> bytes:
    client = action.client
    meta = own_token(client.meta, own_id) if client is not None else b"{}"
    if found.modern:
        if client is not None and client.modern:
            client = replace(client, capabilities=without_tasks(client.capabilities))
        meta = modern_meta(client if client is not None and client.modern else None, meta)
    return params_of(action, arguments, meta if meta != b"{}" else b"")


def _token_of(action: Action) -> bytes | None:
    """Return the caller's own progress token, raw: upstream ours stands in its place."""
    token = members(action.client.meta).get(TOKEN) if action.client is not None else None
    return None if token is None else bytes(token)


def _with_token(event: Message, token: bytes) -> Message:
    """Return a progress notification with the caller's own token."""
    params = members(event.params)
    params[TOKEN] = Raw(token)
    raw = encode(params)
    return Message(notification(event.method or "", raw), method=event.method, params=raw)


def _is_for(action: Action, message: Message) -> bool:
    """Whether a message belongs on the stream of this call.

    A modern client hears of its own request alone, and log messages from the level on that it asked for.
    """
    client = action.client
    if client is None or not client.modern or action.verb is Verb.LISTEN or message.method == PROGRESS:
        return True
    if message.method != LOG or client.log_level is None:
        return False
    try:
        return LOG_LEVELS.index(_logged(message.params).level) >= LOG_LEVELS.index(client.log_level)
    except (msgspec.DecodeError, ValueError):
        return False


def _answer(found: Greeting, action: Action, asked: Asked, part: Part) -> Part:
    """Return the answer of a server in the caller's generation."""
    client = action.client
    if client is None or client.modern == found.modern:
        return part
    if client.modern and part.error_code == URL_REQUIRED and action.verb in SUSPENDABLE:
        return urls_required(part, able(client.capabilities))
    if client.modern:
        return modern_answer(action.verb, part, found.info)
    if part.error_code is None and not is_complete(part):
        raise asked.failed("not_complete", "asks for input that a client of 2025-11-25 and before cannot give here")
    return legacy_answer(action.verb, part)
