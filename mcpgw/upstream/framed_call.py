"""One call on a connection that carries many, and what its client reads of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass

from mcpgw.config import LimitsSection
from mcpgw.domain import Action, Judged, Part, PartKind, Verb
from mcpgw.errors import Internal, UpstreamFailed, UpstreamTimeout, WorldMoved
from mcpgw.ports import Gate
from mcpgw.task_ids import TaskIds
from mcpgw.upstream.farewells import Farewells, last_word
from mcpgw.upstream.frames import Pending
from mcpgw.upstream.greeting import Live
from mcpgw.upstream.holding import HeldCall, Holding, Question
from mcpgw.upstream.mcp_parts import Asked, Message, cancelled, modern_meta, params_of, request
from mcpgw.upstream.mcp_retelling import LOG, PROGRESS, Retelling, Telling, own_token, token_of, wants_log, with_token
from mcpgw.upstream.mcp_wire import ALIVE

MAX_WORLDS = 5


@dataclass(frozen=True, slots=True)
class Common:
    """What all calls over such connections have in common.

    `holding` None: modern clients of legacy servers cannot be asked anything. `task_ids` None: nobody is told of tasks.
    """

    limits: LimitsSection
    farewells: Farewells
    holding: Holding | None = None
    task_ids: TaskIds | None = None


class Passing:
    """Implements `Telling`: to a client of the server's own generation, or to whoever stands for one."""

    def __init__(self, action: Action, asked: Asked) -> None:
        self._client = action.client
        self._asked = asked
        self._token = token_of(action)
        # A modern client hears of its own request alone, and log messages from the level on that it asked for.
        self._of_call = self._client is not None and self._client.modern and action.verb is not Verb.LISTEN

    def heard(self, message: Message) -> Part | bytes | None:
        told: Message | None = message
        if message.method == PROGRESS and self._token is not None:
            told = with_token(message, self._token, self._asked.id)
        elif self._of_call and message.method != PROGRESS:
            told = message if message.method == LOG and wants_log(self._client, message) else None
        else:
            told = self._asked.heard(message)
        return None if told is None else self._asked.event(told)

    def answered(self, part: Part) -> Part:
        return part

    async def lull(self, more: Callable[[], bool]) -> Part | None:
        return None


class FramedCall:
    """Implements `Suspendable`: a request on a connection, until its answer.

    `action` is what of the judged action goes out, in the server's generation where that is not the client's.
    """

    def __init__(
        self, common: Common, live: Live, judged: Judged, gate: Gate, asked: Asked, action: Action | None = None
    ) -> None:
        action = judged.action if action is None else action
        limits = common.limits
        self.live = live
        self.asked = asked
        self.opened = Part(PartKind.OPENED, facts={"era": asked.era})
        self._frame = request(asked.id, asked.verb.value, _params(live, action, judged.arguments.raw, asked.id))
        self._common = common
        self._judged = judged
        self._gate = gate
        self._owed = False  # an answer, by the server
        self._listens = asked.verb is Verb.LISTEN
        client = action.client
        crosses = client is not None and client.modern and not live.greeting.modern
        asks = live.asks(judged) if common.holding is not None or not crosses else frozenset()
        self._pending = live.link.frames.expect(asked.id, hears=live.hears(judged, client), asks=asks)
        self._telling: Telling = self._retelling() if crosses else Passing(action, asked)
        self._until = asyncio.get_running_loop().time() + limits.stream_s
        self._within_s = limits.stream_s if self._listens else limits.call_s
        self._over = False

    def __aiter__(self) -> AsyncIterator[Part]:
        return self

    async def __anext__(self) -> Part:
        """Return what the server says next, up to its answer; or what it asks, which is answered in another turn."""
        if self._over:
            raise StopAsyncIteration
        frames, now = self.live.link.frames, asyncio.get_running_loop().time
        while True:
            if frames.is_silent(self._pending):
                lull = await self._telling.lull(self._has_more)
                if lull is not None:
                    return lull
            # While the server waits for its client, silence is not the server's.
            patience_s = self._common.limits.stream_s if frames.asks(self._pending) else self._within_s
            part = self._told(await frames.next(self._pending, min(patience_s, self._until - now())))
            if part is not None:
                return part

    def _has_more(self) -> bool:
        return not self.live.link.frames.is_silent(self._pending)

    def _told(self, message: Message) -> Part | None:
        """Return what to tell the client of a message; None: nothing."""
        if message.method is None:
            self._owed = False
            self._over = True
            return self._telling.answered(self.asked.answer(message, PartKind.LAST, None))
        taken = self._telling.heard(message)
        if isinstance(taken, bytes):
            self.live.link.frames.refuse(message)
            return None
        if taken is not None and not self._listens:
            self._within_s = self._common.limits.stream_idle_s
        return taken

    async def write(self) -> None:
        def gate() -> None:
            self._gate()
            self._owed = True

        await self.live.link.write(self._frame, gate, self.asked.id)

    def go_on(self, judged: Judged, gate: Gate, before: int) -> None:
        """Go on in the name of a retry; `before`: how much the server has asked."""
        limits = self._common.limits
        self._judged, self._gate = judged, gate
        self._telling = self._retelling(before)
        self._until = asyncio.get_running_loop().time() + limits.stream_s
        self._within_s = limits.call_s

    def suspended(self, questions: Mapping[str, Question], asked: int) -> Part:
        """Return the answer that asks the client of this call."""
        if self._common.holding is None:
            raise Internal("a client was to be asked where no call can wait for it")
        return self._common.holding.suspend(self._judged, HeldCall(self, questions, asked), era=self.asked.era)

    async def say(self, body: bytes) -> AsyncGenerator[Part, None]:
        """Write a further answer of a retry. When the world moves, the call is judged again first, by a part."""
        for attempt in range(MAX_WORLDS):
            try:
                await self.live.link.write(body, self._gate)
            except WorldMoved:
                yield ALIVE
                await asyncio.sleep(0.05 * attempt)  # the part may wait in a queue before it is judged
            else:
                return
        raise self.asked.failed("superseded", "was not written to: the gateway's state changed too fast")

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
            self._common.farewells.say(lambda gate: link.write(body, gate), gate, reason)

    def _retelling(self, before: int = 0) -> Retelling:
        return Retelling(self._judged, self.asked, self.live.greeting.info, self.suspended, _overheard, before)


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


def _params(live: Live, action: Action, arguments: bytes, own_id: int) -> bytes:
    client = action.client
    meta = own_token(client.meta, own_id) if client is not None else b"{}"
    if live.greeting.modern:
        meta = modern_meta(client if client is not None and client.modern else None, meta)
    return params_of(action, arguments, meta if meta != b"{}" else b"")


def _overheard(message: Message) -> None:
    """Those who listen on the connection have been told already."""
