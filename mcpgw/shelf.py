"""Calls that wait for their caller: the answer asked something, and a retry that brings it takes the exchange over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from mcpgw.domain import Action, Presented, Principal, ServerVersion
from mcpgw.errors import RateLimited, RequestTimeout, Unavailable
from mcpgw.ports import Clock, Held

Released = Callable[[BaseException | None, str | None], None]
"""Told how a suspension ended: why, or by the retry with this id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShelfLimits:
    """How many calls may wait, of one principal and in all, and for how long."""

    per_principal: int = 8
    in_all: int = 1000
    ttl_s: float = 300.0


@dataclass(slots=True, kw_only=True, eq=False)
class Suspended:
    """One call that waits, and what is left of its exchange; `held` None: it waits no longer.

    `until` is in Unix seconds. `among` are all that wait, by action id.
    """

    who: Principal
    action: Action
    version: ServerVersion | None
    presented: Presented
    held: Held | None
    released: Released
    until: float = 0.0
    among: dict[str, Suspended] = field(default_factory=dict)
    sent = True
    waits = True

    def cut(self, error: BaseException) -> None:
        """End it, unless a retry has taken it over."""
        held = self._leave()
        if held is not None:
            held.end(error)
        self.released(error, None)

    def adopted_by(self, retry: Action) -> Held | None:
        held = self._leave()
        self.released(None, retry.id)
        return held

    def _leave(self) -> Held | None:
        self.among.pop(self.action.id, None)
        held, self.held = self.held, None
        return held


class Shelf:
    """Implements `ports.Shelf`: all calls of one worker that wait."""

    def __init__(self, clock: Clock, limits: ShelfLimits) -> None:
        self._clock = clock
        self._limits = limits
        self._waiting: dict[str, Suspended] = {}

    def __iter__(self) -> Iterator[Suspended]:
        return iter(tuple(self._waiting.values()))

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, suspended: Suspended) -> None:
        """Let a call wait: in place of its caller's oldest when those are as many as may be.

        Raises RateLimited, having ended it, when all of the places are taken.
        """
        whose, limits = suspended.who.key, self._limits
        of_caller = [other for other in self if other.who.key == whose]
        if len(of_caller) >= limits.per_principal:
            of_caller[0].cut(RateLimited("a newer call of the same caller took its place"))
        elif len(self._waiting) >= limits.in_all:
            error = RateLimited("too many calls wait for their callers", fix="try again later")
            suspended.cut(error)
            raise error
        ends = suspended.who.expires_at
        until = self._clock.time() + limits.ttl_s
        suspended.until = until if ends is None else min(until, ends)
        suspended.among = self._waiting
        self._waiting[suspended.action.id] = suspended

    def sweep(self) -> None:
        """End what has waited for too long. Wants to be called once a second or so."""
        now = self._clock.time()
        for suspended in self:
            if suspended.until <= now:
                suspended.cut(RequestTimeout("the caller did not answer in time"))

    def close(self) -> None:
        """End all that wait."""
        for suspended in self:
            suspended.cut(Unavailable("the gateway is stopping"))

    def find(self, action_id: str) -> Held | None:
        suspended = self._waiting.get(action_id)
        return None if suspended is None or suspended.until <= self._clock.time() else suspended.held

    def adopt(self, action_id: str, retry: Action) -> Held | None:
        suspended = self._waiting.get(action_id)
        return None if suspended is None else suspended.adopted_by(retry)
