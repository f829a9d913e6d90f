"""What server processes write to their standard error, line by line in the log."""

from __future__ import annotations

import asyncio
import logging

log = logging.getLogger("mcpgw.stdio")

MAX_LINE_BYTES = 8_192
BYTES_PER_S = 262_144  # beyond that the process waits, rather than the gateway


def escaped(line: bytes) -> str:
    """Return a line as text in which nothing can start another line, colour it or hide a part of it."""
    text = line.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class ErrorLines:
    """Cuts the standard error of one process into lines and logs each; lines that are too long are cut off."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._line = bytearray()
        self._second = 0.0
        self._fed = 0

    def feed(self, data: bytes, pipe: asyncio.ReadTransport) -> None:
        *lines, rest = data.split(b"\n")
        for line in lines:
            self._log(bytes(self._line) + line)
            self._line.clear()
        self._line += rest[: MAX_LINE_BYTES - len(self._line)]
        self._slow(len(data), pipe)

    def _log(self, line: bytes) -> None:
        line = line.rstrip(b"\r")
        if line:
            log.info("%s: %s", self._name, escaped(line[:MAX_LINE_BYTES]))

    def _slow(self, count: int, pipe: asyncio.ReadTransport) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        if now - self._second >= 1.0:
            self._second, self._fed = now, 0
        self._fed += count
        if self._fed > BYTES_PER_S:
            pipe.pause_reading()
            loop.call_at(self._second + 1.0, _resume, pipe)


def _resume(pipe: asyncio.ReadTransport) -> None:
    if not pipe.is_closing():
        pipe.resume_reading()
