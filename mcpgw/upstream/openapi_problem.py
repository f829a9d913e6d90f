"""Why an OpenAPI document, or a part of it, cannot be offered."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, and how to mend it. `where` is a JSON pointer into the document ("": the whole)."""

    where: str
    message: str
    fix: str


class Unusable(Exception):
    """Carries the problem of what cannot be used."""

    def __init__(self, where: str, message: str, fix: str) -> None:
        super().__init__(f"{where}: {message}")
        self.problem = Problem(where, message, fix)


def step(where: str, *keys: object) -> str:
    """Return the pointer of a member below `where` (RFC 6901 §3)."""
    return where + "".join("/" + str(key).replace("~", "~0").replace("/", "~1") for key in keys)
