"""What one caller and one upstream may take at once. Counted per worker, in memory, never waiting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mcpgw.config import LimitsSection
from mcpgw.domain import Judged, Kind
from mcpgw.errors import RateLimited
from mcpgw.ports import Hold

RETRY_AFTER_S = 1


class ConcurrencyMeter:
    """Implements `ports.Meter`: bounds the running calls of each principal and to each upstream."""

    def __init__(self, limits: LimitsSection) -> None:
        self._per_principal = limits.per_principal
        self._per_upstream = limits.per_upstream
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
        if server is not None:
            of_server = by_server.get(server, 0)
            if of_server >= self._per_upstream:
                raise RateLimited(
                    f"`{server}` has {self._per_upstream} calls running",
                    fix="wait",
                    data={"retry_after_s": RETRY_AFTER_S},
                )
            by_server[server] = of_server + 1
        calls[who.key] = of_caller + 1
        return _Place(self, who.key, server)

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
