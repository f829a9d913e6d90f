"""Calls in which a server of the handshake era has asked something: held open until a retry brings the answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from mcpgw.domain import Action, Part, PartKind
from mcpgw.upstream.holding import Adoption, Holding, Question
from mcpgw.upstream.mcp_channel import ERA
from mcpgw.upstream.mcp_legacy_stream import OPENED, LegacyStream
from mcpgw.upstream.mcp_sessions import Session
from mcpgw.upstream.mcp_wire import Sending, opened_late


@dataclass(frozen=True, slots=True, eq=False)
class HeldCall:
    """Implements `ports.Held`: a stream, and by key the questions on it that wait.

    `asked` is how many there have been in this call: no key comes up twice.
    """

    calls: HeldCalls
    stream: LegacyStream
    session: Session
    questions: Mapping[str, Question]
    asked: int

    def end(self, reason: BaseException) -> None:
        self.calls.abandon(self.stream)


class HeldCalls:
    """Suspends calls, and finds them again for their retries."""

    def __init__(self, holding: Holding) -> None:
        self._holding = holding
        self._ending: set[asyncio.Task[None]] = set()

    def knows(self, action: Action) -> bool:
        """Whether the state that a request brings is one of ours."""
        return self._holding.knows(action)

    def suspend(self, sending: Sending, call: HeldCall) -> Part:
        """Return the answer that asks the client of this call."""
        return self._holding.suspend(sending.judged, call, upstream_status=200, era=ERA)

    def find(self, sending: Sending) -> Adoption[HeldCall]:
        """Return the way to the call that this retry belongs to. Raises InvalidParams."""
        return self._holding.find(sending.judged, sending.gate, HeldCall)

    def abandon(self, stream: LegacyStream) -> None:
        """Let go of a stream at once; the server is told in the background."""
        task = asyncio.get_running_loop().create_task(stream.abandon(), name="end a held call")
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def aclose(self) -> None:
        """Wait for the streams that are being let go of."""
        await asyncio.gather(*self._ending)


class Turn:
    """An exchange: what a server says up to its answer, or to what it asks of the client.

    Before that it is told `answers`; `first`: then the client is asked that once more, before the server says anything.
    """

    def __init__(self, stream: LegacyStream, answers: Sequence[bytes] = (), first: Part | None = None) -> None:
        self._stream = stream
        self._held = False
        self._turn = self._read(answers, first)
        self._parts = opened_late(self._turn, OPENED, at_once=False)

    def __aiter__(self) -> AsyncIterator[Part]:
        return self._parts

    async def aclose(self, reason: BaseException | None) -> None:
        await self._parts.aclose()
        await self._turn.aclose()
        if not self._held:
            await self._stream.aclose(reason)

    async def _read(self, answers: Sequence[bytes], first: Part | None) -> AsyncGenerator[Part, None]:
        for answer in answers:
            async with aclosing(self._stream.say(answer)) as parts:
                async for part in parts:
                    yield part
        if first is not None:
            self._held = True
            yield first
            return
        async for part in self._stream.parts:  # which go on in the next turn: they are not closed with this one
            self._held = part.held is not None
            yield part
            if part.kind is PartKind.LAST:
                return
