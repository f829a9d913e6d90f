"""The index of the log: a disposable SQLite file that says where records stand, and the nodes of the trees.

Whoever holds its lock brings it up to date from the logs; anything wrong with it, and it is made anew.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from mcpgw.audit import tree
from mcpgw.audit.logs import Tail, logs_of, names, segment_path
from mcpgw.audit.record import leaf_of
from mcpgw.errors import Unavailable

_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE logs(log TEXT PRIMARY KEY, size INTEGER, segment INTEGER, at INTEGER) WITHOUT ROWID;
CREATE TABLE records(
    log TEXT, idx INTEGER, segment INTEGER, at INTEGER, length INTEGER,
    time REAL, action TEXT, principal TEXT, server TEXT, tool TEXT, effect TEXT, outcome TEXT, trace TEXT, phase TEXT,
    PRIMARY KEY(log, idx)) WITHOUT ROWID;
CREATE TABLE nodes(log TEXT, level INTEGER, idx INTEGER, hash BLOB, PRIMARY KEY(log, level, idx)) WITHOUT ROWID;
CREATE INDEX by_time ON records(time, log, idx);
CREATE INDEX by_action ON records(action);
CREATE INDEX by_principal ON records(principal, time, log, idx);
CREATE INDEX by_server ON records(server, time, log, idx);
CREATE INDEX by_trace ON records(trace) WHERE trace IS NOT NULL;
"""
Row = tuple[Any, ...]
_BATCH = 5_000
_WIDTH = 1 << tree.LEVELS
COLUMNS = {
    "action_id": "action",
    "principal": "principal",
    "server": "server",
    "tool": "tool",
    "effect": "effect",
    "outcome": "outcome",
    "trace": "trace",
    "phase": "phase",
    "log": "log",
}  # by the name of the filter


class _Entry(msgspec.Struct):
    """What of a record is indexed."""

    time: float
    phase: str
    action_id: str
    principal: str | None = None
    server: str | None = None
    name: str | None = None
    effect: str | None = None
    outcome: str | None = None
    trace: str | None = None


_DECODE = msgspec.json.Decoder(_Entry).decode
_UNREADABLE = _Entry(time=0.0, phase="unreadable", action_id="")


