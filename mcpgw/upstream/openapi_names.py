"""Names of tools and of their arguments: what every client and model takes, unique, and the same tomorrow."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import sha256

from mcpgw.upstream.openapi_document import Operation
from mcpgw.upstream.openapi_problem import Unusable, step

MAX_NAME = 64
_HEX = 8
_TOOL = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TOOL_MISFITS = re.compile(r"[^A-Za-z0-9_-]+")
_ARGUMENT = re.compile(r"[A-Za-z0-9_.-]{1,64}")  # what model providers take for a property
_ARGUMENT_MISFITS = re.compile(r"[^A-Za-z0-9_.-]+")


def tool_names(operations: Sequence[Operation], given: Mapping[str, str]) -> dict[str, str | Unusable]:
    """Return the name of each operation's tool by the operation's place, or why it has none.

    A name that was given, else the `operationId`, else method and path. One that is cut, or clashes once it was changed
    to fit, ends in a digest of method and path.
    """
    ids = Counter(operation.id for operation in operations)
    asked = {operation.place: given.get(operation.id) or given.get(operation.place) for operation in operations}
    short = {operation.place: _as_tool(operation.id) for operation in operations}
    counted = Counter([asked[place] or short[place] for place in short])
    found: dict[str, str | Unusable] = {}
    for operation in operations:
        name = asked[operation.place]
        if ids[operation.id] > 1:
            found[operation.place] = _clash(operation, "is the id of another operation, too", "make it unique")
        elif name is not None:
            taken = counted[name] > 1
            found[operation.place] = _clash(operation, "has a name given twice", "change `names`") if taken else name
        elif _TOOL.fullmatch(operation.id):
            found[operation.place] = operation.id
        else:
            found[operation.place] = _fitted(operation.place, short[operation.place], counted)
    return found


def _as_tool(operation_id: str) -> str:
    return operation_id if _TOOL.fullmatch(operation_id) else _TOOL_MISFITS.sub("_", operation_id).strip("_")


def _clash(operation: Operation, what: str, fix: str) -> Unusable:
    return Unusable(step(operation.where, "operationId"), what, fix)


def _fitted(place: str, short: str, counted: Mapping[str, int]) -> str:
    if short and len(short) <= MAX_NAME and counted[short] == 1:
        return short
    digest = sha256(place.encode()).hexdigest()[:_HEX]
    return f"{short[: MAX_NAME - _HEX - 1]}_{digest}"


def argument_names(parameters: Sequence[tuple[str, str]], taken: Sequence[str]) -> list[str]:
    """Return an argument's name for each parameter (name, place): its own, with the place where that is not enough."""
    fitted = [_as_argument(name) for name, _ in parameters]
    counted = Counter([*fitted, *taken])
    found: list[str] = []
    for name, (_, place) in zip(fitted, parameters, strict=True):
        free = name if counted[name] == 1 else f"{name[: MAX_NAME - 12]}_{place}"
        number = 1
        while free in (*found, *taken) or (free != name and free in fitted):
            number += 1
            free = f"{name[: MAX_NAME - 16]}_{place}_{number}"
        found.append(free)
    return found


def _as_argument(name: str) -> str:
    if _ARGUMENT.fullmatch(name):
        return name
    return _ARGUMENT_MISFITS.sub("_", name).strip("_")[:MAX_NAME] or "parameter"
