"""How often one client may fail to authenticate."""

from __future__ import annotations

from collections import OrderedDict

from mcpgw.ports import Clock

FREE_FAILURES = 5
LONGEST_S = 60.0
REMEMBERED = 4096


class Backoff:
    """After five failures in a row, waits of 1, 2, 4 … 60 seconds. Kept in memory, per worker, for the latest 4,096.

    `who` is a client id together with the address that the request came from: a stranger who fails in a client's name
    does not keep the client out.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failures: OrderedDict[tuple[str, str | None], tuple[int, float]] = OrderedDict()

    def wait_s(self, who: tuple[str, str | None]) -> float:
        """Return for how many seconds `who` is still refused unheard; 0 when heard."""
        held = self._failures.get(who)
        return 0.0 if held is None else max(0.0, held[1] - self._clock.monotonic())

    def failed(self, who: tuple[str, str | None]) -> None:
        count = self._failures.pop(who, (0, 0.0))[0] + 1
        # The exponent is bounded: a power of two beyond floating point would raise.
        pause_s = min(LONGEST_S, 2.0 ** min(count - FREE_FAILURES, 10)) if count >= FREE_FAILURES else 0.0
        self._failures[who] = count, self._clock.monotonic() + pause_s
        if len(self._failures) > REMEMBERED:
            self._failures.popitem(last=False)

    def succeeded(self, who: tuple[str, str | None]) -> None:
        self._failures.pop(who, None)
