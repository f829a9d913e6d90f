"""Whether a value fits a schema, at a cost that is known before: linear patterns, and no work without end.

A validator tries every schema that applies to a place of a value. How many that can be is computed from the schema
(`weights`), so that neither a schema nor a value can make it work for long.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import islice
from typing import Any

import jsonschema_rs

from mcpgw.upstream.openapi_problem import Unusable
from mcpgw.upstream.openapi_schema import LIST, NAMED, ONE

MAX_WORK = 1_000_000  # values times the schemas that may apply to one, some 30 ns each
MAX_LISTING = 2_000  # the same, where all flaws are listed: some 20 µs each
MAX_AT_ONE_PLACE = 1000  # schemas, without looking into the value
MAX_LINKS = 20_000
MAX_FLAWS = 5
MAX_FLAW_CHARS = 300
MAX_VALUE_DEPTH = 64
_MASK = "the value"
_LINEAR = jsonschema_rs.RegexOptions(size_limit=1_048_576, dfa_size_limit=1_048_576)
_HERE = frozenset({"not", "if", "then", "else", "propertyNames", "allOf", "anyOf", "oneOf", "dependentSchemas"})
_ANY = "*"  # the label of members that no keyword names
Node = dict[str, Any]


class Checker:
    """A compiled schema. `where` is its place in the document, for the Unusable that it may raise."""

    def __init__(self, schema: Node, where: str) -> None:
        self._weights = weights(schema, where)
        try:
            self._validator = jsonschema_rs.Draft202012Validator(
                _linear(schema), pattern_options=_LINEAR, offline=True, mask=_MASK
            )
        except (ValueError, jsonschema_rs.ReferencingError) as error:
            message = str(getattr(error, "message", error))[:MAX_FLAW_CHARS]
            raise Unusable(where, f"has a schema that is not valid: {message}", "correct it") from None

    def flaws(self, raw: bytes, value: Any) -> list[str]:
        """Return what is wrong with `value`, whose text is `raw`; property names and rules, never a value."""
        work = self._work(raw, value)
        if work > MAX_WORK:
            return ["too much to check against the schema of this tool: send less, or nest it less"]
        if self._validator.is_valid(value):
            return []
        if work <= MAX_LISTING:
            return [_told(error) for error in islice(self._validator.iter_errors(value), MAX_FLAWS)]
        try:
            self._validator.validate(value)
        except jsonschema_rs.ValidationError as error:
            return [_told(error)]
        return []

    def accepts(self, raw: bytes, value: Any) -> bool:
        """Say whether a value fits; one that costs too much to check is believed."""
        return self._work(raw, value) > MAX_WORK or self._validator.is_valid(value)

    def _work(self, raw: bytes, value: Any) -> int:
        values = 1 + raw.count(b",") + raw.count(b"[") + raw.count(b"{")  # at most so many
        is_flat = self._weights[0] == self._weights[-1]
        return values * self._weights[0 if is_flat else min(_depth(value), len(self._weights) - 1)]


def _told(error: jsonschema_rs.ValidationError) -> str:
    place = ".".join(str(key) for key in error.instance_path)
    return f"{place or 'arguments'}: {error.message}"[:MAX_FLAW_CHARS]


def weights(schema: Node, where: str) -> list[int]:
    """Return how many schemas can apply to one place of a value, by the depth of the value, until that is constant.

    Raises Unusable for a schema that applies to the very value that it is applied to, or that applies too many.
    """
    definitions: Mapping[str, Any] = schema.get("$defs", {})
    applied: dict[int, list[Node]] = {}
    inner: dict[int, dict[str, list[Node]]] = {}
    open_ends, links = [schema], 0
    while open_ends:
        node = open_ends.pop()
        if id(node) in applied:
            continue
        applied[id(node)] = together = _at_one_place(node, definitions, where)
        inner[id(node)] = below = _below(together)
        links += len(together) + sum(map(len, below.values()))
        if links > MAX_LINKS:
            raise Unusable(where, "has schemas that are too entangled to check", "exclude the operation")
        open_ends += [child for children in below.values() for child in children]
    now = {key: len(together) for key, together in applied.items()}
    found = [now[id(schema)]]
    for _ in range(MAX_VALUE_DEPTH):
        deeper = {
            key: max([len(together), *(sum(now[id(c)] for c in children) for children in inner[key].values())])
            for key, together in applied.items()
        }
        if deeper == now:
            break
        now = {key: min(weight, MAX_WORK + 1) for key, weight in deeper.items()}
        found.append(now[id(schema)])
    return found


def _at_one_place(node: Node, definitions: Mapping[str, Any], where: str) -> list[Node]:
    """Return the schemas that apply to a value when `node` does, each as often as it is tried."""
    found: list[Node] = []
    stack: list[tuple[Node, tuple[int, ...]]] = [(node, ())]
    while stack:
        schema, above = stack.pop()
        if id(schema) in above:
            raise Unusable(where, "has a schema that refers to itself without end", "exclude the operation")
        found.append(schema)
        if len(found) > MAX_AT_ONE_PLACE:
            raise Unusable(where, f"tries more than {MAX_AT_ONE_PLACE} schemas on a value", "exclude the operation")
        # What is unevaluated is found out by trying once more.
        times = 2 if schema.keys() & {"unevaluatedProperties", "unevaluatedItems"} else 1
        stack += [(s, (*above, id(schema))) for s in _applied(schema, definitions)] * times
    return found


def _applied(schema: Node, definitions: Mapping[str, Any]) -> Iterator[Node]:
    for key, _, child in subschemas(schema):
        if key in _HERE and isinstance(child, dict):
            yield child
    reference = schema.get("$ref")
    if isinstance(reference, str):
        target = definitions[reference.removeprefix("#/$defs/")]
        if isinstance(target, dict):
            yield target


def _below(together: list[Node]) -> dict[str, list[Node]]:
    """Return the schemas that apply to the members of a value, by the member's name; `*`: to any other member."""
    named: dict[str, list[Node]] = {}
    others: list[Node] = []
    for schema in together:
        for key, label, child in subschemas(schema):
            if not isinstance(child, dict) or key in _HERE:
                continue
            if key == "properties":
                named.setdefault(label, []).append(child)
            else:
                others.append(child)
    return {**{label: [*children, *others] for label, children in named.items()}, _ANY: others}


