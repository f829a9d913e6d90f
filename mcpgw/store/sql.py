"""The store on SQLite: `state.db` in WAL, every change on disk before it is answered.

A whole transaction is one function on one thread. The asyncio driver crosses between loop and thread five times a
statement; on a busy loop each crossing waits its turn, and a kill would wait for all of them.

An engine belongs to the process that made it: build a store after forking.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar
from urllib.parse import quote

import anyio
import anyio.to_thread
import msgspec
from sqlalchemy import Connection, Engine, RowMapping, create_engine, delete, event, select, update
from sqlalchemy.dialects.sqlite import Insert, insert
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, SQLAlchemyError

from mcpgw.domain import AdminNote, KillSwitch, Revocation, Row, ServerVersion, State, ToolPin
from mcpgw.errors import Unavailable, UsageError
from mcpgw.store.rows import (
    EPOCH,
    IMMUTABLE,
    MARGIN_S,
    OUTBOX,
    TABLES,
    TOOL_PINS,
    columns,
    dangling,
    encoded,
    moved,
    note_from,
    order,
    pins_from,
    refuse_rewriting,
    row_from,
    state_of,
    version_from,
)

DEADLINE_S = 2.0
EXAMPLE = "sqlite+aiosqlite:////var/lib/mcpgw/state.db"

T = TypeVar("T")
Note = tuple[int, int, AdminNote]
Seen = tuple[int, tuple[Any, ...]]
"""Rows of one kind, and the epoch at which that kind had last changed."""


def _upsert(kind: type[Row]) -> Insert:
    table = TABLES[kind]
    statement = insert(table)
    kept = {c.name for c in table.primary_key} | (set(IMMUTABLE) if kind is ServerVersion else set())
    changed = {c.name: statement.excluded[c.name] for c in table.c if c.name not in kept}
    return statement.on_conflict_do_update(index_elements=list(table.primary_key), set_=changed)


# Built once: SQLAlchemy then finds the compiled form of each by identity.
_READ = {kind: select(table) for kind, table in TABLES.items()}
_PUT = {kind: _upsert(kind) for kind in TABLES}
REVOCATIONS = TABLES[Revocation]
_PINS = select(TOOL_PINS).order_by(TOOL_PINS.c.position)


def database_file(url: str) -> str:
    """Return the path of the SQLite database that `url` names. Raises UsageError for anything else."""
    try:
        parsed: URL = make_url(url)
    except ArgumentError:
        raise UsageError("store.url is not a database URL", fix=EXAMPLE) from None
    if parsed.get_backend_name() != "sqlite" or parsed.database in {None, "", ":memory:"} or parsed.query:
        raise UsageError(f"store.url: state is kept in a SQLite file, not in `{parsed.drivername}`", fix=EXAMPLE)
    return str(parsed.database)


def engine_of(file: str, busy_ms: int) -> Engine:
    """Return an engine whose transactions read one snapshot or, with the option `writes`, take the write lock first."""
    # Values stay out of errors (hide_parameters): their text may reach a log.
    engine = create_engine(URL.create("sqlite", database=file), hide_parameters=True)

    @event.listens_for(engine, "connect")
    def connected(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # otherwise the driver begins transactions, and never immediate ones
        cursor = connection.cursor()
        # busy_timeout first: the others may have to wait for a lock.
        for pragma in (f"busy_timeout = {busy_ms}", "journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


@contextmanager
def answering() -> Iterator[None]:
    """Turn every failure of the database into Unavailable, whose message holds nothing of it."""
    try:
        yield
    except IntegrityError as error:
        raise dangling() from error
    except (SQLAlchemyError, sqlite3.Error, OSError, msgspec.MsgspecError, ValueError) as error:
        raise Unavailable(
            "the state database did not answer", fix="check its disk, and who else has it open", cause=error
        ) from error


class SqlStore:
    """Implements ports.Store.

    `deadline_s` bounds each method; a lock held by another process is given up three quarters into it. A commit that
    has begun goes to its end even when its caller is cancelled; after Unavailable it may have happened.
    """

    def __init__(self, url: str, *, deadline_s: float = DEADLINE_S) -> None:
        self._deadline_s = deadline_s
        self._engine = engine_of(database_file(url), busy_ms=int(deadline_s * 750))
        self._writing = self._engine.execution_options(writes=True)
        # Own threads: a kill does not queue behind whatever else runs in threads. Writers take turns here, because
        # SQLite waits for its lock by sleeping up to 100 ms at a time.
        self._readers = anyio.CapacityLimiter(2)
        self._writer = anyio.CapacityLimiter(1)
        self._seen: dict[type[Row], Seen] = {}

    async def state(self) -> State:
        return await self._run(self._read, self._readers)

    async def commit(self, rows: Sequence[Row], note: AdminNote, expect: int | None = None) -> int:
        return await self._run(partial(self._write, rows, note, expect), self._writer, shield=True)

    async def notes(self, after: int, limit: int) -> Sequence[Note]:
        return await self._run(partial(self._read_notes, after, limit), self._readers)

    async def close(self) -> None:
        self._engine.dispose()

    async def reading(self, transaction: Callable[[Connection], T]) -> T:
        """Return what a transaction reads, for another kind of rows in the same database."""

        def read() -> T:
            with self._engine.begin() as connection:
                return transaction(connection)

        return await self._run(read, self._readers)

    async def writing(self, transaction: Callable[[Connection], T]) -> T:
        """Return what a transaction that writes returns; it goes to its end even when its caller is cancelled."""

        def write() -> T:
            with self._writing.begin() as connection:
                return transaction(connection)

        return await self._run(write, self._writer, shield=True)

    async def _run(self, transaction: Callable[[], T], limiter: anyio.CapacityLimiter, *, shield: bool = False) -> T:
        with answering(), anyio.fail_after(self._deadline_s, shield=shield):
            return await anyio.to_thread.run_sync(transaction, abandon_on_cancel=True, limiter=limiter)

    def _read(self) -> State:
        seen = self._seen
        fresh: dict[type[Row], Seen] = {}
        with self._engine.begin() as connection:
            epoch = connection.execute(select(EPOCH)).mappings().one()
            for kind, table in TABLES.items():
                stamp = epoch[table.name]
                held = seen.get(kind)
                if held is None or held[0] > stamp:  # later: from another reader, with a later snapshot than ours
                    held = (0, ())
                fresh[kind] = held if held[0] == stamp else (stamp, _rows(connection, kind, *held))
        self._seen = fresh
        return state_of(epoch["value"], {kind: rows for kind, (_, rows) in fresh.items()})

    def _write(self, rows: Sequence[Row], note: AdminNote, expect: int | None) -> int:
        stamps = dict.fromkeys(("value", *(TABLES[type(row)].name for row in rows)), EPOCH.c.value + 1)
        with self._writing.begin() as connection:
            epoch: int = connection.execute(update(EPOCH).values(stamps).returning(EPOCH.c.value)).scalar_one()
            if expect is not None and epoch != expect + 1:
                raise moved(expect, epoch - 1)
            for row in rows:
                _put(connection, row, epoch)
            connection.execute(insert(OUTBOX), {"epoch": epoch, "note": encoded(note)})
        return epoch

    def _read_notes(self, after: int, limit: int) -> list[Note]:
        later = select(OUTBOX).where(OUTBOX.c.position > after).order_by(OUTBOX.c.position).limit(limit)
        with self._engine.begin() as connection:
            found = connection.execute(later).all()
        return [(position, epoch, note_from(text)) for position, epoch, text in found]


def _rows(connection: Connection, kind: type[Row], since: int, held: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return all rows of a kind, in order, given those that were `held` at the earlier epoch `since`."""
    table = TABLES[kind]
    if kind is KillSwitch:
        # A switch carries the epoch of its last change: those that stood or fell long ago are not read again.
        fresh = connection.execute(_READ[kind].where(table.c.epoch > since)).mappings()
        rows = {row.id: row for row in held} | {record["id"]: row_from(record, kind) for record in fresh}
        return order(rows.values())
    records = connection.execute(_READ[kind]).mappings().all()
    if kind is ServerVersion:
        tools = _pins(connection, records, held)
        return order(version_from(record, of) for record, of in zip(records, tools, strict=True))
    return order(row_from(record, kind) for record in records)


