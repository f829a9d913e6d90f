"""The writer's end of a log: whole records appended to preallocated files, with room kept for what is owed.

An intent is admitted only when the outcome that it will owe, and those that running calls owe already, fit into room
that the file system has handed over. So a full disk stops new calls, and none that is under way loses its record.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from mcpgw.audit.logs import Chain, Tail, logs_of, segment_path, segments
from mcpgw.audit.record import FIRST, MAX_LINE, OWED_LINE, Draft, Line, encode, leaf_of
from mcpgw.config import AuditSection
from mcpgw.domain import Phase, Receipt
from mcpgw.errors import Unavailable
from mcpgw.ports import Clock

ROOM = 3 * (OWED_LINE + 1)  # of one running call: opened, outcome, closed
_NAMED = 100  # unfinished calls that a `recovered` record names
_NEXT = "next"  # a segment that is being made
_OWING = ".owing"  # beside a segment: the calls that were under way when it was begun


@dataclass(slots=True)
class Found:
    """What a log held when its writer came back.

    `unfinished` are calls that were sent, or not: their effect is unknown. `broken` is the first record of the last
    file that does not follow the one before it.
    """

    size: int = 0
    leaf: str = FIRST
    epoch: int = 0
    torn: bytes = b""
    broken: int | None = None
    unfinished: dict[str, None] = field(default_factory=dict)

    def line(self, clock: Clock) -> Line | None:
        """Return the record of it, or None when the log was left in order."""
        if not self.torn and self.broken is None and not self.unfinished:
            return None
        facts: dict[str, object] = {"unfinished": len(self.unfinished)}
        if self.unfinished:
            facts["unknown_effect"] = list(self.unfinished)[:_NAMED]
        if self.torn:
            facts["torn_bytes"] = len(self.torn)
            facts["torn"] = self.torn[:256].decode(errors="replace")
        if self.broken is not None:
            facts["broken_at"] = self.broken
        return Line(time=clock.time(), phase=Phase.RECOVERED, action_id=clock.new_id(), epoch=self.epoch, facts=facts)


class Slot:
    """One log and its only writer. `size` is the number of records, `leaf` the hash of the last one in hex."""

    def __init__(self, directory: Path, lock: int, found: Found, settings: AuditSection) -> None:
        self.log = directory.name
        self.size = found.size
        self.leaf = found.leaf
        self._directory = directory
        self._lock = lock
        self._settings = settings
        self._owing: dict[str, None] = {}  # action ids
        self._sidecar: Path | None = None
        self._fd = -1
        self._map: mmap.mmap
        self._offset = 0
        self._capacity = 0
        self._retired: list[int] = []
        self._failed: str | None = None
        self._closed = False

    @classmethod
    def claim(cls, logs: Path, log: str, settings: AuditSection, clock: Clock) -> Slot:
        """Return the slot, healed and ready to write. Raises Unavailable while another process has it, or no room."""
        directory = logs / log
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            # The lock dies with its holder, however that dies.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found = heal(directory)
            slot = cls(directory, lock, found, settings)
            slot._begin()
            os.fsync(lock)  # the new file's name, once and for all
            line = found.line(clock)
            if line is not None:
                slot.append(line)
            for told in set(directory.glob(f"*{_OWING}")) - {slot._sidecar}:
                told.unlink()
        except BlockingIOError:
            os.close(lock)
            raise Unavailable(f"log `{log}` has a writer already", fix="stop the other gateway process") from None
        except OSError as error:
            os.close(lock)
            raise _no_room(log, error) from error
        return slot

    def admit(self, action_id: str) -> None:
        """Keep room for an intent and for what it will owe, until `settle`. Raises Unavailable."""
        self.make_room(calls=1)
        self._owing[action_id] = None

    def settle(self, action_id: str) -> None:
        """Give back the room of an action that owes nothing any more, or never did."""
        self._owing.pop(action_id, None)

    def make_room(self, calls: int = 0) -> None:
        """Have room for one record, all that is owed and what further `calls` will owe. Raises Unavailable."""
        if self._failed is not None:
            raise Unavailable(f"log `{self.log}` cannot be relied on: {self._failed}", fix="restart the gateway")
        owed = ROOM * (len(self._owing) + calls)
        if self._offset + MAX_LINE + 1 + owed > self._capacity - self._settings.reserve_bytes:
            try:
                self._begin(owed)
            except OSError as error:
                raise _no_room(self.log, error) from error

    def check(self) -> None:
        """Try to write where the next record will stand. Raises Unavailable."""
        self.make_room(calls=1)
        self._map[self._offset : self._offset + MAX_LINE] = bytes(MAX_LINE)

    def append(self, line: Line | Draft, limit: int = MAX_LINE) -> Receipt:
        """Hand one record to the operating system and return where it stands. Raises OSError: then nothing is there."""
        index = self.size
        line.log, line.index, line.previous = self.log, index, self.leaf
        text = encode(line, limit)
        size = len(text) + 1
        if self._offset + size > self._capacity:
            self._begin(ROOM * len(self._owing))
        if self._closed:
            raise OSError(errno.EBADF, "the log is closed")
        end = self._offset + size
        # The file is mapped: this is the page cache of the operating system, which outlives the process.
        self._map[self._offset : end] = text + b"\n"
        self._offset = end
        self.leaf = leaf_of(text).hex()
        self.size = index + 1
        return Receipt(self.log, index, self.leaf)

    def flush(self) -> Callable[[], None]:
        """Return the work that puts everything written so far on the disk; for one other thread, one at a time."""
        retired, self._retired = self._retired, []
        fd = self._fd

        def work() -> None:
            for old in retired:
                os.fdatasync(old)
                os.close(old)
            if retired:
                os.fsync(self._lock)  # the directory: the new file's name
            os.fdatasync(fd)

        return work

    def fail(self, reason: str) -> None:
        """Refuse every further intent: after a failed sync nobody knows what is on the disk."""
        self._failed = reason

    def close(self) -> None:
        """Let go of the log. Unused room goes back to the file system."""
        if self._closed:
            return
        self._failed = "it is closed"
        self._retire()
        for fd in (*self._retired, self._lock):
            os.close(fd)
        self._retired, self._fd, self._closed = [], -1, True

    def _begin(self, owed: int = 0) -> None:
        """Go on in a new file that has room for `owed` twice. Raises OSError: then the old one is as it was."""
        if self._closed:
            raise OSError(errno.EBADF, "the log is closed")
        room = max(self._settings.segment_bytes, 2 * owed) + self._settings.reserve_bytes
        making, path = self._directory / _NEXT, segment_path(self._directory, self.size)
        sidecar = path.with_suffix(_OWING)
        fd = os.open(making, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.posix_fallocate(fd, 0, room)
            mapped = mmap.mmap(fd, room)
            sidecar.write_text("\n".join(self._owing))
            os.rename(making, path)
        except OSError:
            os.close(fd)
            making.unlink(missing_ok=True)
            raise
        if self._fd >= 0:
            self._retire()
            if self._settings.durability != "disk":
                os.close(self._retired.pop())
        if self._sidecar is not None and self._sidecar != sidecar:
            self._sidecar.unlink(missing_ok=True)
        self._sidecar = sidecar
        self._fd, self._map, self._offset, self._capacity = fd, mapped, 0, room

    def _retire(self) -> None:
        self._map.close()
        os.ftruncate(self._fd, self._offset)
        self._retired.append(self._fd)


def unfinished(audit_dir: Path, log: str) -> tuple[int, tuple[str, ...]]:
    """Return the size of a log whose writer is dead, and its calls that have an intent and no outcome."""
    found = Found()
    directory = logs_of(audit_dir) / log
    for first in segments(directory)[-2:]:  # a successor may have begun the last one already
        tail = Tail(directory, first, first)
        found.unfinished |= dict.fromkeys(_owing(segment_path(directory, first)))
        _read(found, Chain(log, first, FIRST if first == 0 else None), tail.lines())
        found.size = tail.index
    return found.size, tuple(found.unfinished)


def heal(directory: Path) -> Found:
    """Return how the log ends, after cutting off what a crash has left behind its last whole record.

    Nothing that is a complete line is ever touched, also when it does not fit the chain: that is for `verify` to tell.
    """
    found = Found()
    (directory / _NEXT).unlink(missing_ok=True)
    for first in reversed(segments(directory)):
        path = segment_path(directory, first)
        tail = Tail(directory, first, first)
        found.unfinished = dict.fromkeys(_owing(path))
        _read(found, Chain(directory.name, first, FIRST if first == 0 else None), tail.lines())
        found.torn = tail.rest() + found.torn
        os.truncate(path, tail.offset)
        if tail.index > first:
            found.size = tail.index
            break
        path.unlink()
        path.with_suffix(_OWING).unlink(missing_ok=True)
    return found


def _read(found: Found, chain: Chain, lines: Iterable[bytes]) -> None:
    for line in lines:
        leaf, head, faults = chain.follow(line)
        found.leaf = leaf.hex()
        if faults and found.broken is None:
            found.broken = faults[0][0]
        if head is None:
            continue
        found.epoch = max(found.epoch, head.epoch)
        if head.phase is Phase.INTENT:
            found.unfinished[head.action_id] = None
        elif head.phase in (Phase.OUTCOME, Phase.CLOSED):
            found.unfinished.pop(head.action_id, None)


def _owing(segment: Path) -> list[str]:
    """Return the calls that were under way when this file was begun."""
    try:
        return segment.with_suffix(_OWING).read_text(errors="replace").split()
    except FileNotFoundError:
        return []


def _no_room(log: str, error: OSError) -> Unavailable:
    return Unavailable(
        f"log `{log}` cannot be written: {error.strerror}", fix="free space in the gateway's audit directory"
    )
