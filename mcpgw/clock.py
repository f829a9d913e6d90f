"""Time and randomness of the machine."""

from __future__ import annotations

import os
from time import monotonic as _monotonic
from time import time as _time
from time import time_ns


class SystemClock:
    """Implements `ports.Clock`; one for each process."""

    time = staticmethod(_time)
    monotonic = staticmethod(_monotonic)

    def __init__(self) -> None:
        self._random = ""
        self._at = 0

    def new_id(self) -> str:
        """Return a UUIDv7 (RFC 9562 §5.7)."""
        at = self._at
        if at == len(self._random):
            self._random, at = os.urandom(_POOL_BYTES).hex(), 0
        self._at = at + _ID_DIGITS
        tail = self._random[at : at + _ID_DIGITS]
        stamp = f"{time_ns() // 1_000_000:012x}"
        return f"{stamp[:8]}-{stamp[8:]}-7{tail[:3]}-{_VARIANT[tail[3]]}{tail[4:7]}-{tail[7:]}"


_ID_DIGITS = 19
_POOL_BYTES = _ID_DIGITS * 256  # one system call for 512 ids
_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
