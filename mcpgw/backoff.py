"""When to try again what ends or fails."""

from __future__ import annotations

from collections.abc import Callable


class Backoff:
    """Waits that double from `first_s` to `most_s`, and begin anew after an attempt that lasted for `most_s`."""

    def __init__(self, monotonic: Callable[[], float], *, first_s: float, most_s: float) -> None:
        self._monotonic = monotonic
        self._first_s = first_s
        self._most_s = most_s
        self._next_s = first_s
        self._began = monotonic()

    def begin(self) -> None:
        """An attempt begins."""
        self._began = self._monotonic()

    def wait_s(self) -> float:
        """Return how long to wait after the attempt that has just ended."""
        if self._monotonic() - self._began >= self._most_s:
            self._next_s = self._first_s
        wait_s, self._next_s = self._next_s, min(self._next_s * 2, self._most_s)
        return wait_s
