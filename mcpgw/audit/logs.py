"""The files of a log and how they are read: `logs/{log}/{index of its first record}.jsonl`, one record a line.

A file is preallocated, so NULs may follow its last record; and it may be read while it is written, so a line counts
only when it is complete: it ends with a line feed and holds no NUL.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from mcpgw.audit.record import FIRST, leaf_of
from mcpgw.domain import Phase

ADMIN = "admin"  # the log of what administrators changed
_SUFFIX = ".jsonl"
_CHUNK = 1 << 20


def logs_of(audit_dir: Path) -> Path:
    return audit_dir / "logs"


def names(audit_dir: Path) -> list[str]:
    """Return the logs that exist, in order."""
    try:
        return sorted(entry.name for entry in os.scandir(logs_of(audit_dir)) if entry.is_dir())
    except FileNotFoundError:
        return []


def segments(directory: Path) -> list[int]:
    """Return the indexes of the first records of a log's files, in order."""
    try:
        found = [entry.name.removesuffix(_SUFFIX) for entry in os.scandir(directory) if entry.name.endswith(_SUFFIX)]
    except FileNotFoundError:
        return []
    return sorted(int(name) for name in found if name.isascii() and name.isdigit())


def segment_path(directory: Path, first: int) -> Path:
    return directory / f"{first:020d}{_SUFFIX}"


def size_of(audit_dir: Path, log: str) -> int:
    """Return how many records a log has, whether its writer lives or not."""
    directory = logs_of(audit_dir) / log
    files = segments(directory)
    if not files:
        return 0
    tail = Tail(directory, files[-1], files[-1])
    return sum(1 for _ in tail.lines()) + files[-1]


class Tail:
    """Reads on from where it stopped: the next record has `index` and starts at `offset` of the file `segment`."""

    __slots__ = ("directory", "index", "offset", "segment")

    def __init__(self, directory: Path, index: int = 0, segment: int = 0, offset: int = 0) -> None:
        self.directory = directory
        self.index = index
        self.segment = segment
        self.offset = offset

    def lines(self) -> Iterator[bytes]:
        """Yield the complete lines that follow, over file ends, without their line feeds.

        When a line is yielded the tail already stands behind it.
        """
        while True:
            try:
                file = segment_path(self.directory, self.segment).open("rb", buffering=0)
            except FileNotFoundError:
                return
            with file:
                file.seek(self.offset)
                rest = b""
                while chunk := file.read(_CHUNK):
                    whole, nul, _ = (rest + chunk).partition(b"\0")
                    *complete, rest = whole.split(b"\n")
                    for line in complete:
                        self.offset += len(line) + 1
                        self.index += 1
                        yield line
                    if nul:
                        break
            if self.index == self.segment or not segment_path(self.directory, self.index).exists():
                return
            self.segment, self.offset = self.index, 0

    def rest(self) -> bytes:
        """Return what stands behind the last complete line of this file, without the NULs at its end."""
        try:
            with segment_path(self.directory, self.segment).open("rb") as file:
                file.seek(self.offset)
                return file.read().rstrip(b"\0")
        except FileNotFoundError:
            return b""


class Head(msgspec.Struct):
    """What of a record the chain rests on."""

    time: float
    phase: Phase
    log: str
    index: int
    previous: str
    action_id: str
    epoch: int


class Chain:
    """Checks that each record follows the one before it."""

    __slots__ = ("_decode", "index", "log", "previous")

    def __init__(self, log: str, index: int = 0, previous: str | None = FIRST) -> None:
        self.log = log
        self.index = index
        self.previous = previous  # hex of the leaf before; None: not known
        self._decode = msgspec.json.Decoder(Head).decode

    def follow(self, line: bytes) -> tuple[bytes, Head | None, list[tuple[int, str]]]:
        """Return leaf, head (None: not a record) and what is wrong, each with its index; then expect the next one.

        After a record that is out of place the ones that stand behind *it* are expected, so one fault is told once.
        """
        leaf = leaf_of(line)
        at, faults = self.index, list[tuple[int, str]]()
        previous, self.previous = self.previous, leaf.hex()
        self.index += 1
        try:
            head = self._decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return leaf, None, [(at, "is not a record")]
        if head.log != self.log:
            faults.append((at, f"belongs to log `{head.log[:64]}`"))
        if head.index != at:
            faults.append((at, f"is not where it belongs: record {head.index} stands there"))
            self.index = head.index + 1
        elif previous is not None and head.previous != previous:
            if at:
                faults.append((at - 1, f"is not the record that {at} was written after: it was changed, or {at} was"))
            else:
                faults.append((at, "does not begin the log"))
        return leaf, head, faults
