"""The keeper: reads every log, takes the administrators' notes into the log, and signs where all of it stands."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

import msgspec

from mcpgw.audit import logs
from mcpgw.audit.checkpoint import VERSION, Checkpoint, CheckpointFile, Finding, LogHead, decode
from mcpgw.audit.follow import Bookmark, Follower
from mcpgw.audit.index import Index
from mcpgw.audit.keys import Signer
from mcpgw.audit.notes import AdminLog, Notes
from mcpgw.audit.seal import is_sealed
from mcpgw.config import AuditSection
from mcpgw.errors import GatewayError
from mcpgw.ports import Clock

log = logging.getLogger("mcpgw.audit.keeper")

INTERVAL_S = 1.0
_INDEXED = 2_000  # records brought into the index per tick: load goes first, and whoever asks brings in the rest
_BOOKMARKS = msgspec.json.Decoder(dict[str, Bookmark])


class Keeper:
    """One a machine, in a process of its own. Raises Unavailable when there is another."""

    def __init__(
        self,
        audit_dir: Path,
        signer: Signer,
        settings: AuditSection,
        notes: Notes,
        clock: Clock,
        index: Index | None = None,
    ) -> None:
        self._audit_dir = audit_dir
        self._signer = signer
        self._clock = clock
        self._index = index
        self._admin = AdminLog(audit_dir, settings, notes, clock)
        self._checkpoints = CheckpointFile(audit_dir)
        self._alarm: list[Finding] = []  # what is wrong with the checkpoints themselves
        self._last = self._read_last()
        self._bookmarks = self._read_bookmarks()
        self._followers: dict[str, Follower] = {}

    def run(self, stop: threading.Event) -> None:
        """Tick once a second until `stop` is set, once more then, and let go."""
        while True:
            stopping = stop.wait(INTERVAL_S)
            try:
                self.tick()
            except (OSError, GatewayError) as error:
                log.error("this second was not signed: %s", error)
            if stopping:
                self.close()
                return

    def tick(self) -> bytes | None:
        """Do what is due; return the checkpoint line, or None when nothing has changed. Raises OSError, Unavailable."""
        self._admin.drain()
        line = self._sign()
        if line is not None:
            self._write_bookmarks()
        if self._index is not None:
            self._index.catch_up(_INDEXED)
        return line

    def close(self) -> None:
        self._admin.close()
        self._checkpoints.close()

    def _sign(self) -> bytes | None:
        last = self._last
        signed = {head.id: head for head in last.logs} if last else {}
        heads: list[LogHead] = []
        alarm = list(self._alarm)
        for name in sorted({*logs.names(self._audit_dir), *signed}):
            follower = self._follow(name, signed.get(name))
            head = follower.sign()
            if head is not None:
                heads.append(head)
            if follower.alarm is not None:
                alarm.append(follower.alarm)
        epoch = max([last.epoch if last else 0, *(f.epoch for f in self._followers.values())])
        if last is not None and (last.logs, last.alarm, last.epoch) == (heads, alarm, epoch):
            return None
        checkpoint = Checkpoint(
            version=VERSION,
            time=self._clock.time(),
            epoch=epoch,
            logs=heads,
            previous=self._checkpoints.previous,
            alarm=alarm,
            key_id=self._signer.key_id,
        )
        line = self._checkpoints.append(checkpoint, self._signer)
        self._last = checkpoint
        return line

    def _follow(self, name: str, signed: LogHead | None) -> Follower:
        follower = self._followers.get(name)
        if follower is None:
            follower = self._followers[name] = self._begin(name, signed)
        elif follower.alarm is not None:
            return follower
        else:
            follower.advance()
        if follower.alarm is not None:
            log.critical("ALARM: log %s", follower.alarm)
        return follower

    def _begin(self, name: str, signed: LogHead | None) -> Follower:
        """Read a log from its bookmark; from its beginning when there is none that can be relied on."""
        directory = logs.logs_of(self._audit_dir) / name
        bookmark = self._bookmarks.get(name)
        # Beyond what was signed a bookmark could not be checked against anything.
        if bookmark is not None and signed is not None and bookmark.size <= signed.size and bookmark.stands(directory):
            follower = Follower(directory, signed, bookmark)
            follower.advance()
            if follower.alarm is None:
                return follower
        follower = Follower(directory, signed)
        follower.advance()
        return follower

    def _read_last(self) -> Checkpoint | None:
        line = self._checkpoints.newest
        if line is None:
            return None
        try:
            last = decode(line) if is_sealed(line, self._signer.public) else None
        except (msgspec.DecodeError, UnicodeDecodeError):
            last = None
        if last is None:
            self._alarm.append(Finding("checkpoints.jsonl", 0, "the newest line was not signed by this gateway"))
            log.critical("ALARM: %s", self._alarm[-1])
        return last

    def _bookmark_path(self) -> Path:
        return self._audit_dir / "bookmarks.json"

    def _read_bookmarks(self) -> dict[str, Bookmark]:
        try:
            return _BOOKMARKS.decode(self._bookmark_path().read_bytes())
        except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
            return {}

    def _write_bookmarks(self) -> None:
        sound = {f.log: f.bookmark() for f in self._followers.values() if f.alarm is None}
        path = self._bookmark_path()
        fresh = path.with_suffix(".new")
        fresh.write_bytes(msgspec.json.encode(sound))
        os.replace(fresh, path)
