"""Administrators' notes on their way from the outbox of the database into the log."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from mcpgw.audit import logs, record
from mcpgw.audit.record import Line
from mcpgw.audit.segments import Slot
from mcpgw.config import AuditSection
from mcpgw.domain import AdminNote, Phase, Route
from mcpgw.errors import GatewayError, Unavailable
from mcpgw.ports import Clock

log = logging.getLogger("mcpgw.audit.keeper")

Notes = Callable[[int, int], Sequence[tuple[int, int, AdminNote]]]
"""Given a position and a limit, return (position, epoch, note) of the outbox beyond it, in order."""

_AT_ONCE = 256
_NOTE_BYTES = 65_536
_POSITION = "position"


class AdminLog:
    """The log `admin`. A note carries its position there, so that a crash neither loses nor doubles one."""

    def __init__(self, audit_dir: Path, settings: AuditSection, notes: Notes, clock: Clock) -> None:
        self._directory = logs.logs_of(audit_dir) / logs.ADMIN
        self._slot = Slot.claim(logs.logs_of(audit_dir), logs.ADMIN, settings, clock)
        self._notes = notes
        self._position, self._newest = _newest(self._directory)
        self._known_outbox = False
        self._recorded: frozenset[str] = frozenset()

    def drain(self) -> None:
        """Take in all that is new. What cannot be had or written now waits."""
        try:
            if not self._known_outbox:
                self._recognise()
            while notes := self._notes(self._position, _AT_ONCE):
                for position, epoch, note in notes:
                    if note.id not in self._recorded:
                        self._write(position, epoch, note)
                    self._position = position
        except (OSError, GatewayError) as error:
            log.error("administrators' notes wait beyond position %d: %s", self._position, error)

    def close(self) -> None:
        self._slot.close()

    def _recognise(self) -> None:
        """Begin at the beginning when the log's newest note is not in the outbox: the database was replaced."""
        if self._position:
            found = self._notes(self._position - 1, 1)
            if not found or found[0][2].id != self._newest:
                log.warning("the database is not the one that note %s is from: all its notes are read", self._newest)
                files = logs.segments(self._directory)
                self._recorded = frozenset(note for first in files for _, note in _notes_in(self._directory, first))
                self._position = 0
        self._known_outbox = True

    def _write(self, position: int, epoch: int, note: AdminNote) -> None:
        if position <= self._position:
            raise Unavailable(f"the outbox gave position {position} after {self._position}")
        facts = {_POSITION: position, "reason": note.reason, "before": note.before, "after": note.after}
        line = Line(
            time=note.time,
            phase=Phase.ADMIN,
            action_id=note.id,
            epoch=epoch,
            route=Route.ADMIN,
            verb=note.action,
            name=note.target,
            principal=note.actor,
            facts={name: value for name, value in facts.items() if value is not None},
        )
        try:
            self._slot.make_room()
        except Unavailable as error:
            log.error("an administrator's note takes from the reserve: %s", error)
        self._slot.append(line, _NOTE_BYTES)


def _newest(directory: Path) -> tuple[int, str]:
    """Return position and id of the newest note in the log, (0, "") when there is none."""
    for first in reversed(logs.segments(directory)):
        notes = list(_notes_in(directory, first))
        if notes:
            return notes[-1]
    return 0, ""


def _notes_in(directory: Path, first: int) -> Iterator[tuple[int, str]]:
    """Yield position and id of each note in one file of the log."""
    tail = logs.Tail(directory, first, first)
    for text in tail.lines():
        if tail.segment != first:
            return
        try:
            line = record.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue  # Told by `verify`; the notes around it still count.
        position = (line.facts or {}).get(_POSITION)
        if line.phase is Phase.ADMIN and isinstance(position, int):
            yield position, line.action_id