class Index:
    """Where each record stands. Safe to use from any thread and process."""

    def __init__(self, path: Path, audit_dir: Path) -> None:
        self._path = path
        self.audit_dir = audit_dir

    def catch_up(self, at_most: int | None = None) -> None:
        """Bring in what each log has and the index has not, up to a number of records. Raises Unavailable."""
        with self._lock():
            try:
                self._catch_up(at_most)
            except sqlite3.DatabaseError:
                self._discard()
                try:
                    self._catch_up(at_most)
                except sqlite3.DatabaseError as error:
                    raise Unavailable(
                        f"the audit index cannot be written: {error}", fix=f"look at {self._path}"
                    ) from error

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Open it for reading. Raises Unavailable."""
        try:
            with closing(sqlite3.connect(self._path)) as db:
                yield db
        except sqlite3.DatabaseError as error:
            raise Unavailable(f"the audit index cannot be read: {error}", fix="ask again: it is made anew") from error

    def _catch_up(self, at_most: int | None) -> None:
        with closing(self._open()) as db:
            for log in names(self.audit_dir):
                tail = self._tail(db, log)
                rows: Iterator[Row] = (_row(log, tail, line) for line in tail.lines())
                if at_most is not None:
                    rows = islice(rows, at_most)
                while batch := list(islice(rows, _BATCH)):
                    with db:
                        _bring_in(db, log, batch)
                        place = (log, tail.index, tail.segment, tail.offset)
                        db.execute("INSERT OR REPLACE INTO logs VALUES (?, ?, ?, ?)", place)

    def _tail(self, db: sqlite3.Connection, log: str) -> Tail:
        directory = logs_of(self.audit_dir) / log
        held = db.execute("SELECT size, segment, at FROM logs WHERE log = ?", (log,)).fetchone()
        tail = Tail(directory, *(held or ()))
        if not _reaches(segment_path(directory, tail.segment), tail.offset):
            raise sqlite3.DatabaseError("the log is shorter than its index")
        return tail

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = OFF")  # disposable
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_SCHEMA_VERSION}; COMMIT")
            elif version != _SCHEMA_VERSION:
                raise sqlite3.DatabaseError("of another version")
        except sqlite3.DatabaseError:
            db.close()
            raise
        return db

    def _discard(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        fd = os.open(self._path.with_name(self._path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


def nodes_of(db: sqlite3.Connection, log: str) -> tree.Nodes:
    """Return the tree of a log as the index has it."""

    def nodes(level: int, first: int, count: int) -> Sequence[bytes]:
        found = db.execute(
            "SELECT hash FROM nodes WHERE log = ? AND level = ? AND idx >= ? AND idx < ? ORDER BY idx",
            (log, level, first, first + count),
        )
        return [row[0] for row in found]

    return nodes


def size_in(db: sqlite3.Connection, log: str) -> int:
    """Return how many records of a log the index has."""
    found = db.execute("SELECT size FROM logs WHERE log = ?", (log,)).fetchone()
    return int(found[0]) if found else 0


def place_in(db: sqlite3.Connection, log: str, index: int) -> tuple[int, int, int]:
    """Return segment, offset and length of a record that the index has."""
    found = db.execute("SELECT segment, at, length FROM records WHERE log = ? AND idx = ?", (log, index)).fetchone()
    return found[0], found[1], found[2]


def find(db: sqlite3.Connection, where: Mapping[str, Any], limit: int) -> list[Any]:
    """Return (time, log, idx, segment, at, length), newest first.

    `where` may hold the names of COLUMNS, `since`, `until`, and `before`: (time, log, idx) of the last one seen. The
    order is by time, log and index, which never change, so a page is the same whatever is written meanwhile.
    """
    tests = {name: f"{column} = :{name}" for name, column in COLUMNS.items()}
    tests |= {"since": "time >= :since", "until": "time < :until"}
    tests["before"] = "(time, log, idx) < (:time, :at_log, :at_idx)"
    values = dict(where)
    conditions = [tests[name] for name in where]
    if "before" in values:
        values["time"], values["at_log"], values["at_idx"] = values.pop("before")
    # Only names from the table above are put into the text.
    text = f"""SELECT time, log, idx, segment, at, length FROM records
        WHERE {" AND ".join(conditions) or "1"} ORDER BY time DESC, log DESC, idx DESC LIMIT :limit"""  # noqa: S608
    return db.execute(text, values | {"limit": limit}).fetchall()


def _row(log: str, tail: Tail, line: bytes) -> Row:
    try:
        entry = _DECODE(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        entry = _UNREADABLE
    size = len(line)
    return (
        log, tail.index - 1, tail.segment, tail.offset - size - 1, size, entry.time, entry.action_id, entry.principal,
        entry.server, entry.name, entry.effect, entry.outcome, entry.trace, entry.phase, leaf_of(line),
    )  # fmt: skip


def _bring_in(db: sqlite3.Connection, log: str, batch: list[Row]) -> None:
    db.executemany(f"INSERT INTO records VALUES ({'?, ' * 13}?)", (row[:-1] for row in batch))  # noqa: S608
    db.executemany("INSERT INTO nodes VALUES (?, 0, ?, ?)", ((log, row[1], row[-1]) for row in batch))
    begin, end = batch[0][1], batch[-1][1] + 1
    nodes, level = nodes_of(db, log), 0
    while begin >> level + tree.LEVELS != end >> level + tree.LEVELS:
        above = level + tree.LEVELS
        for idx in range(begin >> above, end >> above):
            hashed = tree.fold(nodes(level, idx * _WIDTH, _WIDTH))
            db.execute("INSERT INTO nodes VALUES (?, ?, ?, ?)", (log, above, idx, hashed))
        level = above


def _reaches(path: Path, offset: int) -> bool:
    try:
        return path.stat().st_size >= offset
    except FileNotFoundError:
        return offset == 0
