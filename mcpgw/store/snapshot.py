"""The signed local snapshot: the last epoch this machine has seen and the kill switches that stood in it.

A worker that is offered a lower epoch refuses; a start without the database starts killed as last known. The file is
one line with the HMAC-SHA256 of the rest, in hex, then one JSON object.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import msgspec

from mcpgw.domain import KillSwitch, State
from mcpgw.errors import Unavailable

# Part of what is signed, so that no other use of the key can yield a snapshot.
PURPOSE = b"mcpgw snapshot 1\n"


class _Snapshot(msgspec.Struct, frozen=True):
    epoch: int
    switches: tuple[KillSwitch, ...]


def write(path: Path, key: bytes, state: State) -> None:
    """Put epoch and standing switches of `state` on disk, unless the file already holds this epoch or a later one.

    Blocks for two fsyncs (file and directory). Raises Unavailable when they cannot be written.
    """
    body = msgspec.json.encode(_Snapshot(state.epoch, tuple(s for s in state.switches if s.released_at is None)))
    try:
        with _locked(path):
            if _epoch_of(path, key) < state.epoch:
                _replace(path, _signature(key, body) + b"\n" + body)
    except OSError as error:
        raise Unavailable(
            f"cannot write the snapshot {path.name}: {error.strerror}", fix="check disk and mode", cause=error
        ) from error


def read(path: Path, key: bytes) -> tuple[int, tuple[KillSwitch, ...]] | None:
    """Return epoch and standing switches, or None when there is no file.

    Raises Unavailable when the file cannot be read or was not written with this key.
    """
    try:
        signature, _, body = path.read_bytes().partition(b"\n")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unavailable(
            f"cannot read the snapshot {path.name}: {error.strerror}", fix="check its mode", cause=error
        ) from error
    if not hmac.compare_digest(signature, _signature(key, body)):
        raise Unavailable(
            f"the snapshot {path.name} was not written with this gateway's key",
            fix="restore the key; or, if the database is known to be whole, delete the snapshot",
        )
    try:
        snapshot = msgspec.json.decode(body, type=_Snapshot)
    except msgspec.MsgspecError as error:
        raise Unavailable(
            f"the snapshot {path.name} is of another release", fix="start the release that wrote it", cause=error
        ) from error
    return snapshot.epoch, snapshot.switches


def _signature(key: bytes, body: bytes) -> bytes:
    return hmac.new(key, PURPOSE + body, hashlib.sha256).hexdigest().encode()


def _epoch_of(path: Path, key: bytes) -> int:
    """Return the epoch in the file; -1 for a missing or broken one, which is then replaced."""
    try:
        held = read(path, key)
    except Unavailable:
        return -1
    return held[0] if held else -1


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let the workers of this machine write one after another: a slow one must not put an old epoch back."""
    lock = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _replace(path: Path, content: bytes) -> None:
    fresh = path.with_name(f"{path.name}.new")
    with open(fresh, "wb", opener=partial(os.open, mode=0o600)) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
