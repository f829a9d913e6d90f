"""What one caller and one upstream may take at once, and one key in a minute.

Counted per worker, in memory, never waiting.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from mcpgw.config import LimitsSection
from mcpgw.domain import VERBS, Judged, Kind, Principal
from mcpgw.errors import RateLimited
from mcpgw.ports import Hold

RETRY_AFTER_S = 1
MINUTE_S = 60.0
REMEMBERED = 1024
"""Keys whose calls are counted, before those are forgotten that have made none for a minute."""


class ConcurrencyMeter:
    """Implements `ports.Meter`: bounds the running calls of each principal and to each upstream.

    A credential with limits of its own has those besides: of what acts (a call of a tool or a model, a resource, a
    prompt), not of lists and streams.
    """

    def __init__(self, limits: LimitsSection, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._per_principal = limits.per_principal
        self._per_upstream = limits.per_upstream
        self._of_keys = KeyCalls(monotonic)
        self._calls: dict[str, int] = {}  # by caller
        self._by_server: dict[str, int] = {}

    async def reserve(self, judged: Judged) -> Hold:
        who, server = judged.principal, judged.action.server
        calls, by_server = self._calls, self._by_server
        of_caller = calls.get(who.key, 0)
        if of_caller >= self._per_principal and who.kind is not Kind.SYSTEM:
            raise RateLimited(
                f"more than {self._per_principal} calls at once",
                fix="wait for one",
                data={"retry_after_s": RETRY_AFTER_S},
            )
        of_server = 0
        if server is not None:
            of_server = by_server.get(server, 0)
            if of_server >= self._per_upstream:
                raise RateLimited(
                    f"`{server}` has {self._per_upstream} calls running",
                    fix="wait",
                    data={"retry_after_s": RETRY_AFTER_S},
                )
        counted = None
        if who.calls_per_minute is not None or who.concurrent is not None:
            counted = self._of_keys.begin(judged)  # before anything is taken that would have to be given back
        if server is not None:
            by_server[server] = of_server + 1
        calls[who.key] = of_caller + 1
        return _Place(self, who.key, server) if counted is None else _CountedPlace(self, who.key, server, counted)

    def leave(self, caller: str, server: str | None) -> None:
        """Give back a place."""
        _less(self._calls, caller)
        if server is not None:
            _less(self._by_server, server)


def _less(running: dict[str, int], key: str) -> None:
    left = running[key] - 1
    if left:
        running[key] = left
    else:
        del running[key]


class _Place:
    __slots__ = ("_caller", "_held", "_meter", "_server")

    def __init__(self, meter: ConcurrencyMeter, caller: str, server: str | None) -> None:
        self._meter = meter
        self._caller = caller
        self._server = server
        self._held = True

    def settle(self, facts: Mapping[str, Any]) -> None:
        self._give_back()

    def refund(self) -> None:
        self._give_back()

    def _give_back(self) -> None:
        if self._held:
            self._held = False
            self._meter.leave(self._caller, self._server)


class KeyCalls:
    """Counts the calls of credentials that have limits of their own: those that run, and those of the last minute."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._running: dict[str, int] = {}
        self._made: dict[str, deque[float]] = {}

    def begin(self, judged: Judged) -> _Counted | None:
        """Count a call. Raises RateLimited, and then nothing is counted."""
        who = judged.principal
        if not VERBS[judged.action.verb].acts:
            return None
        running = self._running.get(who.key, 0)
        if who.concurrent is not None and running >= who.concurrent:
            raise RateLimited(
                f"this key may have {who.concurrent} calls running",
                fix="wait for one",
                data={"retry_after_s": RETRY_AFTER_S},
            )
        at = self._within_rate(who)
        self._running[who.key] = running + 1
        return _Counted(self, who.key, at)

    def _within_rate(self, who: Principal) -> float | None:
        """Note a call among those of the last minute, whose number never exceeds the limit; return its time."""
        most = who.calls_per_minute
        if most is None:
            return None
        now = self._monotonic()
        made = self._made.get(who.key)
        if made is None:
            self._forget(now)
            made = self._made[who.key] = deque()
        while made and made[0] <= now - MINUTE_S:
            made.popleft()
        if len(made) >= most:
            wait_s = math.ceil(made[0] + MINUTE_S - now)
            raise RateLimited(
                f"this key may make {most} calls in a minute",
                fix=f"wait {wait_s} s",
                data={"retry_after_s": max(1, wait_s)},
            )
        made.append(now)
        return now

    def end(self, key: str, at: float | None, *, sent: bool) -> None:
        """Give back the place of a call, and for one that was not sent its part of the minute too."""
        _less(self._running, key)
        made = self._made.get(key)
        if not sent and at is not None and made and at in made:
            made.remove(at)

    def _forget(self, now: float) -> None:
        if len(self._made) >= REMEMBERED:
            for key in [key for key, made in self._made.items() if not made or made[-1] <= now - MINUTE_S]:
                del self._made[key]


class _Counted:
    __slots__ = ("_at", "_calls", "_key")

    def __init__(self, calls: KeyCalls, key: str, at: float | None) -> None:
        self._calls = calls
        self._key = key
        self._at = at

    def end(self, *, sent: bool) -> None:
        self._calls.end(self._key, self._at, sent=sent)


class _CountedPlace(_Place):
    __slots__ = ("_counted",)

    def __init__(self, meter: ConcurrencyMeter, caller: str, server: str | None, counted: _Counted) -> None:
        super().__init__(meter, caller, server)
        self._counted = counted

    def settle(self, facts: Mapping[str, Any]) -> None:
        self._end(sent=True)

    def refund(self) -> None:
        self._end(sent=False)

    def _end(self, *, sent: bool) -> None:
        if self._held:
            self._counted.end(sent=sent)
        self._give_back()
