"""The argument values that an operator wants in clear."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from mcpgw.errors import UsageError


class ChosenFields:
    """JSON pointers (RFC 6901), each with the value that a call's arguments have there. Raises UsageError."""

    __slots__ = ("_paths",)

    def __init__(self, pointers: Sequence[str]) -> None:
        self._paths: list[tuple[str, list[str]]] = []
        for pointer in pointers:
            if not pointer.startswith("/"):
                raise UsageError(f"audit.fields: `{pointer}` is not a JSON pointer", fix=f"write `/{pointer}`")
            steps = [step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:]]
            self._paths.append((pointer, steps))

    def of(self, arguments: bytes) -> dict[str, Any] | None:
        """Return the values by pointer, without those that are not there; None when there is nothing."""
        if not self._paths:
            return None
        try:
            document = msgspec.json.decode(arguments)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None  # What no parser takes was not judged by these fields either; the digest covers the bytes.
        found: dict[str, Any] = {}
        for pointer, steps in self._paths:
            try:
                found[pointer] = _at(document, steps)
            except LookupError:
                continue
        return found or None


def _at(document: Any, steps: Sequence[str]) -> Any:
    for step in steps:
        if isinstance(document, dict):
            document = document[step]
        elif isinstance(document, list) and step.isdecimal() and step.isascii():
            document = document[int(step)]
        else:
            raise LookupError(step)
    return document
