"""The ports of what lasts and of time: the store, the records and the log of `auth`, the other workers, the clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from mcpgw.domain import AdminNote, Row, State


class Store(Protocol):
    """State and its epoch. Every method raises Unavailable when the database does not answer."""

    async def state(self) -> State:
        """Read everything in one transaction."""
        ...

    async def commit(self, rows: Sequence[Row], note: AdminNote, expect: int | None = None) -> int:
        """Write rows (insert, or replace by primary key) and the note in one transaction; return the new epoch.

        With `expect`: raises Conflict unless the epoch is still that. Raises Conflict when a row would change what
        is immutable (a published version's manifest). KillSwitch rows get the new epoch as their `epoch`.
        """
        ...

    async def notes(self, after: int, limit: int) -> Sequence[tuple[int, int, AdminNote]]:
        """Return (position, epoch, note) of the outbox beyond position `after`, in order."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Something of `auth` that lives for a while: an authorization code, a refresh token, a session, a vaulted token.

    Found by kind and id, and by kind and owner. `id` is never a secret: of one it is the keyed digest. `expires_at` in
    Unix seconds: an expired record is as good as none. `revision` counts its replacements.
    """

    kind: str
    id: str
    owner: str
    body: bytes = field(repr=False)
    expires_at: float
    revision: int = 0


class Records(Protocol):
    """Records, the same for all workers; no part of the state. Every method raises Unavailable."""

    async def get(self, kind: str, id: str) -> Record | None: ...

    async def of(self, kind: str, owner: str) -> Sequence[Record]:
        """Return the owner's records of a kind, in the order of their ids."""
        ...

    async def page(self, kind: str, after: str, limit: int) -> Sequence[Record]:
        """Return up to `limit` records of a kind whose ids are beyond `after`, in the order of their ids."""
        ...

    async def put(self, record: Record) -> bool:
        """Keep a new record; False, and nothing kept, where there is one of that kind and id."""
        ...

    async def replace(self, record: Record) -> bool:
        """Put a record in the place of the one whose `revision` it carries; False when that is not there any more."""
        ...

    async def take(self, kind: str, id: str) -> Record | None:
        """Remove a record and return it: of all who ask for it, one gets it."""
        ...

    async def drop(self, kind: str, owner: str) -> int:
        """Remove the owner's records of a kind; return how many there were."""
        ...

    async def sweep(self) -> int:
        """Remove what has expired; return how many."""
        ...


@dataclass(frozen=True, slots=True)
class Ack:
    """One worker's word that it has applied an epoch.

    `position` is the size of its log then. `cut` are the ids of matching calls that it cut, `may_have_taken_effect`
    those of them whose first byte had been handed over.
    """

    worker: str
    log: str
    position: int
    epoch: int
    cut: tuple[str, ...] = ()
    may_have_taken_effect: tuple[str, ...] = ()


class Bus(Protocol):
    async def publish(self, epoch: int, switch: str | None = None) -> tuple[Sequence[Ack], Sequence[str]]:
        """Publish the epoch; return the acknowledgements of all live workers and the names of those that are missing.

        With `switch`, the acknowledgements tell what that kill switch cut. A silent worker on this machine is killed,
        and proven dead, before this returns.
        """
        ...


class AuthLog(Protocol):
    """What our authorization server gives out and refuses, in the log."""

    async def record(
        self,
        event: str,
        outcome: str = "ok",
        *,
        principal: str | None = None,
        client_id: str | None = None,
        source: str | None = None,
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        """Write one record. `event` says what was asked for (`token`, `consent`, `registration`, …).

        `outcome` is `ok`, or the error code of a refusal; `detail["reason"]` then says for the reader of the log alone
        what was wrong. `principal` is a selector (`issuer|subject`), `source` the address that the request came from.
        Without a principal a refusal is a stranger's, and counted instead when there are too many. Raises Unavailable
        when what went well cannot be recorded: then it must not leave.
        """
        ...


class Clock(Protocol):
    """Time and randomness."""

    def time(self) -> float:
        """Unix seconds."""
        ...

    def monotonic(self) -> float: ...

    def new_id(self) -> str:
        """Return a UUIDv7 as text."""
        ...
