"""JSON read one character at a time, straight from the grammar: slow, and without a thought for speed or for hosts.

What the strict parser accepts, and what it makes of it, is compared with this.
"""

from __future__ import annotations

import math
import re
from typing import Any

from mcpgw.edge.strict_json import JsonLimits

NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
WORDS = {"true": True, "false": False, "null": None}


class Refused(Exception):
    """The text is no JSON, or breaks one of the rules; the argument names it."""


def read(body: bytes, limits: JsonLimits) -> dict[str, Any]:
    """Return the object in `body`. Raises Refused."""
    try:
        text = body.decode()  # never a byte order mark: the grammar has none
    except UnicodeDecodeError:
        raise Refused("encoding") from None
    reader = Reader(text, limits)
    value = reader.value(0)
    reader.space()
    if reader.at != len(text):
        raise Refused("trailing")
    if not isinstance(value, dict):
        raise Refused("not an object")
    return value


class Reader:
    """A place in a text."""

    def __init__(self, text: str, limits: JsonLimits) -> None:
        self.text = text
        self.limits = limits
        self.at = 0
        self.keys = 0

    def space(self) -> None:
        while self.text[self.at : self.at + 1] in {" ", "\t", "\r", "\n"}:
            self.at += 1

    def take(self, wanted: str) -> bool:
        """Go on behind `wanted` where it comes next, white space aside."""
        self.space()
        found = self.text.startswith(wanted, self.at)
        self.at += len(wanted) if found else 0
        return found

    def need(self, wanted: str) -> None:
        if not self.take(wanted):
            raise Refused(f"no {wanted}")

    def value(self, depth: int) -> Any:
        if depth > self.limits.depth:
            raise Refused("depth")
        if self.take("{"):
            return self.members(depth + 1)
        if self.take("["):
            return self.items(depth + 1)
        if self.take('"'):
            return self.string()
        for word, meaning in WORDS.items():
            if self.take(word):
                return meaning
        return self.number()

    def members(self, depth: int) -> dict[str, Any]:
        if depth > self.limits.depth:
            raise Refused("depth")
        found: dict[str, Any] = {}
        if self.take("}"):
            return found
        while True:
            self.need('"')
            key = self.string()
            self.keys += 1
            if self.keys > self.limits.keys:
                raise Refused("keys")
            if key in found:
                raise Refused("duplicate")
            self.need(":")
            found[key] = self.value(depth)
            if self.take("}"):
                return found
            self.need(",")

    def items(self, depth: int) -> list[Any]:
        if depth > self.limits.depth:
            raise Refused("depth")
        found: list[Any] = []
        if self.take("]"):
            return found
        while True:
            found.append(self.value(depth))
            if self.take("]"):
                return found
            self.need(",")

    def string(self) -> str:
        start, found = self.at, ""
        while (c := self.next()) != '"':
            if c < " ":
                raise Refused("control character")
            found += c if c != "\\" else self.escaped()
        if len(self.text[start : self.at - 1].encode()) > self.limits.string_bytes:
            raise Refused("string")
        return found

    def next(self) -> str:
        if self.at == len(self.text):
            raise Refused("the end")
        self.at += 1
        return self.text[self.at - 1]

    def escaped(self) -> str:
        c = self.next()
        if c != "u":
            if c not in ESCAPES:
                raise Refused("escape")
            return ESCAPES[c]
        first = self.unit()
        if 0xD800 <= first < 0xDC00 and self.text.startswith("\\u", self.at):
            self.at += 2
            second = self.unit()
            if 0xDC00 <= second < 0xE000:
                return chr(0x10000 + ((first - 0xD800) << 10) + second - 0xDC00)
            raise Refused("half a character")
        if 0xD800 <= first < 0xE000:
            raise Refused("half a character")
        return chr(first)

    def unit(self) -> int:
        digits = self.text[self.at : self.at + 4]
        if not re.fullmatch("[0-9a-fA-F]{4}", digits):
            raise Refused("escape")
        self.at += 4
        return int(digits, 16)

    def number(self) -> int | float:
        match = NUMBER.match(self.text, self.at)
        if match is None:
            raise Refused("no value")
        self.at = match.end()
        if match[2] is None and match[3] is None:
            whole = int(match[0])
            if not -(2**63) <= whole < 2**64:
                raise Refused("integer")
            return whole
        if not math.isfinite(number := float(match[0])):
            raise Refused("infinite")
        return number
