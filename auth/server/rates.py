"""How often something may happen at all."""

from __future__ import annotations

from mcpgw.ports import Clock


class Rate:
    """`most` times in `per_s` seconds, and not all of them at once a second time: a bucket that fills evenly."""

    def __init__(self, clock: Clock, most: int, per_s: float) -> None:
        self._clock = clock
        self._most = float(most)
        self._per_second = most / per_s
        self._left = self._most
        self._at = clock.monotonic()

    def admits(self) -> bool:
        """Count one time, if there is room for it."""
        now = self._clock.monotonic()
        self._left = min(self._most, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True
