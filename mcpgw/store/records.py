"""The records of `auth`: in the state database, but no part of the state."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import anyio.lowlevel
import msgspec
from sqlalchemy import Connection, CursorResult, delete, select, update
from sqlalchemy.dialects.sqlite import insert

from mcpgw.ports import Clock, Record
from mcpgw.store.sql import SqlStore
from mcpgw.store.tables import Base

TABLE = Base.metadata.tables["auth_records"]


class SqlRecords:
    """Implements ports.Records in the database of a SqlStore."""

    def __init__(self, store: SqlStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def get(self, kind: str, id: str) -> Record | None:
        wanted = select(TABLE).where(*self._live(kind), TABLE.c.id == id)
        found = await self._store.reading(lambda connection: connection.execute(wanted).mappings().one_or_none())
        return None if found is None else _record(found)

    async def of(self, kind: str, owner: str) -> Sequence[Record]:
        wanted = select(TABLE).where(*self._live(kind), TABLE.c.owner == owner).order_by(TABLE.c.id)
        found = await self._store.reading(lambda connection: connection.execute(wanted).mappings().all())
        return [_record(one) for one in found]

    async def page(self, kind: str, after: str, limit: int) -> Sequence[Record]:
        wanted = select(TABLE).where(*self._live(kind), TABLE.c.id > after).order_by(TABLE.c.id).limit(limit)
        found = await self._store.reading(lambda connection: connection.execute(wanted).mappings().all())
        return [_record(one) for one in found]

    async def put(self, record: Record) -> bool:
        new = insert(TABLE).values(_columns(record))
        changed = {name: new.excluded[name] for name in ("owner", "body", "expires_at", "revision")}
        # An expired one that nobody has swept yet makes room.
        over = new.on_conflict_do_update(
            index_elements=["kind", "id"], set_=changed, where=TABLE.c.expires_at <= self._clock.time()
        )
        return await self._changed(over) == 1

    async def replace(self, record: Record) -> bool:
        held = (*self._live(record.kind), TABLE.c.id == record.id, TABLE.c.revision == record.revision)
        values = _columns(replace(record, revision=record.revision + 1))
        return await self._changed(update(TABLE).where(*held).values(values)) == 1

    async def take(self, kind: str, id: str) -> Record | None:
        taken = delete(TABLE).where(TABLE.c.kind == kind, TABLE.c.id == id).returning(TABLE)
        found = await self._store.writing(lambda connection: connection.execute(taken).mappings().one_or_none())
        return None if found is None or found["expires_at"] <= self._clock.time() else _record(found)

    async def drop(self, kind: str, owner: str) -> int:
        return await self._changed(delete(TABLE).where(TABLE.c.kind == kind, TABLE.c.owner == owner))

    async def sweep(self) -> int:
        return await self._changed(delete(TABLE).where(TABLE.c.expires_at <= self._clock.time()))

    def _live(self, kind: str) -> tuple[Any, ...]:
        return TABLE.c.kind == kind, TABLE.c.expires_at > self._clock.time()

    async def _changed(self, statement: Any) -> int:
        def write(connection: Connection) -> int:
            result: CursorResult[Any] = connection.execute(statement)
            return result.rowcount

        return await self._store.writing(write)


class MemoryRecords:
    """Implements ports.Records in memory, for tests."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._held: dict[tuple[str, str], Record] = {}

    async def get(self, kind: str, id: str) -> Record | None:
        await anyio.lowlevel.checkpoint()
        found = self._held.get((kind, id))
        return found if found is not None and found.expires_at > self._clock.time() else None

    async def of(self, kind: str, owner: str) -> Sequence[Record]:
        await anyio.lowlevel.checkpoint()
        now = self._clock.time()
        found = [r for r in self._held.values() if r.kind == kind and r.owner == owner and r.expires_at > now]
        return sorted(found, key=lambda record: record.id)

    async def page(self, kind: str, after: str, limit: int) -> Sequence[Record]:
        await anyio.lowlevel.checkpoint()
        now = self._clock.time()
        beyond = [r for r in self._held.values() if r.kind == kind and r.id > after and r.expires_at > now]
        return sorted(beyond, key=lambda record: record.id)[:limit]

    async def put(self, record: Record) -> bool:
        if await self.get(record.kind, record.id) is not None:
            return False
        self._held[record.kind, record.id] = record
        return True

    async def replace(self, record: Record) -> bool:
        held = await self.get(record.kind, record.id)
        if held is None or held.revision != record.revision:
            return False
        self._held[record.kind, record.id] = replace(record, revision=record.revision + 1)
        return True

    async def take(self, kind: str, id: str) -> Record | None:
        found = await self.get(kind, id)
        self._held.pop((kind, id), None)
        return found

    async def drop(self, kind: str, owner: str) -> int:
        await anyio.lowlevel.checkpoint()
        return self._forget(lambda record: record.kind == kind and record.owner == owner)

    async def sweep(self) -> int:
        await anyio.lowlevel.checkpoint()
        now = self._clock.time()
        return self._forget(lambda record: record.expires_at <= now)

    def _forget(self, gone: Callable[[Record], bool]) -> int:
        places = [place for place, record in self._held.items() if gone(record)]
        for place in places:
            del self._held[place]
        return len(places)


def _columns(record: Record) -> dict[str, Any]:
    return {column.name: getattr(record, column.name) for column in TABLE.c}


def _record(found: Mapping[Any, Any]) -> Record:
    return msgspec.convert(dict(found), Record)
