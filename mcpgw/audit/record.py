"""The canonical bytes of one record: a line of JSON with a fixed order of fields.

A leaf hash covers the stored bytes, so nothing is ever encoded again to be checked. Whatever stands in a field, the
line is one line, parses, and has a bounded length.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
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


class Particulars(msgspec.Struct, omit_defaults=True, kw_only=True):
    """The fields of a Line from `outcome` on, which differ from one call to the next."""

    outcome: str | None = None
    arguments_digest: str | None = None
    fields: Mapping[str, Any] | None = None
    redacted: tuple[str, ...] | None = None
    duration_ms: float | None = None
    session: str | None = None
    trace: str | None = None
    source_ip: str | None = None
    facts: Any = None


class Draft:
    """A Line of which the fields from `route` to `policy_sha256` are written already: `standing`, raw.

    `line` makes the Line that it stands for, less its place and what the journal measures, for when it does not fit.
    """

    __slots__ = ("action_id", "epoch", "index", "line", "log", "particulars", "phase", "previous", "standing", "time")

    def __init__(
        self,
        phase: Phase,
        action_id: str,
        epoch: int,
        standing: bytes,
        particulars: Particulars,
        line: Callable[[], Line],
    ) -> None:
        self.phase = phase
        self.action_id = action_id
        self.epoch = epoch
        self.standing = standing
        self.particulars = particulars
        self.line = line
        self.time = 0.0
        self.log = self.previous = ""
        self.index = -1

    def written(self) -> bytes:
        """Return the very bytes that the Line would be written in."""
        particulars = _ENCODER.encode(self.particulars)[1:]
        text = b'{"time":%b,"phase":"%b","log":"%b","index":%d,"previous":"%b","action_id":"%b","epoch":%d%b%b%b' % (
            repr(self.time).encode(),
            self.phase.encode(),
            self.log.encode(),
            self.index,
            self.previous.encode(),
            self.action_id.encode(),
            self.epoch,
            self.standing,
            b"," if len(particulars) > 1 else b"",
            particulars,
        )
        return _seen(text)

    def whole(self) -> Line:
        """Return the Line."""
        line, given = self.line(), self.particulars
        line.time, line.log, line.index, line.previous = self.time, self.log, self.index, self.previous
        line.arguments_digest, line.fields, line.duration_ms = given.arguments_digest, given.fields, given.duration_ms
        return line


def standing(line: Line) -> bytes:
    """Return what a Line without place and particulars has between its epoch, which is 0, and its end."""
    return _written(line).partition(b'"epoch":0')[2][:-1]


def _known(value: Any) -> Any:
    """Return what JSON can hold in place of a value that it cannot: of an object the name of its type."""
    return dict(value) if isinstance(value, Mapping) else type(value).__name__


_ENCODER = msgspec.json.Encoder(enc_hook=_known)
_DECODER = msgspec.json.Decoder(Line)
# DEL, the C1 controls, the Unicode line separators and the marks that reverse text: JSON lets them stand, terminals
# and `splitlines` do not.
_UNSEEN = re.compile(rb"\x7f|\xc2[\x80-\x9f]|\xe2\x80[\x8e\x8f\xa8-\xae]|\xe2\x81[\xa6-\xa9]")


def encode(line: Line | Draft, limit: int = MAX_LINE) -> bytes:
    """Return the line without its line feed: at most `limit` bytes, as it is when within OWED_LINE."""
    try:
        text = line.written() if isinstance(line, Draft) else _written(line)
        if len(text) <= OWED_LINE:
            return text
    except (UnicodeEncodeError, TypeError, ValueError, OverflowError, RecursionError):
        pass  # a lone surrogate, a number or a nesting that JSON cannot hold
    return _cut(line.whole() if isinstance(line, Draft) else line, limit)


def decode(text: bytes) -> Line:
    """Raises msgspec.DecodeError (of which a wrong type is a case), UnicodeDecodeError."""
    return _DECODER.decode(text)


def leaf_of(text: bytes) -> bytes:
    """Return the hash of a record's stored bytes."""
    return hashlib.sha256(b"\0" + text).digest()  # RFC 6962 §2.1


def _written(line: Line) -> bytes:
    return _seen(_ENCODER.encode(line))


def _seen(text: bytes) -> bytes:
    """Return JSON in which nothing can do to a reader's screen what it cannot see."""
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
