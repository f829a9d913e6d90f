"""Signed checkpoints: what the gateway vouches for, once a second, over all its logs.

`checkpoints.jsonl` holds one sealed line (see seal.py) each:

    version   1
    time      Unix seconds
    epoch     the newest epoch that a record of these logs speaks of
    logs      [{"id", "size", "root"}]: root of the RFC 6962 tree over the log's first `size` records, in hex
    previous  SHA-256 of the line before, in hex; 64 zeros in the first
    alarm     [{"log", "index", "what"}], when a log is not what was signed or does not chain; such a log stays at
              the size that was signed last
    key_id    start of the SHA-256 of the raw public key, in hex
    signature
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from mcpgw.audit.keys import Signer
from mcpgw.audit.record import FIRST
from mcpgw.audit.seal import seal, sha256_of

VERSION = 1
_CHUNK = 65_536


class LogHead(msgspec.Struct, frozen=True):
    id: str
    size: int
    root: str


class Finding(msgspec.Struct, frozen=True):
    """What is wrong, and where: the record of a log, or the line (from 0) of `checkpoints.jsonl`."""

    log: str
    index: int
    what: str

    def __str__(self) -> str:
        return f"{self.log} {self.index}: {self.what}"


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    version: int
    time: float
    epoch: int
    logs: list[LogHead]
    previous: str
    alarm: list[Finding] = []
    key_id: str

    def head(self, log: str) -> LogHead | None:
        return next((head for head in self.logs if head.id == log), None)


_DECODER = msgspec.json.Decoder(Checkpoint)


def decode(line: bytes) -> Checkpoint:
    """Raises msgspec.DecodeError, UnicodeDecodeError."""
    return _DECODER.decode(line)


def checkpoints_path(audit_dir: Path) -> Path:
    return audit_dir / "checkpoints.jsonl"


class CheckpointFile:
    """The file of checkpoints and its only writer. A line that a crash cut short was never published, and is cut."""

    def __init__(self, audit_dir: Path) -> None:
        path = checkpoints_path(audit_dir)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        line, end = _last_line(self._fd)
        os.ftruncate(self._fd, end)
        self.newest = line

    def append(self, checkpoint: Checkpoint, signer: Signer) -> bytes:
        """Sign, write and return the line; it is on the disk afterwards. Raises OSError."""
        line = seal(msgspec.json.encode(checkpoint), signer)
        size = os.fstat(self._fd).st_size
        try:
            if os.write(self._fd, line + b"\n") != len(line) + 1:
                raise OSError("a checkpoint was written in part")
            os.fdatasync(self._fd)
        except OSError:
            os.ftruncate(self._fd, size)
            raise
        self.newest = line
        return line

    @property
    def previous(self) -> str:
        return sha256_of(self.newest) if self.newest is not None else FIRST

    def close(self) -> None:
        os.close(self._fd)


def newest_line(audit_dir: Path) -> bytes | None:
    """Return the newest complete line, or None when nothing was signed yet."""
    try:
        fd = os.open(checkpoints_path(audit_dir), os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        return _last_line(fd)[0]
    finally:
        os.close(fd)


def _last_line(fd: int) -> tuple[bytes | None, int]:
    """Return the last complete line and where it ends."""
    size = os.fstat(fd).st_size
    start, text = size, b""
    while start > 0 and text.count(b"\n") < 2:
        chunk = min(_CHUNK, start)
        start -= chunk
        text = os.pread(fd, chunk, start) + text
    complete, feed, rest = text.rpartition(b"\n")
    if not feed:
        return None, 0
    return complete.rpartition(b"\n")[2], size - len(rest)
