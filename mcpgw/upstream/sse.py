"""Server-sent events cut out of a byte stream, each with the very bytes it came in."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass

from mcpgw.errors import UpstreamFailed

# Two line ends in a row; a line ends with \n, \r\n or \r (WHATWG HTML §9.2.6).
BLANK_LINE = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r)")
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class SseEvent:
    """One block of a stream up to and including its blank line.

    `raw` joined over all events is the stream, byte for byte. `data` holds the `data` lines joined with a line feed;
    it is empty for a block that carries none (a comment, a keep-alive): nothing to act on, only to pass through.
    `id` is None when the block has no `id` line.
    """

    raw: bytes
    data: bytes
    event: str = "message"
    id: bytes | None = None


class SseSplitter:
    """Cuts one stream; feed it what arrives, in any pieces.

    An event longer than `max_event_bytes` raises UpstreamFailed.
    """

    __slots__ = ("_begun", "_held", "_max_event_bytes")

    def __init__(self, max_event_bytes: int) -> None:
        self._max_event_bytes = max_event_bytes
        self._held = bytearray()  # grows in place: an event that drips in must not be copied for every piece
        self._begun = False

    def feed(self, chunk: bytes) -> list[SseEvent]:
        """Return the events that `chunk` completes, in order."""
        # A blank line may be cut anywhere: of its four bytes at most three have been seen.
        scan = max(0, len(self._held) - 3)
        text: bytes | bytearray = chunk
        if self._held:
            self._held += chunk
            text = self._held
        events: list[SseEvent] = []
        start = 0
        while found := BLANK_LINE.search(text, scan):
            end = found.end()
            self._check(end - start)
            events.append(self._event(bytes(text[start:end])))
            start = scan = end
        self._check(len(text) - start)
        if text is self._held:
            del self._held[:start]
        else:
            self._held += memoryview(chunk)[start:]
        return events

    def finish(self) -> SseEvent | None:
        """Return what stands unfinished at the end of the stream, as if a blank line followed; None if nothing does.

        Browsers drop such a rest (WHATWG HTML §9.2.6); some model providers end their stream with one.
        """
        rest = bytes(self._held)
        self._held.clear()
        return self._event(rest) if rest.strip(b"\r\n") else None

    def _check(self, length: int) -> None:
        if length > self._max_event_bytes:
            raise UpstreamFailed(
                f"the upstream sent an event of more than {self._max_event_bytes} bytes",
                fix="raise limits.result_bytes, if such events are wanted",
            )

    def _event(self, raw: bytes) -> SseEvent:
        if self._begun:
            return read_event(raw)
        self._begun = True
        return dataclasses.replace(read_event(raw.removeprefix(BOM)), raw=raw)


def read_event(raw: bytes) -> SseEvent:
    """Return what one block of a stream says."""
    data: list[bytes] = []
    kind, last_id = "message", None
    for line in raw.splitlines():
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            data.append(value)
        elif name == b"event":
            kind = value.decode("utf-8", "replace") or "message"
        elif name == b"id" and b"\0" not in value:
            last_id = value
    return SseEvent(raw, data[0] if len(data) == 1 else b"\n".join(data), kind, last_id)
