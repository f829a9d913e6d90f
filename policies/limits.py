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
        self._running: dict[str, int] = {}

    async def reserve(self, judged: Judged) -> Hold:
        who, server = judged.principal, judged.action.server
        by_caller = who.key
        by_server = f"@{server}" if server is not None else None
        running = self._running
        if running.get(by_caller, 0) >= self._per_principal and who.kind is not Kind.SYSTEM:
            raise RateLimited(
                f"more than {self._per_principal} calls at once",
                fix="wait for one",
                data={"retry_after_s": RETRY_AFTER_S},
            )
        if by_server is not None and running.get(by_server, 0) >= self._per_upstream:
            raise RateLimited(
                f"`{server}` has {self._per_upstream} calls running", fix="wait", data={"retry_after_s": RETRY_AFTER_S}
            )
        running[by_caller] = running.get(by_caller, 0) + 1
        if by_server is not None:
            running[by_server] = running.get(by_server, 0) + 1
        return _Place(running, by_caller, by_server)


class _Place:
    __slots__ = ("_by_caller", "_by_server", "_held", "_running")

    def __init__(self, running: dict[str, int], by_caller: str, by_server: str | None) -> None:
        self._running = running
        self._by_caller = by_caller
        self._by_server = by_server
        self._held = True

    def settle(self, facts: Mapping[str, Any]) -> None:
        self._give_back()

    def refund(self) -> None:
        self._give_back()

    def _give_back(self) -> None:
        if not self._held:
            return
        self._held = False
        for key in (self._by_caller, self._by_server):
            if key is not None:
                left = self._running[key] - 1
                if left:
                    self._running[key] = left
                else:
                    del self._running[key]
