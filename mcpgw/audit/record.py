"""The canonical bytes of one record: a line of JSON with a fixed order of fields.

A leaf hash covers the stored bytes, so nothing is ever encoded again to be checked. Whatever stands in a field, the
line is one line, parses, and has a bounded length.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from mcpgw.domain import Phase

FIRST = "0" * 64  # `previous` of a log's first record
OWED_LINE = 2048  # most bytes of a record that follows an intent; up to here nothing is cut
MAX_LINE = 8192
_CHARACTERS = 512


class Line(msgspec.Struct, omit_defaults=True, kw_only=True):
    """One record. Fields are append-only, in this order; what is None is left out. `Slot.append` sets the place."""

    time: float
    phase: Phase
    log: str = ""
    index: int = -1
    previous: str = ""
    action_id: str
    epoch: int
    parent: str | None = None
    route: str | None = None
    verb: str | None = None
    server: str | None = None
    version: str | None = None
    name: str | None = None
    principal: str | None = None
    client_id: str | None = None
    team: str | None = None
    credential: str | None = None
    effect: str | None = None
    reasons: tuple[str, ...] | None = None
    policy_sha256: str | None = None
    outcome: str | None = None
    arguments_digest: str | None = None
    fields: Mapping[str, Any] | None = None
    redacted: tuple[str, ...] | None = None
    duration_ms: float | None = None
    session: str | None = None
    trace: str | None = None
    source_ip: str | None = None
    facts: Mapping[str, Any] | None = None


def _known(value: Any) -> Any:
    """Return what JSON can hold in place of a value that it cannot: of an object the name of its type."""
    return dict(value) if isinstance(value, Mapping) else type(value).__name__


_ENCODER = msgspec.json.Encoder(enc_hook=_known)
_DECODER = msgspec.json.Decoder(Line)
# DEL, the C1 controls, the Unicode line separators and the marks that reverse text: JSON lets them stand, terminals
# and `splitlines` do not.
_UNSEEN = re.compile(rb"\x7f|\xc2[\x80-\x9f]|\xe2\x80[\x8e\x8f\xa8-\xae]|\xe2\x81[\xa6-\xa9]")


def encode(line: Line, limit: int = MAX_LINE) -> bytes:
    """Return the line without its line feed: at most `limit` bytes, as it is when within OWED_LINE."""
    try:
        text = _written(line)
    except (UnicodeEncodeError, TypeError, ValueError, OverflowError, RecursionError):
        return _cut(line, limit)  # a lone surrogate, a number or a nesting that JSON cannot hold
    return text if len(text) <= OWED_LINE else _cut(line, limit)


def decode(text: bytes) -> Line:
    """Raises msgspec.DecodeError (of which a wrong type is a case), UnicodeDecodeError."""
    return _DECODER.decode(text)


def leaf_of(text: bytes) -> bytes:
    return hashlib.sha256(b"\0" + text).digest()  # RFC 6962 §2.1


def _written(line: Line) -> bytes:
    text = _ENCODER.encode(line)
    if not text.isascii() or b"\x7f" in text:
        # Bytes like these stand only inside strings, where an escape means the same.
        text = _UNSEEN.sub(lambda found: b"\\u%04x" % ord(found[0].decode()), text)
    return text


def _cut(line: Line, limit: int) -> bytes:
    """Return the line with long values cut; who and what is cut last, for kill switches are matched against it."""
    for top, inner, members, depth in ((_CHARACTERS, _CHARACTERS, 128, 6), (_CHARACTERS, 64, 16, 4), (128, 32, 4, 2)):
        values: dict[str, Any] = {}
        for name in line.__struct_fields__:
            value = getattr(line, name)
            values[name] = _short(value, top) if isinstance(value, str) else _plain(value, inner, members, depth)
        text = _written(Line(**values))
        if len(text) <= limit:
            return text
    return _written(
        Line(
            time=line.time,
            phase=line.phase,
            log=line.log,
            index=line.index,
            previous=line.previous,
            action_id=_short(line.action_id, 64),
            epoch=line.epoch,
            outcome=line.outcome and _short(line.outcome, 64),
            facts={"cut": True},
        )
    )


def _short(value: str, characters: int) -> str:
    if len(value) > characters:
        value = value[:characters] + "…"
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _plain(value: Any, characters: int, members: int, depth: int) -> Any:
    """Return the value with strings, members and nesting cut, and nothing that JSON cannot hold."""
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if value.bit_length() < 64 else _short(hex(value), characters)
    if isinstance(value, str):
        return _short(value, characters)
    if depth == 0:
        return "…"
    if isinstance(value, Mapping):
        kept = list(value.items())[:members]
        plain = {_short(str(k), characters): _plain(v, characters, members, depth - 1) for k, v in kept}
        return plain if len(value) <= members else {**plain, "…": len(value) - members}
    if isinstance(value, list | tuple | set | frozenset):
        kept_items = [_plain(v, characters, members, depth - 1) for v in list(value)[:members]]
        return kept_items if len(value) <= members else [*kept_items, "…"]
    return type(value).__name__
