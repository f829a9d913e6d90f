"""Resumable streams of the handshake era (2025-11-25, "Resumability and Redelivery").

Each stream that answers a call has a number in its session, each event an id `{stream}-{position}`. What was sent is
kept for a while, so that a client that lost its connection can ask for the rest with `Last-Event-ID`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

MAX_BYTES = 262_144
STREAMS_KEPT = 4
RETRY_MS = 1000
_EVENT_ID = re.compile(r"([0-9]{1,9})-([0-9]{1,9})")


def one_line(message: bytes) -> bytes:
    """Return a JSON message without line breaks, which are white space there and would end the field here."""
    if b"\n" in message or b"\r" in message:
        return message.replace(b"\n", b" ").replace(b"\r", b" ")
    return message


class Replay:
    """The events of one stream as they were sent. `ended` is true when its last event is among them.

    `server` and `name` are what the call was aimed at: what is killed meanwhile is not handed out again.
    """

    def __init__(self, number: int, server: str | None, name: str | None) -> None:
        self.server = server
        self.name = name
        self._number = number
        self._events: list[bytes] = []
        self._bytes = 0
        self._more = asyncio.Event()
        self.ended = False

    def prime(self) -> bytes:
        """Return the empty event with which a stream begins, so that even nothing can be resumed."""
        return b"id: %d-0\nretry: %d\ndata: \n\n" % (self._number, RETRY_MS)

    def add(self, message: bytes, *, last: bool) -> bytes:
        """Keep a message and return its event; beyond the bound it can be sent, but not resumed."""
        position = len(self._events) + 1
        event = b"id: %d-%d\nevent: message\ndata: %b\n\n" % (self._number, position, one_line(message))
        self._bytes += len(event)
        self._events.append(event if self._bytes <= MAX_BYTES else b"")
        self.ended = self.ended or last
        self._more.set()
        return event

    def end(self) -> None:
        self.ended = True
        self._more.set()

    async def after(self, position: int) -> AsyncIterator[bytes]:
        """Yield the events beyond a position, waiting for those to come."""
        while True:
            while position < len(self._events):
                event = self._events[position]
                position += 1
                if not event:
                    return
                yield event
            if self.ended:
                return
            self._more.clear()
            await self._more.wait()


class Replays:
    """The streams of one session that can be resumed: the newest few."""

    def __init__(self) -> None:
        self._held: dict[int, Replay] = {}
        self._next = 1

    def begin(self, server: str | None, name: str | None) -> Replay:
        replay = self._held[self._next] = Replay(self._next, server, name)
        self._next += 1
        for number in [n for n, r in self._held.items() if r.ended][: max(0, len(self._held) - STREAMS_KEPT)]:
            del self._held[number]
        return replay

    def find(self, event_id: str) -> tuple[Replay, int] | None:
        """Return the stream that an event belongs to, and the position of the event in it."""
        match = _EVENT_ID.fullmatch(event_id)
        replay = self._held.get(int(match[1])) if match else None
        return (replay, int(match[2])) if match and replay is not None else None
