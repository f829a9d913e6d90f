"""The workers of one machine: their slots, the published epoch, and how each hears of a new one.

The epoch is eight bytes of a shared memory map, so testing it costs nanoseconds. A worker claims its slot with `flock`
before it first reads state: whoever changes state afterwards finds it among the live ones. The lock ends with the
process, so holding a slot's lock proves that its worker is dead.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from mcpgw.errors import Unavailable, UsageError

MAX_SLOTS = 64
_MAGIC = 0x6D63706777303031
_WORDS = 2 + 2 * MAX_SLOTS  # magic, epoch, then pid and applied epoch of each slot


class EpochBoard:
    """The shared map. Aligned eight-byte words are read and written whole."""

    def __init__(self, run_dir: Path) -> None:
        run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(run_dir / "epoch", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, _WORDS * 8)
            self._map = mmap.mmap(fd, _WORDS * 8)
        finally:
            os.close(fd)
        self._words = memoryview(self._map).cast("Q")
        if self._words[0] not in (0, _MAGIC):
            raise UsageError(f"{run_dir / 'epoch'} is not ours", fix="remove it while no gateway runs")
        self._words[0] = _MAGIC

    def published(self) -> int:
        """Return the newest epoch that anyone has published."""
        return self._words[1]

    def publish(self, epoch: int) -> None:
        """Raise the published epoch; it never falls."""
        self._words[1] = max(self._words[1], epoch)

    def applied(self, slot: int) -> int:
        return self._words[3 + 2 * slot]

    def apply(self, slot: int, epoch: int) -> None:
        """Acknowledge an epoch; to be called by the worker's loop thread alone."""
        self._words[3 + 2 * slot] = epoch

    def pid(self, slot: int) -> int:
        return self._words[2 + 2 * slot]

    def occupy(self, slot: int, pid: int) -> None:
        self._words[3 + 2 * slot] = 0
        self._words[2 + 2 * slot] = pid


class Slot:
    """A worker's place, held by `flock` as long as the process lives."""

    def __init__(self, run_dir: Path, index: int, board: EpochBoard) -> None:
        self.index = index
        self.name = f"w{index}"
        self._fd = os.open(_lock_path(run_dir, index), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if not _claimed(self._fd):
            os.close(self._fd)
            raise Unavailable(
                f"slot {self.name} is taken by a running worker", fix="stop the other gateway on this data directory"
            )
        board.occupy(index, os.getpid())

    def close(self) -> None:
        os.close(self._fd)


def socket_path(run_dir: Path, index: int) -> Path:
    """Return the Unix socket on which a worker takes relayed requests."""
    return run_dir / f"w{index}.sock"


def live_slots(run_dir: Path) -> Iterator[int]:
    """Yield the slots whose worker lives."""
    for index in range(MAX_SLOTS):
        path = _lock_path(run_dir, index)
        if path.exists() and not _is_free(path):
            yield index


def end_worker(run_dir: Path, index: int, board: EpochBoard, within_s: float = 2.0) -> bool:
    """Kill a silent worker and wait until the kernel has released its lock, which proves it dead; say whether it is."""
    path = _lock_path(run_dir, index)
    pid = board.pid(index)
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return _is_free(path)
    try:
        if _is_free(path):  # the pid may be somebody else's by now
            return True
        signal.pidfd_send_signal(handle, signal.SIGKILL)
    except ProcessLookupError:
        return _is_free(path)
    finally:
        os.close(handle)
    deadline = time.monotonic() + within_s
    while not _is_free(path):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


def _lock_path(run_dir: Path, index: int) -> Path:
    return run_dir / f"w{index}.lock"


def _claimed(fd: int, tries: int = 50) -> bool:
    """Take a slot's lock; more than once, because who looks whether it is free holds it for some microseconds."""
    for _ in range(tries):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            time.sleep(0.002)
        else:
            return True
    return False


def _is_free(path: Path) -> bool:
    """Say whether no worker holds the lock. Shared, so that those who look do not take each other for a worker."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True
