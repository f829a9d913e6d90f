"""Subscriptions of modern clients with servers of the handshake era: the stream of their session, heard by each.

A session has one stream, and its server tells it of what calls in the same session have caused. So all who listen in a
session share it, and a resource stays subscribed to as long as one of them wants it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator

from mcpgw.domain import Part, PartKind, Verb
from mcpgw.errors import ClientGone, GatewayError, WorldMoved
from mcpgw.ports import Gate
from mcpgw.upstream.flights import Flights
from mcpgw.upstream.mcp_channel import ERA, Channel
from mcpgw.upstream.mcp_for_modern_wishes import Subscription, granted
from mcpgw.upstream.mcp_legacy import LegacyWire
from mcpgw.upstream.mcp_legacy_stream import OPENED, LegacyStream
from mcpgw.upstream.mcp_parts import (
    Asked,
    Message,
    encode,
    own_reply,
    request,
)
from mcpgw.upstream.mcp_sessions import Session
from mcpgw.upstream.mcp_wire import ALIVE, Sending

MAX_UNREAD = 1000  # notifications


class Ears:
    """The streams of all sessions in which somebody listens."""

    def __init__(self, wire: LegacyWire) -> None:
        self._wire = wire
        self._opening: Flights[Ear] = Flights()
        self.open: dict[Session, Ear] = {}

    async def listen(self, channel: Channel) -> Listener:
        """Return what a client hears, once the server has been asked for it. Raises MethodNotAllowed, SessionLost."""
        action, offers = channel.sending.action, channel.opened.capabilities
        subscription = Subscription(action, granted(action, offers, channel.sending.server))
        ear = self.open.get(channel.opened) or await self._opening.join(channel.opened, lambda: self._open(channel))
        listener = Listener(ear, channel, subscription)
        try:
            await listener.subscribe()
        except BaseException as error:
            await listener.aclose(error)
            raise
        return listener

    def overheard(self, session: Session, message: Message) -> None:
        """Tell those who listen in a session what its server said in a call."""
        ear = self.open.get(session)
        if ear is not None:
            ear.tell(message)

    async def aclose(self) -> None:
        for ear in tuple(self.open.values()):
            await ear.aclose()

    async def _open(self, channel: Channel) -> Ear:
        ear = Ear(self, self._wire, channel)
        await ear.start()
        self.open[channel.opened] = ear
        return ear


class Ear:
    """Implements `Telling`: the stream of one session, told to all who listen in it."""

    def __init__(self, ears: Ears, wire: LegacyWire, opener: Channel) -> None:
        self.wire = wire
        self.session = opener.opened
        self.listeners: dict[Listener, None] = {}
        self.subscribed: Counter[str] = Counter()
        self.subscribing = asyncio.Lock()
        self.ended = False
        self._ears = ears
        self._opener = opener.sending
        self._stream: LegacyStream | None = None
        self._pump: asyncio.Task[None] | None = None

    async def start(self) -> None:
        channel = self.wire.within(self._opener.through(self.gate), self.session)
        self._stream = await self.wire.stream(channel, self, quiet=True)
        self._pump = asyncio.create_task(self._hear(self._stream), name="hear a session's stream")

    def gate(self) -> None:
        """The gate of what is written on the stream: whoever listens may write, as long as its own call may."""
        refusal: Exception = ClientGone("nobody listens any more")
        for sending in self._in_whose_name():
            try:
                sending.gate()
            except WorldMoved as moved:
                refusal = moved
            except GatewayError as error:
                refusal = refusal if isinstance(refusal, WorldMoved) else error
            else:
                return
        raise refusal

    def heard(self, message: Message) -> Part | bytes | None:
        if message.has_id:
            return own_reply(message, relayed=False)  # no call is under way in which a client could be asked
        self.tell(message)
        return None

    def answered(self, part: Part) -> Part:
        return ALIVE  # there was no request

    async def lull(self, more: Callable[[], bool]) -> Part | None:
        return None

    def tell(self, message: Message) -> None:
        for listener in tuple(self.listeners):
            listener.tell(message)

    async def leave(self, listener: Listener) -> None:
        self.listeners.pop(listener, None)
        if not self.listeners:
            await self.aclose()

    async def aclose(self) -> None:
        self._forget()
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.gather(self._pump, return_exceptions=True)
        if self._stream is not None:
            await self._stream.aclose(None)

    def _in_whose_name(self) -> Iterator[Sending]:
        if not self.listeners:
            yield self._opener
        for listener in tuple(self.listeners):
            yield listener.sending

    def _forget(self) -> None:
        if self._ears.open.get(self.session) is self:
            del self._ears.open[self.session]

    async def _hear(self, stream: LegacyStream) -> None:
        try:
            async for _ in stream.parts:  # signs of life; before the stream is written to each is judged again
                for listener in tuple(self.listeners):
                    listener.put(ALIVE)
        except (GatewayError, WorldMoved):
            pass  # its end, all the same
        finally:
            self.ended = True
            self._forget()
            for listener in tuple(self.listeners):
                listener.over()


class Listener:
    """An exchange: what one client hears, under the id of its subscription."""

    def __init__(self, ear: Ear, channel: Channel, subscription: Subscription) -> None:
        self.sending = channel.sending
        self._ear = ear
        self._channel = channel
        self._subscription = subscription
        self._queue: asyncio.Queue[Part] = asyncio.Queue()
        self._parts = self._read()
        ear.listeners[self] = None
        if ear.ended:
            self.over()

    def __aiter__(self) -> AsyncIterator[Part]:
        return self._parts

    async def aclose(self, reason: BaseException | None) -> None:
        await self._parts.aclose()
        uris, self._subscription.uris = self._subscription.uris, []
        for uri in uris:
            self._ear.subscribed[uri] -= 1
            if self._ear.subscribed[uri] <= 0:
                self._ear.wire.farewells.say(self._unsubscribing(uri), self.sending.gate, reason)
        await self._ear.leave(self)

    async def subscribe(self) -> None:
        """Subscribe to what this client wants to watch. What the server refuses is not granted."""
        ear = self._ear
        for uri in self._subscription.wanted.resourceSubscriptions:
            async with ear.subscribing:
                if ear.subscribed[uri] <= 0:
                    asked = Asked(Verb.RESOURCES_SUBSCRIBE, self.sending.server, ERA)
                    part = await ear.wire.request(self._channel, asked, b'{"uri":%b}' % encode(uri))
                    if part.error_code is not None:
                        continue
                ear.subscribed[uri] += 1
                self._subscription.uris.append(uri)

    def tell(self, message: Message) -> None:
        part = self._subscription.told(message)
        if part is not None:
            self.put(part)

    def put(self, part: Part) -> None:
        if self._queue.qsize() >= MAX_UNREAD:
            self.over()  # who reads too slowly asks again for what there is
            return
        self._queue.put_nowait(part)

    def over(self) -> None:
        """End the stream in good order: the client may listen again."""
        self._ear.listeners.pop(self, None)
        self._queue.put_nowait(self._subscription.over())

    async def _read(self) -> AsyncGenerator[Part, None]:
        yield OPENED
        yield self._subscription.acknowledged()
        part = ALIVE
        while part.kind is not PartKind.LAST:
            part = await self._queue.get()
            yield part

    def _unsubscribing(self, uri: str) -> Callable[[Gate], Awaitable[None]]:
        ear, channel = self._ear, self._channel
        asked = Asked(Verb.RESOURCES_UNSUBSCRIBE, self.sending.server, ERA)
        body = request(asked.id, asked.verb.value, b'{"uri":%b}' % encode(uri))

        async def unsubscribe(gate: Gate) -> None:
            async with ear.subscribing:
                if ear.subscribed[uri] <= 0:
                    response = await channel.post(body, gate)
                    await response.aclose()

        return unsubscribe