def _pins(
    connection: Connection, records: Sequence[RowMapping], held: Sequence[ServerVersion]
) -> list[Mapping[str, ToolPin]]:
    """Return the tools of each version; those of a published version never change, so they are read once."""
    known = {(v.server, v.version): v.tools for v in held}
    keys = [(record["server"], record["version"]) for record in records]
    servers = {server for server, version in keys if (server, version) not in known}
    read: Mapping[tuple[str, str], Mapping[str, ToolPin]] = {}
    if servers:
        read = pins_from(connection.execute(_PINS.where(TOOL_PINS.c.server.in_(servers))).mappings().all())
    return [known[key] if key in known else read.get(key, {}) for key in keys]


def _put(connection: Connection, row: Row, epoch: int) -> None:
    if isinstance(row, KillSwitch):
        row = replace(row, epoch=epoch)
    if isinstance(row, Revocation):
        connection.execute(delete(REVOCATIONS).where(REVOCATIONS.c.over_at <= row.not_before - MARGIN_S))
    if not isinstance(row, ServerVersion):
        connection.execute(_PUT[type(row)], columns(row, TABLES[type(row)]))
        return
    held = _published(connection, row.server, row.version)
    if held is not None:
        refuse_rewriting(held, row)
    connection.execute(_PUT[ServerVersion], columns(row, TABLES[ServerVersion]))
    if held is None and row.tools:
        of = {"server": row.server, "version": row.version}
        pins = [{**of, "position": i, **columns(pin, TOOL_PINS)} for i, pin in enumerate(row.tools.values())]
        connection.execute(insert(TOOL_PINS), pins)


def _published(connection: Connection, server: str, version: str) -> ServerVersion | None:
    table = TABLES[ServerVersion]
    query = select(table).where(table.c.server == server, table.c.version == version)
    records = connection.execute(query).mappings().all()
    return version_from(records[0], _pins(connection, records, ())[0]) if records else None


def read_notes(url: str, after: int, limit: int) -> list[Note]:
    """Return what SqlStore.notes does, without an event loop. Raises Unavailable."""
    file = f"file:{quote(database_file(url))}?mode=ro"
    query = "SELECT position, epoch, note FROM outbox WHERE position > ? ORDER BY position LIMIT ?"
    with answering(), closing(sqlite3.connect(file, uri=True, timeout=DEADLINE_S)) as database:
        found = database.execute(query, (after, limit))
        return [(position, epoch, note_from(text)) for position, epoch, text in found]
