"""A stream of the handshake era: the answer to a call, or what a server sends of its own accord."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import cast

from mcpgw.config import LimitsSection
from mcpgw.domain import Part, PartKind, Verb
from mcpgw.errors import UpstreamFailed, UpstreamTimeout, UpstreamUnreachable, WorldMoved
from mcpgw.ports import Gate
from mcpgw.upstream.farewells import Farewells, last_word
from mcpgw.upstream.http import Response
from mcpgw.upstream.mcp_channel import ERA, Channel, SessionLost
from mcpgw.upstream.mcp_parts import Asked, ListChanged
from mcpgw.upstream.mcp_retelling import AsItIs, Telling
from mcpgw.upstream.mcp_sessions import Session
from mcpgw.upstream.mcp_wire import ALIVE, media_type, opened_late, tell, unusable
from mcpgw.upstream.sse import SseEvent, SseSplitter

RETRY_S, MIN_RETRY_S, MAX_RETRY_S = 1.0, 0.02, 30.0
MAX_RESUMPTIONS = 3  # in a row, without an event
MAX_WORLDS = 5
_RETRY = re.compile(rb"^retry: ?([0-9]{1,9})\r?$", re.MULTILINE)
OPENED = Part(PartKind.OPENED, facts={"upstream_status": 200, "era": ERA})


@dataclass(frozen=True, slots=True)
class Common:
    """What all streams of a wire have in common."""

    limits: LimitsSection
    on_list_changed: ListChanged
    farewells: Farewells


class LegacyStream:
    """Implements `Suspendable`. A stream that ends before its answer is resumed where its last event stood.

    `parts` go on behind a part that is held, once `go_on` has said for whom. `quiet`: the server may be silent for as
    long as the stream lives.
    """

    opened = OPENED

    def __init__(
        self,
        common: Common,
        channel: Channel,
        asked: Asked,
        response: Response,
        telling: Telling | None = None,
        *,
        quiet: bool = False,
    ) -> None:
        limits = common.limits
        self.asked = asked
        self.telling = telling or AsItIs(asked, relays=not channel.sending.own)
        self._channel = channel
        self._response = response
        self._common = common
        self._idle_s = limits.stream_s if quiet else limits.stream_idle_s
        self._until = asyncio.get_running_loop().time() + limits.stream_s
        self._last_id: bytes | None = None
        self._retry_s = RETRY_S
        self._resumptions = 0
        self._answered = asked.verb is Verb.STREAM  # which has no answer to wait for
        self.parts = self._read()

    def __aiter__(self) -> AsyncIterator[Part]:
        return self.parts

    @property
    def session(self) -> Session:
        """The session that the stream is in."""
        return self._channel.opened

    def go_on(self, channel: Channel, telling: Telling) -> None:
        """Read on in the name of another call."""
        self._channel, self.telling = channel, telling
        self._until = asyncio.get_running_loop().time() + self._common.limits.stream_s

    async def aclose(self, reason: BaseException | None) -> None:
        """Let go. The server is told that nobody waits, unless it has answered, or the call may write no more."""
        await self._close()
        self._say_farewell(self._channel.sending.gate, reason)

    def abandon(self) -> None:
        """Let go of a stream that no call stands behind any more; the server is told, whatever ended the call."""
        self._common.farewells.let_go(self._abandoned())

    async def _abandoned(self) -> None:
        await self._close()
        self._say_farewell(last_word, None)

    async def _close(self) -> None:
        await self.parts.aclose()
        await self._response.aclose()

    def _say_farewell(self, gate: Gate, reason: BaseException | None) -> None:
        if not self._answered:
            self._answered = True
            channel, own_id = self._channel, self.asked.id
            self._common.farewells.say(lambda gate: channel.cancel(own_id, gate), gate, reason)

    async def _read(self) -> AsyncGenerator[Part, None]:
        while True:
            try:
                async with aclosing(self._segment()) as parts:
                    async for part in parts:
                        yield part
                        if part.kind is PartKind.LAST and part.held is None:
                            return
            except (UpstreamFailed, UpstreamTimeout) as failure:
                if not self._resumable(failure):
                    if self.asked.verb is Verb.STREAM and isinstance(failure, UpstreamTimeout):
                        return  # nothing was said for long: the client may listen again
                    raise
            if self._last_id is None:
                if self.asked.verb is Verb.STREAM:
                    return
                raise self.asked.failed("cut", "ended its stream before the answer")
            async with aclosing(self._resume(self._last_id)) as parts:
                async for part in parts:
                    yield part

    def _resumable(self, failure: UpstreamFailed | UpstreamTimeout) -> bool:
        """Whether the stream was cut by the network: not by what it held (which has a cause), nor for its length."""
        return isinstance(failure, UpstreamFailed) and "cause" not in failure.data and self._last_id is not None

    async def _segment(self) -> AsyncGenerator[Part, None]:
        """Yield what the current response holds, up to the answer or its end."""
        now, response = asyncio.get_running_loop().time, self._response
        splitter = SseSplitter(self._common.limits.result_bytes)
        async with aclosing(cast(AsyncGenerator[bytes, None], response.chunks(self._idle_s))) as chunks:
            async for chunk in chunks:
                if now() >= self._until:
                    raise UpstreamTimeout(f"the stream of `{self.asked.server}` lasted longer than limits.stream_s")
                for event in splitter.feed(chunk):
                    taken = self._taken(event) if event.event == "message" else None
                    if isinstance(taken, bytes):
                        async with aclosing(self._replied(taken)) as parts:
                            async for part in parts:
                                yield part
                    elif taken is not None:
                        yield taken
                        if taken.kind is PartKind.LAST:
                            return
                lull = await self.telling.lull(lambda: bool(response.pieces))
                if lull is not None:
                    yield lull

    def _taken(self, event: SseEvent) -> Part | bytes | None:
        """Return what to tell the client of an event, or what to answer the server; None: neither."""
        self._note(event)
        if not event.data:
            return ALIVE
        message = self.asked.read(event.data)
        if message.method is not None:
            tell(self._common.on_list_changed, self.asked.server, message)
            return self.telling.heard(message)
        if self.asked.verb is Verb.STREAM:
            return None  # there no answer is due
        last = self.telling.answered(self.asked.answer(message, PartKind.LAST))
        self._answered = True
        return last

    def _note(self, event: SseEvent) -> None:
        self._resumptions = 0
        if event.id is not None:
            self._last_id = event.id or None
        retry = _RETRY.search(event.raw)
        if retry is not None:
            self._retry_s = min(max(int(retry[1]) / 1000, MIN_RETRY_S), MAX_RETRY_S)

    async def say(self, body: bytes) -> AsyncGenerator[Part, None]:
        """Write what the client has answered to a request of the server."""

        async def say() -> None:
            await self._channel.tell(body)

        try:
            async with aclosing(self._written(say)) as parts:
                async for part in parts:
                    yield part
        except SessionLost:
            raise self.asked.failed("session_lost", "no longer has the session of this call") from None

    async def _replied(self, body: bytes) -> AsyncGenerator[Part, None]:
        """Write our own answer to a request of the server."""
        try:
            async with aclosing(self.say(body)) as parts:
                async for part in parts:
                    yield part
        except (UpstreamFailed, UpstreamTimeout, UpstreamUnreachable):
            return  # the server did not take our answer: its request is its own affair

    async def _resume(self, last_id: bytes) -> AsyncGenerator[Part, None]:
        """Go on with the stream after its last event (2025-11-25, basic/transports: "Resumability")."""
        await self._response.aclose()
        self._resumptions += 1
        if self._resumptions > MAX_RESUMPTIONS or asyncio.get_running_loop().time() + self._retry_s > self._until:
            raise self.asked.failed("cut", "ended its stream before the answer, and did not go on with it")
        yield Part(PartKind.EVENT, facts={"closed": True})  # whose client knows such streams is told to come back
        await asyncio.sleep(self._retry_s)

        async def listen() -> None:
            self._response = await self._channel.listen(last_id)

        try:
            async with aclosing(self._written(listen)) as parts:
                async for part in parts:
                    yield part
        except UpstreamUnreachable as error:
            raise self.asked.failed("cut", "ended its stream before the answer, and cannot be reached") from error
        if self._response.status != 200 or media_type(self._response) != b"text/event-stream":
            raise unusable(self.asked, self._response)

    async def _written(self, write: Callable[[], Awaitable[None]]) -> AsyncGenerator[Part, None]:
        """Write in the middle of a stream. When the world moves, the call is judged again first, by a part."""
        for attempt in range(MAX_WORLDS):
            try:
                await write()
            except WorldMoved:
                yield ALIVE
                await asyncio.sleep(0.05 * attempt)  # the part may wait in a queue before it is judged
            else:
                return
        raise self.asked.failed("superseded", "was not written to: the gateway's state changed too fast")


class Streamed:
    """An exchange: the answer to one call, or a stream of its own, from beginning to end."""

    def __init__(self, stream: LegacyStream) -> None:
        self._stream = stream
        self._parts = opened_late(stream.parts, OPENED, at_once=stream.asked.verb is Verb.STREAM)

    def __aiter__(self) -> AsyncIterator[Part]:
        return self._parts

    async def aclose(self, reason: BaseException | None) -> None:
        await self._parts.aclose()
        await self._stream.aclose(reason)
