"""JSON that has one meaning for every parser: what the policy judges is what the upstream reads.

Refused: anything but UTF-8 without a byte order mark, duplicate keys at any depth (also when spelled with escapes),
NaN and infinities (also `1e400`), integers beyond 64 bits, lone surrogates; and more nesting, keys or text in one
string than the limits allow. Values are judged as parsed here and forwarded as the very bytes that came.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import msgspec

from mcpgw.config import LimitsSection
from mcpgw.domain.values import value
from mcpgw.errors import InvalidRequest, ParseError

_DIGITS = bytes(48 if chr(byte).isdecimal() else 0 for byte in range(128)) + bytes(128)
_LONG_NUMBER = b"0" * 19  # as `_DIGITS` shows one: what is shorter has room in 64 bits
_ONE_KIND = bytes.maketrans(b"{}", b"[]")
_NOT_A_BRACKET = bytes(byte for byte in range(256) if byte not in b"[]{}")
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


@value(frozen=True, slots=True, kw_only=True)
class JsonLimits:
    """How large a document may be: its nesting, the members of all its objects together, the text of one string."""

    depth: int = 64
    keys: int = 10_000
    string_bytes: int = 1_048_576

    @classmethod
    def of(cls, limits: LimitsSection) -> JsonLimits:
        return cls(depth=limits.json_depth, keys=limits.json_keys, string_bytes=limits.json_string_bytes)


def parse_object(body: bytes, limits: JsonLimits) -> dict[str, Any]:
    """Return the JSON object in `body`. Raises ParseError (not JSON) or InvalidRequest (JSON, but not acceptable)."""
    quotes = body.count(b'"')
    if (
        body.count(b"{") + body.count(b"[") > limits.depth
        or quotes > 2 * limits.keys
        or len(body) > limits.string_bytes
    ):
        _measure(body, limits)
    try:
        found = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ParseError("the body is not valid JSON in UTF-8", fix="send one JSON object") from None
    if not isinstance(found, dict):
        if isinstance(found, list):
            raise InvalidRequest("JSON-RPC batches are not accepted", fix="send one JSON object per request")
        raise InvalidRequest("the body is not a JSON object", fix="send one JSON object")
    # Parsers read these differently, the policy engine among them: it rounds, and a server may not.
    if _LONG_NUMBER in body.translate(_DIGITS) and not _fits(found.values()):
        raise InvalidRequest("the body has an integer beyond 64 bits", fix="send it as a string")
    if not _surely_unique(body, quotes, found) and _has_duplicates(body):
        raise InvalidRequest("the body has an object with a duplicate key", fix="give each key once")
    return found


def _measure(body: bytes, limits: JsonLimits) -> None:
    """Refuse, before it is parsed, a document larger than its limits. What is no JSON may pass: it is parsed next."""
    # Escapes are masked, so that every quotation mark left opens or closes a string: each second piece is one.
    pieces = body.replace(b"\\\\", b"__").replace(b'\\"', b"__").split(b'"')
    if max(map(len, pieces[1::2]), default=0) > limits.string_bytes:
        raise InvalidRequest(f"a string is longer than {limits.string_bytes} bytes", fix="send it in parts")
    outside = b"".join(pieces[::2])
    if outside.count(b":") > limits.keys:
        raise InvalidRequest(f"the body has more than {limits.keys} keys", fix="send less at once")
    brackets = outside.translate(_ONE_KIND, _NOT_A_BRACKET)
    for _ in range(limits.depth):
        inner = brackets.replace(b"[]", b"")  # without the innermost level of every branch
        if len(inner) == len(brackets):
            break
        brackets = inner
    if b"[]" in brackets or brackets.count(b"[") > limits.depth:  # still nested, or opened and never closed
        raise InvalidRequest(f"JSON nested deeper than {limits.depth} levels", fix="flatten the request")


def _fits(values: Iterable[Any]) -> bool:
    """Say whether every integer among the values, and within them, has room in 64 bits."""
    stack = list(values)
    while stack:
        held = stack.pop()
        if isinstance(held, dict):
            stack += held.values()
        elif isinstance(held, list):
            stack += held
        elif isinstance(held, int) and not -(2**63) <= held < 2**64:
            return False
    return True


def _surely_unique(body: bytes, quotes: int, found: dict[str, Any]) -> bool:
    """Say whether no key can have been dropped as a duplicate; False when that cannot be told so cheaply.

    A key has two quotation marks. Unless one is spelled `\\u0022`, the strings of a value hold as many of them in the
    text as in what the value is written as: a text that has no more of them has no key that the value lacks.
    """
    return quotes == _encode(found).count(b'"') and (b"\\" not in body or b"\\u0022" not in body)


class _Duplicate(Exception):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Duplicate
    return found


def _has_duplicates(body: bytes) -> bool:
    try:
        json.loads(body, object_pairs_hook=_unique)
    except _Duplicate:
        return True
    return False
