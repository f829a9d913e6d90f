"""Connections that belong to one client each: bounded, ended when idle, and when a kill switch says so."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from mcpgw.domain import Judged, Principal, Switches, Target
from mcpgw.errors import RateLimited
from mcpgw.upstream.mcp_for_modern_questions import declared

RETRY_AFTER_S = 5  # a call that ends makes room: nobody knows when


@dataclass(frozen=True, slots=True)
class Whose:
    """Whose a connection is, and where it leads: `place` tells servers apart that share a pool."""

    principal: str
    session: str | None = None
    can: bytes = b""
    place: tuple[Hashable, ...] = ()

    @classmethod
    def of(cls, judged: Judged, place: tuple[Hashable, ...] = ()) -> Whose:
        """Return whose a connection for this call is: of one session of a client.

        Where there are no sessions, of all requests of a principal that declare the same capabilities.
        """
        action, client = judged.action, judged.action.client
        if action.session is not None:
            return cls(judged.principal.key, session=action.session, place=place)
        return cls(judged.principal.key, can=declared(client) if client is not None else b"", place=place)


class Pooled(Protocol):
    """A connection in a pool, or what makes one when it is needed. `owner` is whom it serves."""

    owner: Principal | None
    used_at: float

    @property
    def busy(self) -> bool:
        """Whether a call is under way on it."""
        ...

    @property
    def listened_to(self) -> bool:
        """Whether its client is there, waiting for what the server says."""
        ...

    async def end(self) -> None:
        """End it, for good."""
        ...


P = TypeVar("P", bound=Pooled)


class Pool(Generic[P]):
    """At most `most` of them, those that are ending counted in; one unused for `idle_s` is ended."""

    def __init__(self, what: str, most: int, idle_s: float, monotonic: Callable[[], float]) -> None:
        self._what = what
        self._most = most
        self._idle_s = idle_s
        self._monotonic = monotonic
        self._held: OrderedDict[Whose, P] = OrderedDict()  # the one unused for longest first
        self._ending: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._held)

    def get(self, key: Whose) -> P | None:
        return self._held.get(key)

    async def take(self, key: Whose, make: Callable[[], P]) -> P:
        """Return what is kept under this key, made if need be. Raises RateLimited when all others are in use."""
        while (held := self._held.get(key)) is None:
            if len(self._held) + len(self._ending) < self._most:
                held = self._held[key] = make()
                break
            if not self._ending:
                self._make_room()
            await asyncio.wait(self._ending, return_when=asyncio.FIRST_COMPLETED)
        held.used_at = self._monotonic()
        self._held.move_to_end(key)
        return held

    def sweep(self) -> None:
        """End what nobody has used for long."""
        now = self._monotonic()
        for key, held in list(self._held.items()):
            if held.busy or held.listened_to:
                held.used_at = now
            elif now - held.used_at > self._idle_s:
                self._end(key)

    def end_session(self, client_session: str) -> None:
        """Begin to end what belongs to a session of a client that is over."""
        for key in self.of_session(client_session):
            self._end(key)

    def of_session(self, client_session: str) -> list[Whose]:
        """Return what is there for a session of a client."""
        return [key for key in self._held if key.session == client_session]

    async def end_killed(self, switches: Switches, target: Target, place: tuple[Hashable, ...] = ()) -> None:
        """End those at a place, by how it begins, whose owner's calls of `target` these switches forbid."""
        for key in [k for k in self._at(place) if switches.match(self._held[k].owner, target) is not None]:
            self._end(key)
        await self._ended()

    async def end_of(self, principal: str, place: tuple[Hashable, ...] = ()) -> None:
        """End those of a principal (`Principal.key`) at a place."""
        for key in [key for key in self._at(place) if key.principal == principal]:
            self._end(key)
        await self._ended()

    def _at(self, place: tuple[Hashable, ...]) -> list[Whose]:
        return [key for key in self._held if key.place[: len(place)] == place]

    async def clear(self) -> None:
        """End all."""
        for key in list(self._held):
            self._end(key)
        await self._ended()

    def _make_room(self) -> None:
        for key, held in self._held.items():
            if not held.busy and not held.listened_to:
                self._end(key)
                return
        raise RateLimited(
            f"{self._what} are all in use ({self._most})", fix="try later", data={"retry_after_s": RETRY_AFTER_S}
        )

    def _end(self, key: Whose) -> None:
        task = asyncio.get_running_loop().create_task(self._held.pop(key).end())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _ended(self) -> None:
        if self._ending:
            await asyncio.wait(set(self._ending))
