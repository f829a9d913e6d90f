"""Domain rows as columns and back, and the rules that every store keeps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from typing import Any, TypeVar

import msgspec
from sqlalchemy import RowMapping, Table

from mcpgw.domain import (
    Account,
    ActiveVersion,
    AdminNote,
    ApiKey,
    KillSwitch,
    OAuthClient,
    PolicyBundle,
    Quarantine,
    Revocation,
    Row,
    Server,
    ServerVersion,
    State,
    Team,
    ToolPin,
    Toolset,
    UpstreamAuth,
)
from mcpgw.errors import Conflict
from mcpgw.store.tables import Base

T = TypeVar("T")
EPOCH = Base.metadata.tables["epoch"]
OUTBOX = Base.metadata.tables["outbox"]
TOOL_PINS = Base.metadata.tables["tool_pins"]
TABLES: Mapping[type[Row], Table] = {
    Server: Base.metadata.tables["servers"],
    ServerVersion: Base.metadata.tables["server_versions"],
    ActiveVersion: Base.metadata.tables["active_versions"],
    Quarantine: Base.metadata.tables["quarantines"],
    Toolset: Base.metadata.tables["toolsets"],
    Team: Base.metadata.tables["teams"],
    Account: Base.metadata.tables["accounts"],
    ApiKey: Base.metadata.tables["api_keys"],
    OAuthClient: Base.metadata.tables["oauth_clients"],
    Revocation: Base.metadata.tables["revocations"],
    PolicyBundle: Base.metadata.tables["policy_bundles"],
    KillSwitch: Base.metadata.tables["kill_switches"],
}
MARGIN_S = 86_400.0
"""A revocation takes those away that were over so long before what it voids: no token lives longer than a day."""
# What another process may have read and relied on: a published version keeps it for ever.
IMMUTABLE = ("manifest_sha256", "endpoint", "transport", "era", "tools", "auth", "published_by", "published_at")


def columns(row: Row | ToolPin, table: Table) -> dict[str, Any]:
    """Return the values of the columns of `table` that `row` has."""
    return {c.name: _plain(getattr(row, c.name)) for c in table.c if hasattr(row, c.name)}


def primary_key(row: Row) -> tuple[Any, ...]:
    return tuple(getattr(row, column.name) for column in TABLES[type(row)].primary_key)


def row_from(record: RowMapping, kind: type[T]) -> T:
    """Return a row of type `kind`. Raises msgspec.ValidationError for a value that the type does not know."""
    return msgspec.convert(dict(record), kind)


def version_from(record: RowMapping, tools: Mapping[str, ToolPin]) -> ServerVersion:
    return replace(msgspec.convert({**record, "tools": {}}, ServerVersion), tools=tools)


def pins_from(records: Sequence[RowMapping]) -> dict[tuple[str, str], dict[str, ToolPin]]:
    """Return the tools of each (server, version), in the order of the records."""
    pins: dict[tuple[str, str], dict[str, ToolPin]] = {}
    for record in records:
        tools = pins.setdefault((record["server"], record["version"]), {})
        tools[record["name"]] = row_from(record, ToolPin)
    return pins


def encoded(note: AdminNote) -> str:
    return msgspec.json.encode(note).decode()


def note_from(text: str) -> AdminNote:
    return msgspec.json.decode(text, type=AdminNote)


def own(version: ServerVersion) -> ServerVersion:
    """Return the version without what other rows say of it (its server's tags, trust and marks, its quarantines)."""
    return replace(version, tags=(), trust="untrusted", idempotent=frozenset(), quarantined=frozenset())


def refuse_rewriting(held: ServerVersion, new: ServerVersion) -> None:
    """Raise Conflict when `new` would change what is immutable in the published version `held`."""
    changed = [name for name in IMMUTABLE if getattr(held, name) != getattr(new, name)]
    if changed:
        raise Conflict(
            f"`{held.server}` {held.version} is published and cannot change ({', '.join(changed)})",
            fix="publish another version",
        )


def moved(expected: int, epoch: int) -> Conflict:
    return Conflict(f"the state is at epoch {epoch}, not {expected}", fix="look again, and repeat the change")


def dangling() -> Conflict:
    return Conflict("the change refers to a server, version or tool that does not exist", fix="register it first")


def order(rows: Iterable[Row]) -> tuple[Any, ...]:
    """Return rows of one kind in the order that a state has: by primary key, versions as they were published."""
    return tuple(
        sorted(rows, key=lambda r: (r.server, r.published_at) if isinstance(r, ServerVersion) else primary_key(r))
    )


def state_of(epoch: int, rows: Mapping[type[Row], tuple[Any, ...]]) -> State:
    """Return the state of these rows, each kind as `order` returned it."""
    return State(
        epoch=epoch,
        servers=rows[Server],
        versions=rows[ServerVersion],
        active={a.server: a.version for a in rows[ActiveVersion]},
        quarantines=rows[Quarantine],
        toolsets=rows[Toolset],
        teams=rows[Team],
        accounts=rows[Account],
        keys=rows[ApiKey],
        clients=rows[OAuthClient],
        revocations=rows[Revocation],
        switches=rows[KillSwitch],
        bundles=rows[PolicyBundle],
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, tuple | UpstreamAuth):
        return msgspec.to_builtins(value)
    return dict(value) if isinstance(value, Mapping) else value
