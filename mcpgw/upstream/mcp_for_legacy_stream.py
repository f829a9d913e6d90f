"""What changes on a modern server, told on the GET stream of a handshake-era client.

A client's session has one `subscriptions/listen` of ours, for changed lists and for the resources it subscribed to.
When it subscribes to another, a second listen takes the place of the first without a gap.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import msgspec

from mcpgw.domain import Part, PartKind
from mcpgw.errors import GatewayError, UpstreamFailed, UpstreamTimeout, UpstreamUnreachable, WorldMoved
from mcpgw.ports import Exchange
from mcpgw.upstream.mcp_for_legacy_call import Crossed
from mcpgw.upstream.mcp_modern import NotModern
from mcpgw.upstream.mcp_parts import LIST_CHANGED, Asked, encode, notification, read_message
from mcpgw.upstream.mcp_wire import ALIVE

ACKNOWLEDGED, UPDATED = "notifications/subscriptions/acknowledged", "notifications/resources/updated"
OVERLAP_S, MAX_OVERLAPS = 0.25, 20  # of silence, after which all listens have told the same; how often waited for
MAX_OLDER = 8  # listens that stand beside the current one meanwhile
RELISTENS = 5  # in a row that failed
RELISTEN_S, MAX_RELISTEN_S = 0.5, 15.0
STEADY_S = 30.0  # a listen that lasted so long was not a failure


class _Filter(msgspec.Struct, gc=False):
    resourceSubscriptions: tuple[str, ...] = ()


class _Acknowledged(msgspec.Struct, gc=False):
    notifications: _Filter


class _Updated(msgspec.Struct, gc=False):
    uri: str


_acknowledged = msgspec.json.Decoder(_Acknowledged).decode
_updated = msgspec.json.Decoder(_Updated).decode


class Refused(Exception):
    """The server answered a listen with an error."""

    def __init__(self, part: Part, failure: UpstreamFailed) -> None:
        super().__init__(str(failure))
        self.part = part
        self.failure = failure


@dataclass(slots=True, eq=False)
class Listening:
    """A listen that the server has acknowledged, for these `uris` among others."""

    exchange: Exchange
    uris: frozenset[str]
    pump: asyncio.Task[None] | None = None

    def stop(self) -> None:
        """Hear nothing of it any more."""
        if self.pump is not None:
            self.pump.cancel()

    async def aclose(self) -> None:
        self.stop()
        if self.pump is not None:
            await asyncio.gather(self.pump, return_exceptions=True)
        await self.exchange.aclose(None)


def filter_of(uris: frozenset[str]) -> bytes:
    """Return the `notifications` of a listen: every kind of list, and these resources."""
    wanted: dict[str, object] = {f"{kind}ListChanged": True for kind in LIST_CHANGED.values()}
    return encode({**wanted, "resourceSubscriptions": sorted(uris)} if uris else wanted)


async def listen(crossed: Crossed, ack_s: float) -> Listening:
    """Return a listen once it is acknowledged.

    Raises Refused, UpstreamTimeout when that takes too long, NotModern, and what every upstream raises.
    """
    asked, exchange = await crossed.write()
    listening: Listening | None = None
    try:
        async with asyncio.timeout(ack_s):
            async for part in exchange:
                if part.error_code is not None:
                    failure = asked.failed("refused", f"refused a subscription (JSON-RPC error {part.error_code})")
                    raise Refused(part, failure)
                if part.kind is PartKind.EVENT and part.body:
                    listening = Listening(exchange, _honoured(asked, part.body))
                    return listening
    except TimeoutError:
        raise UpstreamTimeout(f"`{asked.server}` did not acknowledge a subscription in time") from None
    finally:
        if listening is None:
            await exchange.aclose(None)
    raise asked.failed("no_acknowledgement", "ended a subscription without acknowledging it")


def _honoured(asked: Asked, body: bytes) -> frozenset[str]:
    message = read_message(body)
    try:
        if message is not None and message.method == ACKNOWLEDGED:
            return frozenset(_acknowledged(message.params).notifications.resourceSubscriptions)
    except msgspec.DecodeError:
        pass
    raise asked.failed("no_acknowledgement", "began a subscription without acknowledging it")


class Told:
    """What listens tell that stand side by side: each tells of the same change once, and it is passed on once."""

    def __init__(self) -> None:
        self._passed_on: Counter[bytes] = Counter()
        self._by: dict[Listening, Counter[bytes]] = {}

    def so_far(self) -> Counter[bytes]:
        """Return what was passed on before a listen began: it will not tell that."""
        return self._passed_on.copy()

    def begins(self, listening: Listening, so_far: Counter[bytes]) -> None:
        self._by[listening] = so_far

    def is_new(self, listening: Listening, told: bytes) -> bool:
        """Count that a listen tells this; say whether no other has told it before."""
        counted = self._by.setdefault(listening, Counter())
        counted[told] += 1
        if counted[told] <= self._passed_on[told]:
            return False
        self._passed_on[told] = counted[told]
        return True

    def settle(self) -> None:
        """One is left. What it has missed because it began in that very moment, it need not tell any more."""
        self._passed_on.clear()
        self._by.clear()


@dataclass(slots=True, eq=False)
class ClientState:
    """What is held for one session of a client with one server. `lock` is for who changes its listen."""

    log_level: str | None = None
    uris: frozenset[str] = frozenset()
    stream: ClientStream | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(frozen=True, slots=True)
class _Ended:
    listening: Listening
    failure: GatewayError | None


class ClientStream:
    """An exchange: the GET stream of a session, for as long as its client reads it.

    `relisten` opens another listen through the gate of the stream's own call, for when the server ends one; `facts` are
    what the record says of it.
    """

    def __init__(
        self,
        state: ClientState,
        first: Listening,
        relisten: Callable[[], Awaitable[Listening]],
        facts: Mapping[str, Any],
    ) -> None:
        self._state = state
        self._facts = facts
        self._relisten = relisten
        self._queue: asyncio.Queue[Part | _Ended] = asyncio.Queue(maxsize=100)
        self._told = Told()
        self._joining: Counter[bytes] | None = None
        self._older: list[Listening] = []
        self._leaving: list[Listening] = []
        self._settling: asyncio.Task[None] | None = None
        self._stirred = 0
        self._begin(first)
        self._parts = self._read()

    def __aiter__(self) -> AsyncIterator[Part]:
        return self._parts

    async def aclose(self, reason: BaseException | None) -> None:
        if self._state.stream is self:
            self._state.stream = None
        if self._settling is not None:
            self._settling.cancel()
            await asyncio.gather(self._settling, return_exceptions=True)
        for listening in (*self._leaving, *self._older, self._current):
            await listening.aclose()
        await self._parts.aclose()

    async def expect(self) -> None:
        """Begin to expect another listen, which is asked for now; only so many may stand side by side."""
        if len(self._older) >= MAX_OLDER and self._settling is not None:
            await asyncio.wait((self._settling,))
        self._joining = self._told.so_far()

    def take_over(self, newer: Listening | None) -> None:
        """Put this listen in the place of the current one, which goes when both have told the same; None: none came."""
        joining, self._joining = self._joining, None
        if newer is not None and joining is not None:
            self._told.begins(newer, joining)
            self._older.append(self._current)
            self._begin(newer)
            if self._settling is None or self._settling.done():
                self._settling = asyncio.create_task(self._settle(), name="let go of a server's subscriptions")
        elif not self._older:
            self._told.settle()

    def _begin(self, listening: Listening) -> None:
        self._current = listening
        self._stirred += 1
        listening.pump = asyncio.create_task(self._hear(listening), name="hear a server's subscription")

    async def _settle(self) -> None:
        while self._older:
            await self._quiet()
            self._told.settle()
            self._leaving, self._older = self._older, []
            for listening in self._leaving:
                listening.stop()
            for listening in self._leaving:
                await listening.aclose()
            self._leaving = []

    async def _quiet(self) -> None:
        """Return when no listen tells anything for a while, or after some time, and none is being asked for."""
        stirred, waited = -1, 0
        while self._joining is not None or (stirred != self._stirred and waited < MAX_OVERLAPS):
            stirred, waited = self._stirred, waited + 1
            await asyncio.sleep(OVERLAP_S)

    async def _hear(self, listening: Listening) -> None:
        failure: GatewayError | None = None
        try:
            async for part in listening.exchange:
                if part.kind is PartKind.LAST:
                    break
                told = self._read_by_client(part.body)
                if told is None:
                    continue
                self._stirred += 1
                alone = self._joining is None and not self._older
                if alone or self._told.is_new(listening, told):
                    await self._queue.put(Part(PartKind.EVENT, told))
        except GatewayError as error:
            failure = error
        if listening is self._current:
            await self._queue.put(_Ended(listening, failure))

    def _read_by_client(self, body: bytes) -> bytes | None:
        """Return a notification as this client reads it: without the subscription, which it has never made."""
        message = read_message(body) if body else None
        if message is None or message.method is None:
            return None
        if message.method in LIST_CHANGED:
            return b'{"jsonrpc":"2.0","method":%b}' % encode(message.method)
        try:
            uri = _updated(message.params).uri if message.method == UPDATED else ""
        except msgspec.DecodeError:
            return None
        # It may be a part of a resource that was subscribed to (2025-11-25, ResourceUpdatedNotification).
        if uri not in self._state.uris and not any(uri.startswith(whole) for whole in self._state.uris):
            return None
        return notification(UPDATED, encode({"uri": uri}))

    async def _read(self) -> AsyncGenerator[Part, None]:
        yield Part(PartKind.OPENED, facts=self._facts)
        yield ALIVE
        now = asyncio.get_running_loop().time
        failed, began = 0, now()
        while True:
            item = await self._queue.get()
            if isinstance(item, Part):
                yield item
                continue
            failed = 0 if now() - began > STEADY_S else failed + 1
            async with aclosing(self._again(item, failed)) as parts:
                async for part in parts:
                    yield part
            began = now()

    async def _again(self, ended: _Ended, failed: int) -> AsyncGenerator[Part, None]:
        """Listen once more. When the world has moved, the stream's call is judged again first, by a part."""
        failure, moved = ended.failure, 0
        while failed <= RELISTENS:
            if failed:
                await asyncio.sleep(min(RELISTEN_S * 2**failed, MAX_RELISTEN_S))
            try:
                async with self._state.lock:
                    if self._current is not ended.listening:
                        return  # another has taken its place
                    so_far = self._told.so_far()
                    again = await self._relisten()
                    self._told.begins(again, so_far)
                    self._begin(again)
                    await ended.listening.aclose()
                    return
            except WorldMoved:
                yield ALIVE
                await asyncio.sleep(0.05 * moved)  # the part may wait in a queue before it is judged
                moved += 1
            except (Refused, NotModern) as refused:
                failure, failed = refused.failure, failed + 1
            except (UpstreamFailed, UpstreamTimeout, UpstreamUnreachable) as error:
                failure, failed = error, failed + 1
        raise failure or UpstreamFailed("the server ends its subscriptions at once", fix="listen again later")
