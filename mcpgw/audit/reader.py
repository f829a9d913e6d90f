"""Reading the log through its index, for the API."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from operator import itemgetter
from pathlib import Path
from typing import Any

import msgspec

from mcpgw.audit import tree
from mcpgw.audit.checkpoint import decode, newest_line
from mcpgw.audit.index import COLUMNS, Index, find, nodes_of, place_in, size_in
from mcpgw.audit.logs import logs_of, segment_path
from mcpgw.audit.record import leaf_of
from mcpgw.errors import Internal, InvalidRequest, NotFound

_FILTERS = COLUMNS.keys() | {"since", "until", "cursor", "limit"}
_MOST = 1000
_MOST_OF_ONE = 100_000  # records of one action


class AuditReader:
    """What is in the log up to the moment of asking, read off the event loop."""

    def __init__(self, audit_dir: Path, index_path: Path) -> None:
        self._reading = Reading(Index(index_path, audit_dir))

    async def query(self, filters: Mapping[str, Any], /) -> dict[str, Any]:
        return await asyncio.to_thread(self._reading.query, filters)

    async def of(self, action_id: str, /) -> dict[str, Any]:
        return await asyncio.to_thread(self._reading.of, action_id)

    async def checkpoint(self) -> dict[str, Any]:
        return await asyncio.to_thread(self._reading.checkpoint)

    async def proof(self, log: str, index: int, /) -> dict[str, Any]:
        return await asyncio.to_thread(self._reading.proof, log, index)


class Reading:
    """What AuditReader does, in the calling thread. Every method may raise Unavailable."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._audit_dir = index.audit_dir

    def query(self, filters: Mapping[str, Any]) -> dict[str, Any]:
        """Return {"records": [newest first], "cursor": text for the next page, or None}.

        Filters: principal, server, tool, effect, outcome, trace, action_id, phase, log (equal); since (from) and until
        (before), in Unix seconds or ISO 8601; cursor; limit (1-1000, 100). Raises InvalidRequest.
        """
        unknown = filters.keys() - _FILTERS
        if unknown:
            raise InvalidRequest(f"unknown filter `{min(unknown)[:64]}`", fix=f"one of: {', '.join(sorted(_FILTERS))}")
        where: dict[str, Any] = {name: str(filters[name]) for name in COLUMNS.keys() & filters.keys()}
        where |= {name: _instant(filters[name], name) for name in ("since", "until") if name in filters}
        if "cursor" in filters:
            where["before"] = _from_cursor(str(filters["cursor"]))
        limit = _limit(filters.get("limit", 100))
        self._index.catch_up()
        with self._index.reading() as db:
            found = find(db, where, limit + 1)
        page = found[:limit]
        cursor = f"{page[-1][0]!r}~{page[-1][1]}~{page[-1][2]}" if len(found) > limit else None
        return {"records": self._records(page), "cursor": cursor}

    def of(self, action_id: str) -> dict[str, Any]:
        """Return {"records": all of one action, in the order written}. Raises NotFound."""
        self._index.catch_up()
        with self._index.reading() as db:
            found = find(db, {"action_id": action_id}, _MOST_OF_ONE)
        if not found:
            raise NotFound(f"the log has no action `{action_id[:64]}`", fix="mcpgw audit query lists the newest")
        return {"records": self._records(sorted(found, key=itemgetter(1, 2)))}

    def checkpoint(self) -> dict[str, Any]:
        """Return the newest checkpoint with its signature: who keeps it can prove any later change. Raises NotFound."""
        line = newest_line(self._audit_dir)
        if line is None:
            raise NotFound("nothing has been signed yet", fix="ask again in a second")
        checkpoint: dict[str, Any] = msgspec.json.decode(line)
        return checkpoint

    def proof(self, log: str, index: int) -> dict[str, Any]:
        """Return a record with the proof that the newest checkpoint covers it.

        {"log", "index", "record", "line" (the exact text that `leaf` is the hash of), "leaf", "size", "root", "path"
        (nearest sibling first, hex), "checkpoint"}. Raises NotFound.
        """
        line = newest_line(self._audit_dir)
        self._index.catch_up()
        head = decode(line).head(log) if line is not None else None
        if line is None or head is None or not 0 <= index < head.size:
            raise NotFound(f"no checkpoint covers record {index} of log `{log[:64]}`", fix="ask again in a second")
        changed = Internal(f"log `{log}` is not what was signed", fix="mcpgw audit verify names the place")
        with self._index.reading() as db:
            if size_in(db, log) < head.size:
                raise changed
            path = tree.inclusion(nodes_of(db, log), index, head.size)
            place = place_in(db, log, index)
        [text] = self._texts([(log, *place)])
        leaf = leaf_of(text)
        if not tree.includes(bytes.fromhex(head.root), head.size, index, leaf, path):
            raise changed
        return {
            "log": log,
            "index": index,
            "record": msgspec.json.decode(text),
            "line": text.decode(),
            "leaf": leaf.hex(),
            "size": head.size,
            "root": head.root,
            "path": [sibling.hex() for sibling in path],
            "checkpoint": msgspec.json.decode(line),
        }

    def _records(self, found: Sequence[Any]) -> list[dict[str, Any]]:
        """Return the records that stand there, each with its leaf hash."""
        texts = self._texts((log, segment, at, length) for _, log, _, segment, at, length in found)
        return [_shown(text, log, idx) for text, (_, log, idx, *_) in zip(texts, found, strict=True)]

    def _texts(self, places: Iterable[tuple[str, int, int, int]]) -> list[bytes]:
        files: dict[Path, int] = {}
        texts: list[bytes] = []
        try:
            for log, segment, at, length in places:
                path = segment_path(logs_of(self._audit_dir) / log, segment)
                if path not in files:
                    files[path] = os.open(path, os.O_RDONLY)
                texts.append(os.pread(files[path], length, at))
        finally:
            for fd in files.values():
                os.close(fd)
        return texts


def _shown(text: bytes, log: str, index: int) -> dict[str, Any]:
    try:
        record: dict[str, Any] = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {"log": log, "index": index, "phase": "unreadable", "leaf": leaf_of(text).hex()}
    return {**record, "leaf": leaf_of(text).hex()}


def _instant(value: Any, name: str) -> float:
    try:
        return float(value)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        raise InvalidRequest(f"`{name}` is not a time", fix="Unix seconds, or 2026-11-20T12:00:00Z") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _limit(value: Any) -> int:
    text = str(value)
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= _MOST):
        raise InvalidRequest("`limit` is out of range", fix=f"1 to {_MOST}")
    return int(text)


def _from_cursor(cursor: str) -> tuple[float, str, int]:
    time, _, rest = cursor.partition("~")
    log, _, index = rest.rpartition("~")
    try:
        return float(time), log, int(index)
    except ValueError:
        raise InvalidRequest("`cursor` is not one of ours", fix="leave it out to begin with the newest") from None