def subschemas(schema: Node) -> Iterator[tuple[str, str, Any]]:
    """Yield the schemas directly within one: keyword, name or place, schema."""
    for key, value in schema.items():
        if key in ONE:
            yield key, "", value
        elif key in LIST:
            for i, child in enumerate(value):
                yield key, str(i), child
        elif key in NAMED:
            for name, child in value.items():
                yield key, name, child


def _linear(schema: Node) -> Node:
    """Return the schema without the patterns that cannot be matched in linear time: those the API checks alone."""
    made = copy.deepcopy(schema)
    stack: list[Any] = [made, *made.get("$defs", {}).values()]
    while stack:
        node = stack.pop()
        if not isinstance(node, dict):
            continue
        pattern = node.get("pattern")
        if isinstance(pattern, str) and not _is_linear(pattern):  # what is no text is told by the compiler
            del node["pattern"]
        named = node.get("patternProperties", {})
        for name in [name for name in named if not _is_linear(name)]:
            del named[name]
            node.pop("additionalProperties", None)  # a name that only the pattern admits is one of these now
            node.pop("unevaluatedProperties", None)
        stack += [child for _, _, child in subschemas(node)]
    return made


@lru_cache(maxsize=4096)
def _is_linear(pattern: str) -> bool:
    try:
        jsonschema_rs.Draft202012Validator({"pattern": pattern}, pattern_options=_LINEAR, offline=True)
    except ValueError:
        return False
    return True


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level := [
        child
        for parent in level
        if isinstance(parent, dict | list)
        for child in (parent.values() if isinstance(parent, dict) else parent)
    ]:
        depth += 1
    return depth
