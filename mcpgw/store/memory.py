"""The store in memory, for tests: the semantics of SqlStore without a database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import anyio.lowlevel

from mcpgw.domain import (
    ActiveVersion,
    AdminNote,
    KillSwitch,
    Quarantine,
    Revocation,
    Row,
    Server,
    ServerVersion,
    State,
)
from mcpgw.store.rows import (
    MARGIN_S,
    TABLES,
    dangling,
    encoded,
    moved,
    note_from,
    order,
    own,
    primary_key,
    refuse_rewriting,
    state_of,
)

Held = dict[type[Row], dict[tuple[Any, ...], Any]]


class MemoryStore:
    """Implements ports.Store; every method lets other tasks run once before it does its work in one step."""

    def __init__(self) -> None:
        self._epoch = 1
        self._held: Held = {kind: {} for kind in TABLES}
        self._outbox: list[tuple[int, str]] = []

    async def state(self) -> State:
        await anyio.lowlevel.checkpoint()
        return state_of(self._epoch, {kind: order(rows.values()) for kind, rows in self._held.items()})

    async def commit(self, rows: Sequence[Row], note: AdminNote, expect: int | None = None) -> int:
        await anyio.lowlevel.checkpoint()
        if expect is not None and expect != self._epoch:
            raise moved(expect, self._epoch)
        held: Held = {kind: dict(of_kind) for kind, of_kind in self._held.items()}
        for row in rows:
            _put(held, row, self._epoch + 1)
        _refuse_dangling(held)
        self._outbox.append((self._epoch + 1, encoded(note)))
        self._held = held
        self._epoch += 1
        return self._epoch

    async def notes(self, after: int, limit: int) -> Sequence[tuple[int, int, AdminNote]]:
        await anyio.lowlevel.checkpoint()
        found = list(enumerate(self._outbox, start=1))[after : after + limit]
        return [(position, epoch, note_from(text)) for position, (epoch, text) in found]

    async def close(self) -> None:
        await anyio.lowlevel.checkpoint()


def _put(held: Held, row: Row, epoch: int) -> None:
    if isinstance(row, KillSwitch):
        row = replace(row, epoch=epoch)
    of_kind = held[type(row)]
    if isinstance(row, Revocation):
        over = row.not_before - MARGIN_S
        for key in [k for k, r in of_kind.items() if r.over_at is not None and r.over_at <= over]:
            del of_kind[key]
    if isinstance(row, ServerVersion):
        row = own(row)
        published = of_kind.get(primary_key(row))
        if published is not None:
            refuse_rewriting(published, row)
    of_kind[primary_key(row)] = row


def _refuse_dangling(held: Held) -> None:
    servers, versions = held[Server], held[ServerVersion]
    pointers: list[ActiveVersion] = list(held[ActiveVersion].values())
    quarantines: list[Quarantine] = list(held[Quarantine].values())
    whole = (
        all((v.server,) in servers for v in versions.values())
        and all((a.server,) in servers for a in pointers)
        and all(a.version is None or (a.server, a.version) in versions for a in pointers)
        and all((q.server, q.version) in versions for q in quarantines)
        and all(q.tool in versions[q.server, q.version].tools for q in quarantines)
    )
    if not whole:
        raise dangling()
