"""Reading the checkpoints with suspicion: signatures, order, and that no two of them tell different stories."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from mcpgw.audit import seal
from mcpgw.audit.checkpoint import VERSION, Checkpoint, Finding, LogHead, checkpoints_path, decode
from mcpgw.audit.keys import PublicKey
from mcpgw.audit.record import FIRST
from mcpgw.errors import UsageError

FILE = "checkpoints.jsonl"


class CheckpointScan:
    """All checkpoints of a directory, and one that somebody outside has kept."""

    def __init__(self, audit_dir: Path, key: PublicKey, kept: Path | None) -> None:
        self.findings: list[Finding] = []
        self.count = 0
        self.since: float | None = None
        self.until: float | None = None
        self.heads: dict[str, tuple[LogHead, float]] = {}  # the newest of each log, and when it was first signed
        self.kept: Checkpoint | None = None
        self._path = checkpoints_path(audit_dir)
        self._key = key
        self._kept_line = b""
        self._previous = FIRST
        self._alarms: set[Finding] = set()
        if kept is not None:
            self._kept_line, self.kept = _read(kept)
            if not seal.is_sealed(self._kept_line, key):
                self.findings.append(Finding("kept checkpoint", 0, f"was not signed by key {key.key_id}"))

    def checkpoints(self) -> Iterator[Checkpoint]:
        """Yield those that are what the gateway signed; what is wrong goes into `findings`."""
        found = self.kept is None
        for line in self._lines():
            found = found or line == self._kept_line
            checkpoint = self._check(line)
            self.count += 1
            if checkpoint is not None:
                yield checkpoint
        if not found:
            self._tell("is missing: the kept checkpoint is not among them")

    def _lines(self) -> Iterator[bytes]:
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return
        with file:
            # No further than now: what a living gateway signs from here on may cover records not yet read.
            left = os.fstat(file.fileno()).st_size
            for line in file:
                left -= len(line)
                if left < 0 or not line.endswith(b"\n"):  # The last one may be in the middle of being written.
                    return
                yield line[:-1]

    def _check(self, line: bytes) -> Checkpoint | None:
        previous, self._previous = self._previous, seal.sha256_of(line)
        try:
            checkpoint = decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self._tell("is not a checkpoint")
            return None
        if checkpoint.previous != previous:
            self._tell("does not follow the line before it: that was changed, removed or put in")
        if not seal.is_sealed(line, self._key):
            self._tell(f"was not signed by key {self._key.key_id}")
            return None
        if checkpoint.version != VERSION:
            self._tell(f"is of version {checkpoint.version}: use a newer mcpgw")
            return None
        self.since = checkpoint.time if self.since is None else self.since
        self.until = checkpoint.time
        self._compare(checkpoint)
        self.findings += [alarm for alarm in checkpoint.alarm if alarm not in self._alarms]
        self._alarms.update(checkpoint.alarm)
        return checkpoint

    def _compare(self, checkpoint: Checkpoint) -> None:
        """Hold the heads against those signed before and the one kept: a log only grows."""
        heads = {head.id: head for head in checkpoint.logs}
        for log, (before, _) in self.heads.items():
            now = heads.get(log)
            if now is None or now.size < before.size:
                self._tell(f"covers fewer records of log `{log}` than one before it ({before.size})")
            elif now.size == before.size and now.root != before.root:
                self._tell(_two_stories(now, before, "one before it"))
        for log, now in heads.items():
            kept = self.kept.head(log) if self.kept is not None else None
            if kept is not None and now.size == kept.size and now.root != kept.root:
                self._tell(_two_stories(now, kept, "the kept checkpoint"))
            if log not in self.heads or self.heads[log][0].size < now.size:
                self.heads[log] = (now, checkpoint.time)

    def _tell(self, what: str) -> None:
        self.findings.append(Finding(FILE, self.count, what))


def _two_stories(now: LogHead, other: LogHead, whose: str) -> str:
    return (
        f"tells another story of log `{now.id}` at {now.size} records than {whose}: {now.root} here, {other.root} there"
    )


def _read(path: Path) -> tuple[bytes, Checkpoint]:
    """Return a kept checkpoint in the form that was signed. Raises UsageError."""
    try:
        line = seal.compact(path.read_bytes(), str(path))
        return line, decode(line)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", fix="name a file with one checkpoint") from None
    except msgspec.DecodeError as error:
        raise UsageError(f"{path} is not a checkpoint: {error}", fix="take one from `mcpgw audit checkpoint`") from None
