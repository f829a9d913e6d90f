"""A modern client that listens on a connection to a server of the handshake era."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

from mcpgw.config import LimitsSection
from mcpgw.domain import Part, PartKind, Verb
from mcpgw.errors import UpstreamFailed, UpstreamTimeout
from mcpgw.ports import Gate
from mcpgw.upstream.farewells import Farewells
from mcpgw.upstream.greeting import Live
from mcpgw.upstream.mcp_for_modern_wishes import Subscription
from mcpgw.upstream.mcp_parts import encode, next_id, request

Subscribe = Callable[[bytes], Awaitable[bool]]
"""Subscribe to a resource, by the `params` of the request; say whether the server tells of it."""


class FramedListener:
    """An exchange. All who listen on a connection hear what its server says of no call in particular.

    A resource stays subscribed to as long as one of them watches it.
    """

    def __init__(
        self, live: Live, subscription: Subscription, gate: Gate, limits: LimitsSection, farewells: Farewells
    ) -> None:
        self._live = live
        self._subscription = subscription
        self._gate = gate
        self._stream_s = limits.stream_s
        self._farewells = farewells
        self._pending = live.link.frames.listen(frozenset())
        self._parts = self._read()

    async def subscribe(self, subscribe: Subscribe) -> None:
        """Subscribe to what this client watches. What the server refuses is not granted."""
        frames = self._live.link.frames
        for uri in self._subscription.wanted.resourceSubscriptions:
            async with frames.subscribing:
                if frames.subscribed[uri] <= 0 and not await subscribe(_params(uri)):
                    continue
                frames.subscribed[uri] += 1
                self._subscription.uris.append(uri)

    def __aiter__(self) -> AsyncIterator[Part]:
        return self._parts

    async def aclose(self, reason: BaseException | None) -> None:
        await self._parts.aclose()
        frames, uris = self._live.link.frames, self._subscription.uris
        frames.forget(self._pending)
        self._subscription.uris = []
        for uri in uris:
            frames.subscribed[uri] -= 1
            if frames.subscribed[uri] <= 0:
                self._farewells.say(self._unsubscribing(uri), self._gate, reason)

    async def _read(self) -> AsyncGenerator[Part, None]:
        now = asyncio.get_running_loop().time
        until = now() + self._stream_s
        yield Part(PartKind.OPENED, facts={"era": self._live.greeting.era})
        yield self._subscription.acknowledged()
        try:
            while True:
                part = self._subscription.told(await self._live.link.frames.next(self._pending, until - now()))
                if part is not None:
                    yield part
        except (UpstreamTimeout, UpstreamFailed):
            yield self._subscription.over()

    def _unsubscribing(self, uri: str) -> Callable[[Gate], Awaitable[None]]:
        link, body = self._live.link, request(next_id(), Verb.RESOURCES_UNSUBSCRIBE.value, _params(uri))

        async def unsubscribe(gate: Gate) -> None:
            async with link.frames.subscribing:
                if link.frames.subscribed[uri] <= 0:
                    await link.write(body, gate)

        return unsubscribe


def _params(uri: str) -> bytes:
    return b'{"uri":%b}' % encode(uri)
