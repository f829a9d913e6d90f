"""A stream of the handshake era: the answer to a call, or what a server sends of its own accord."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing

from mcpgw.config import LimitsSection
from mcpgw.domain import Part, PartKind, Verb
from mcpgw.errors import UpstreamFailed, UpstreamTimeout, UpstreamUnreachable, WorldMoved
from mcpgw.upstream.farewells import Farewells
from mcpgw.upstream.http import Response
from mcpgw.upstream.mcp_channel import ERA, Channel, SessionLost
from mcpgw.upstream.mcp_parts import Asked, ListChanged, Message, own_reply
from mcpgw.upstream.mcp_wire import ALIVE, events, media_type, opened_late, tell, unusable
from mcpgw.upstream.sse import SseEvent

RETRY_S, MIN_RETRY_S, MAX_RETRY_S = 1.0, 0.02, 30.0
MAX_RESUMPTIONS = 3  # in a row, without an event
MAX_WORLDS = 5
_RETRY = re.compile(rb"^retry: ?([0-9]{1,9})\r?$", re.MULTILINE)


class LegacyStream:
    """An exchange. A stream that ends before its answer is resumed where its last event stood, if that had an id."""

    def __init__(
        self,
        channel: Channel,
        asked: Asked,
        response: Response,
        limits: LimitsSection,
        on_list_changed: ListChanged,
        farewells: Farewells,
    ) -> None:
        self._channel = channel
        self._asked = asked
        self._response = response
        self._limits = limits
        self._on_list_changed = on_list_changed
        self._farewells = farewells
        self._until = asyncio.get_running_loop().time() + limits.stream_s
        self._last_id: bytes | None = None
        self._retry_s = RETRY_S
        self._resumptions = 0
        self._answered = asked.verb is Verb.STREAM  # which has no answer to wait for
        opened = Part(PartKind.OPENED, facts={"upstream_status": 200, "era": ERA})
        self._parts = opened_late(self._read(), opened, at_once=asked.verb is Verb.STREAM)

    def __aiter__(self) -> AsyncIterator[Part]:
        return self._parts

    async def aclose(self, reason: BaseException | None) -> None:
        await self._parts.aclose()
        await self._response.aclose()
        if not self._answered:
            self._answered = True
            channel, own_id = self._channel, self._asked.id
            self._farewells.say(lambda gate: channel.cancel(own_id, gate), channel.sending.gate, reason)

    async def _read(self) -> AsyncGenerator[Part, None]:
        while True:
            try:
                async with aclosing(self._segment()) as parts:
                    async for part in parts:
                        yield part
                        if part.kind is PartKind.LAST:
                            return
            except (UpstreamFailed, UpstreamTimeout) as failure:
                if not self._resumable(failure):
                    if self._asked.verb is Verb.STREAM and isinstance(failure, UpstreamTimeout):
                        return  # nothing was said for long: the client may listen again
                    raise
            if self._last_id is None:
                if self._asked.verb is Verb.STREAM:
                    return
                raise self._asked.failed("cut", "ended its stream before the answer")
            async with aclosing(self._resume(self._last_id)) as parts:
                async for part in parts:
                    yield part

    def _resumable(self, failure: UpstreamFailed | UpstreamTimeout) -> bool:
        """Whether the stream was cut by the network: not by what it held (which has a cause), nor for its length."""
        return isinstance(failure, UpstreamFailed) and "cause" not in failure.data and self._last_id is not None

    async def _segment(self) -> AsyncGenerator[Part, None]:
        """Yield what the current response holds, up to the answer or its end."""
        async with aclosing(events(self._response, self._limits, self._asked.server, self._until)) as arriving:
            async for event in arriving:
                self._note(event)
                if not event.data:
                    yield ALIVE
                    continue
                message = self._asked.read(event.data)
                if message.method is None:
                    if self._asked.verb is not Verb.STREAM:  # there no answer is due
                        last = self._asked.answer(message, PartKind.LAST)
                        self._answered = True
                        yield last
                        return
                    continue
                async with aclosing(self._received(message)) as parts:
                    async for part in parts:
                        yield part

    def _note(self, event: SseEvent) -> None:
        self._resumptions = 0
        if event.id is not None:
            self._last_id = event.id or None
        retry = _RETRY.search(event.raw)
        if retry is not None:
            self._retry_s = min(max(int(retry[1]) / 1000, MIN_RETRY_S), MAX_RETRY_S)

    async def _received(self, message: Message) -> AsyncGenerator[Part, None]:
        """Yield a notification, or a request that is the client's to answer; answer any other request."""
        tell(self._on_list_changed, self._asked.server, message)
        body = own_reply(message, relayed=not self._channel.sending.own) if message.has_id else None
        if body is None:
            yield self._asked.event(message)
            return

        async def answer() -> None:
            await self._channel.tell(body)

        try:
            async with aclosing(self._written(answer)) as parts:
                async for part in parts:
                    yield part
        except (UpstreamFailed, UpstreamTimeout, UpstreamUnreachable, SessionLost):
            return  # the server did not take our answer: its request is its own affair

    async def _resume(self, last_id: bytes) -> AsyncGenerator[Part, None]:
        """Go on with the stream after its last event (2025-11-25, basic/transports: "Resumability")."""
        await self._response.aclose()
        self._resumptions += 1
        if self._resumptions > MAX_RESUMPTIONS or asyncio.get_running_loop().time() + self._retry_s > self._until:
            raise self._asked.failed("cut", "ended its stream before the answer, and did not go on with it")
        yield Part(PartKind.EVENT, facts={"closed": True})  # whose client knows such streams is told to come back
        await asyncio.sleep(self._retry_s)

        async def listen() -> None:
            self._response = await self._channel.listen(last_id)

        try:
            async with aclosing(self._written(listen)) as parts:
                async for part in parts:
                    yield part
        except UpstreamUnreachable as error:
            raise self._asked.failed("cut", "ended its stream before the answer, and cannot be reached") from error
        if self._response.status != 200 or media_type(self._response) != b"text/event-stream":
            raise unusable(self._asked, self._response)

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
        raise self._asked.failed("superseded", "was not written to: the gateway's state changed too fast")
