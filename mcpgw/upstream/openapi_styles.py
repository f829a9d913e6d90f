"""How values are written into paths, queries, headers, cookies and forms (OpenAPI 3.1.1 §4.8.12, RFC 6570)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote, quote_plus

Encode = Callable[[str], str]
Pair = tuple[str, str]

PATH = frozenset({"simple", "label", "matrix"})
QUERY = frozenset({"form", "spaceDelimited", "pipeDelimited", "deepObject"})
HEADER = frozenset({"simple"})
COOKIE = frozenset({"form", "cookie"})
DEFAULT = {"path": "simple", "query": "form", "header": "simple", "cookie": "form"}
STYLES = {"path": PATH, "query": QUERY, "header": HEADER, "cookie": COOKIE}

_DELIMITER = {"form": ",", "spaceDelimited": "%20", "pipeDelimited": "%7C"}
_HEADER_SAFE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
_COOKIE_SAFE = re.compile(r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*")  # RFC 6265 §4.1.1: cookie-octet


class Unfit(Exception):
    """A value that cannot be written where it would have to stand; says why, and never the value."""


class Number(str):
    """A JSON number as the text it came as: it is sent as that."""

    __slots__ = ()


def parse(raw: bytes) -> Any:
    """Return the value of a JSON text, its numbers as `Number`."""
    return json.loads(raw, parse_int=Number, parse_float=Number)


def percent(text: str) -> str:
    """Encode everything but unreserved characters (RFC 3986 §2.3)."""
    return quote(text, safe="")


def reserved(text: str) -> str:
    """Encode for a query in which reserved characters stand for themselves, but those that would end the value."""
    return quote(text, safe="/:?@!$'()*,")


def form(text: str) -> str:
    return quote_plus(text)


def header(text: str) -> str:
    """Return a header value as it is (OpenAPI 3.2.0 Appendix D: no percent-encoding). Raises Unfit."""
    if not _HEADER_SAFE.fullmatch(text):
        raise Unfit("a header value is visible ASCII on one line, not empty, without spaces at its ends")
    return text


def cookie(text: str) -> str:
    """Return a cookie value as it is. Raises Unfit."""
    if not _COOKIE_SAFE.fullmatch(text):
        raise Unfit("a cookie value is visible ASCII without spaces, quotes, commas, semicolons and backslashes")
    return text


def scalar(value: Any) -> str:
    """Return the text of a string, number or boolean. Raises Unfit for anything else."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    kind = "null" if value is None else "an object" if isinstance(value, dict) else "a list"
    raise Unfit(f"{kind} cannot be written inside a value of this place")


def in_path(style: str, explode: bool, name: str, value: Any) -> str:
    """Return what stands for a path parameter; `name` and value are percent-encoded here."""
    name = percent(name)
    if not isinstance(value, list | dict):
        text = percent(scalar(value))
        if style == "matrix":
            return f";{name}={text}" if text else f";{name}"
        return f".{text}" if style == "label" else text
    if style == "matrix":
        if explode and isinstance(value, list):
            return "".join(f";{name}={percent(scalar(item))}" for item in value)
        joined = _joined(value, ";" if explode else ",", explode, percent)
        return f";{joined}" if explode else f";{name}={joined}"
    if style == "label":
        return "." + _joined(value, "." if explode else ",", explode, percent)
    return simple(value, explode, percent)


def simple(value: Any, explode: bool, encode: Encode) -> str:
    if isinstance(value, list | dict):
        return _joined(value, ",", explode, encode)
    return encode(scalar(value))


def pairs(style: str, explode: bool, name: str, value: Any, encode: Encode) -> list[Pair]:
    """Return what a value adds to a query, a form, or the cookies: encoded names and values. Raises Unfit.

    An empty list or object adds nothing (RFC 6570 §2.3: it is undefined).
    """
    if style == "deepObject":
        if not isinstance(value, dict):
            raise Unfit("only an object can be written here")
        return [(encode(f"{name}[{key}]"), encode(scalar(inner))) for key, inner in value.items()]
    if not isinstance(value, list | dict):
        if style in {"spaceDelimited", "pipeDelimited"}:
            raise Unfit("only a list or an object can be written here")
        return [(encode(name), encode(scalar(value)))]
    if explode and isinstance(value, list):
        return [(encode(name), encode(scalar(item))) for item in value]
    if explode and isinstance(value, dict):
        return [(encode(key), encode(scalar(inner))) for key, inner in value.items()]
    return [(encode(name), _joined(value, _DELIMITER.get(style, ","), False, encode))] if value else []


def written(found: Sequence[Pair], delimiter: str = "&") -> str:
    return delimiter.join(f"{name}={value}" for name, value in found)


def _joined(value: Any, delimiter: str, explode: bool, encode: Encode) -> str:
    if isinstance(value, list):
        return delimiter.join(encode(scalar(item)) for item in value)
    if explode:
        return delimiter.join(f"{encode(key)}={encode(scalar(inner))}" for key, inner in value.items())
    return delimiter.join(encode(text) for key, inner in value.items() for text in (key, scalar(inner)))
