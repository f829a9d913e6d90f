"""Following a log as it grows: its chain, its tree, and what was signed of it."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from mcpgw.audit.checkpoint import Finding, LogHead
from mcpgw.audit.logs import Chain, Tail, segment_path, segments
from mcpgw.audit.record import FIRST, leaf_of
from mcpgw.audit.tree import Frontier


class Bookmark(msgspec.Struct, frozen=True, kw_only=True):
    """Where following a log may go on. `last` is file, offset and length of the last record, whose leaf is `previous`.

    It is never trusted further than the root that was signed.
    """

    size: int
    segment: int
    offset: int
    previous: str
    peaks: list[str]
    last: tuple[int, int, int]

    def __post_init__(self) -> None:
        # A bookmark that makes no sense is not read: msgspec turns ValueError into ValidationError.
        self.frontier()
        if min(self.segment, self.offset, *self.last) < 0:
            raise ValueError("a place in a file is not negative")

    def frontier(self) -> Frontier:
        return Frontier(self.size, [bytes.fromhex(peak) for peak in self.peaks])

    def stands(self, directory: Path) -> bool:
        """Tell whether the last record is still there: a log that was cut since must be read again."""
        segment, offset, length = self.last
        try:
            with segment_path(directory, segment).open("rb") as file:
                file.seek(offset)
                return leaf_of(file.read(length)).hex() == self.previous
        except OSError:
            return False


class Follower:
    """One log as far as it has been read. With an `alarm` it is followed no further."""

    def __init__(self, directory: Path, signed: LogHead | None, bookmark: Bookmark | None = None) -> None:
        at = bookmark or Bookmark(size=0, segment=0, offset=0, previous=FIRST, peaks=[], last=(0, 0, 0))
        self.log = directory.name
        self.epoch = 0
        self.alarm: Finding | None = None
        self._signed = signed
        self._directory = directory
        self._last = at.last
        self._tail = Tail(directory, at.size, at.segment, at.offset)
        self._chain = Chain(self.log, at.size, at.previous)
        self._frontier = at.frontier()
        self._check_signed()

    @property
    def head(self) -> LogHead:
        return LogHead(self.log, self._frontier.size, self._frontier.root().hex())

    def bookmark(self) -> Bookmark:
        return Bookmark(
            size=self._frontier.size,
            segment=self._tail.segment,
            offset=self._tail.offset,
            previous=self._chain.previous or FIRST,
            peaks=[peak.hex() for peak in self._frontier.peaks],
            last=self._last,
        )

    def advance(self) -> None:
        """Read what is new and put it on the disk, so that nothing is signed that a loss of power could take back."""
        if self.alarm is not None:
            return
        files = segments(self._directory)  # Before reading: all that precedes the newest of these is complete.
        size, segment = self._frontier.size, self._tail.segment
        for line in self._tail.lines():
            leaf, head, faults = self._chain.follow(line)
            if head is None or faults:
                self.alarm = Finding(self.log, *faults[0])
                return
            self._frontier.append(leaf)
            self._last = (self._tail.segment, self._tail.offset - len(line) - 1, len(line))
            self.epoch = max(self.epoch, head.epoch)
            self._check_signed()
        behind = self._tail.index
        if files and files[-1] > behind:
            self.alarm = Finding(self.log, behind, f"is missing, and all up to {files[-1] - 1}")
        elif self._signed is not None and behind < self._signed.size:
            self.alarm = Finding(
                self.log, behind, f"is missing, and all up to {self._signed.size - 1}: they were signed"
            )
        elif behind > size:
            try:
                self._sync(segment)
            except OSError as error:  # What a second attempt says after a failed one is not to be trusted.
                self.alarm = Finding(self.log, size, f"or one behind it may not be on the disk: {error.strerror}")

    def sign(self) -> LogHead | None:
        """Return what may be signed now: all of it, or what was signed last when there is an alarm."""
        if self.alarm is None:
            self._signed = self.head
        return self._signed

    def _check_signed(self) -> None:
        signed = self._signed
        if signed is not None and self._frontier.size == signed.size and self._frontier.root().hex() != signed.root:
            self.alarm = Finding(self.log, signed.size - 1, f"or one before it is not what was signed: {signed.root}")

    def _sync(self, segment: int) -> None:
        for first in segments(self._directory):
            if segment <= first <= self._tail.segment:
                _sync(segment_path(self._directory, first))
        if segment != self._tail.segment:
            _sync(self._directory)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
