"""JSON as every parser reads it: UTF-8, no name twice, no NaN or Infinity, no half of a character."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn


def read_object(raw: bytes) -> dict[str, Any]:
    """Return the object of a document that is no larger than its caller allows. Raises ValueError."""
    text = raw.decode("utf-8")
    try:
        document = json.loads(text, object_pairs_hook=_object, parse_constant=_constant, parse_float=_float)
        if "\\u" in text:  # an escape can stand for half of a pair, which no encoding has
            json.dumps(document, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(document, dict):
        raise ValueError("not an object")
    return document


def _object(members: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(members)
    if len(found) != len(members):
        raise ValueError("a name is there twice")
    return found


def _constant(name: str) -> NoReturn:
    raise ValueError("not a number of JSON")


def _float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("a number beyond all numbers")
    return number
