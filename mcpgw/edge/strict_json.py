"""JSON that has one meaning for every parser: what the policy judges is what the upstream reads.

Refused: anything but UTF-8 without a byte order mark, duplicate keys at any depth (also when spelled with escapes),
NaN and infinities (also `1e400`), lone surrogates, nesting beyond a limit. Values are judged as parsed here and
forwarded as the very bytes that came.
"""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

from mcpgw.errors import InvalidRequest, ParseError

_SPACED_COLON = re.compile(rb'"[ \t\r\n]+:')
# A string that does not end runs to the end of the body: looking at its rest again would take quadratic time.
_STRING_OR_BRACKET = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]', re.DOTALL)
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


def parse_object(body: bytes, *, max_depth: int) -> dict[str, Any]:
    """Return the JSON object in `body`. Raises ParseError (not JSON) or InvalidRequest (JSON, but not acceptable)."""
    if body.count(b"{") + body.count(b"[") > max_depth and _depth(body) > max_depth:
        raise InvalidRequest(f"JSON nested deeper than {max_depth} levels", fix="flatten the request")
    try:
        value = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ParseError("the body is not valid JSON in UTF-8", fix="send one JSON object") from None
    if not isinstance(value, dict):
        if isinstance(value, list):
            raise InvalidRequest("JSON-RPC batches are not accepted", fix="send one JSON object per request")
        raise InvalidRequest("the body is not a JSON object", fix="send one JSON object")
    if not _surely_unique(body, value) and _has_duplicates(body):
        raise InvalidRequest("the body has an object with a duplicate key", fix="give each key once")
    return value


def _surely_unique(body: bytes, value: dict[str, Any]) -> bool:
    """Say whether no key can have been dropped as a duplicate; False when that cannot be told so cheaply.

    Every key in the text ends in `":`, unless white space stands before the colon. Without `\\u` escapes a string holds
    `":` as often in the text as in what the parsed value is written as. So a text that holds no more of them than that
    has no key that the parsed value lacks.
    """
    return body.count(b'":') == _encode(value).count(b'":') and b"\\u" not in body and not _SPACED_COLON.search(body)


def _depth(body: bytes) -> int:
    depth = deepest = 0
    for match in _STRING_OR_BRACKET.finditer(body):
        token = match.group()
        if token in (b"{", b"["):
            depth += 1
            deepest = max(deepest, depth)
        elif token in (b"}", b"]"):
            depth -= 1
    return deepest


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
