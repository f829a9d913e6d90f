"""Schemas of an OpenAPI document as JSON Schema 2020-12 with definitions of their own, bounded.

What is said only of requests or only of answers, what 3.0 spells its own way, and references into the document become
plain JSON Schema; keywords that mean nothing there are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

from mcpgw.upstream.openapi_document import MAX_HOPS, Document, Schema
from mcpgw.upstream.openapi_problem import Unusable, step

MAX_DEPTH = 32  # of subschemas, as the scan of definitions has it
MAX_SUBSCHEMAS = 1000  # of one tool's input, or output

_PLAIN = frozenset(
    {
        *("title", "description", "default", "examples", "deprecated", "enum", "const", "type", "format"),
        *("multipleOf", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum"),
        *("maxLength", "minLength", "pattern", "contentEncoding", "contentMediaType"),
        *("maxItems", "minItems", "uniqueItems", "maxContains", "minContains"),
        *("maxProperties", "minProperties", "dependentRequired"),
    }
)
ONE = frozenset(
    {
        *("not", "if", "then", "else", "propertyNames", "additionalProperties", "unevaluatedProperties"),
        *("items", "contains", "unevaluatedItems"),
    }
)
LIST = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
NAMED = frozenset({"properties", "patternProperties", "dependentSchemas"})
# With these a reference no longer means a place in this document.
_REFUSED = frozenset({"$id", "$anchor", "$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor"})
_DIALECTS = ("https://json-schema.org/draft/2020-12/schema", "https://spec.openapis.org/oas/3.")
_SAID = ("title", "description", "default", "examples")
_NONE: frozenset[str] = frozenset()
_MISFITS = re.compile(r"[^A-Za-z0-9._-]+")


class Direction(Enum):
    """Which half of an exchange a schema is for; the value is the keyword that keeps a property out of it."""

    INPUT = "readOnly"
    OUTPUT = "writeOnly"


class Translation:
    """The schemas of one direction of one tool. `definitions` are the `$defs` that they refer to."""

    def __init__(self, document: Document, direction: Direction) -> None:
        self.definitions: dict[str, Schema] = {}
        self._document = document
        self._direction = direction
        self._names: dict[tuple[str, frozenset[str]], str] = {}
        self._owed: list[tuple[str, Any, str, frozenset[str]]] = []  # definitions that are named and not made
        self._count = 1  # the schema that all of these will stand in

    def schema(self, schema: Any, where: str, *, without: frozenset[str] = _NONE) -> Schema:
        """Return a schema of the document, without these properties at its top. Raises Unusable."""
        made = self._schema(schema, where, without, 2)
        while self._owed:
            name, target, place, hidden = self._owed.pop()
            self.definitions[name] = self._schema(target, place, hidden, 2)
        return made

    def definition(self, schema: Any, where: str, *, without: frozenset[str] = _NONE) -> dict[str, Any]:
        """Return a schema as `schema` does, at its top no reference but what that points at."""
        found, place = self._followed(schema, where)
        made = self.schema(found, place, without=without)
        return made if isinstance(made, dict) else {"not": {}} if made is False else {}

    def _schema(self, schema: Any, where: str, hidden: frozenset[str], depth: int) -> Schema:
        self._count += 1
        if self._count > MAX_SUBSCHEMAS:
            raise Unusable(where, f"is one of more than {MAX_SUBSCHEMAS} subschemas", "exclude the operation")
        if depth > MAX_DEPTH:
            raise Unusable(where, f"is nested deeper than {MAX_DEPTH} schemas", "exclude the operation")
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            raise Unusable(where, "is not a schema", "write an object")
        _refuse(schema, where)
        if "$ref" in schema:
            referred = self._reference(schema, where, hidden)
            if self._document.before_3_1:  # there what stands beside a reference is ignored
                return referred
        else:
            referred = {}
        hidden = hidden | self._hidden(schema, where)
        made = {**referred, **self._members(schema, where, hidden, depth)}
        if self._direction is Direction.INPUT:
            self._discriminate(made, schema, where)
        return _as_2020_12(made, schema) if self._document.before_3_1 else made

    def _members(self, schema: Mapping[str, Any], where: str, hidden: frozenset[str], depth: int) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for key, value in schema.items():
            place = step(where, key)
            if key in _PLAIN:
                made[key] = value
            elif key == "required":
                names = _list(value, place)
                made[key] = [name for name in names if not (isinstance(name, str) and name in hidden)]
            elif key in ONE:
                made[key] = self._schema(value, place, _NONE, depth + 1)
            elif key in LIST:
                passed = hidden if key == "allOf" else _NONE
                made[key] = [
                    self._schema(inner, step(place, i), passed, depth + 1)
                    for i, inner in enumerate(_list(value, place))
                ]
            elif key in NAMED:
                made[key] = {
                    name: self._schema(inner, step(place, name), _NONE, depth + 1)
                    for name, inner in _object(value, place).items()
                    if key != "properties" or name not in hidden
                }
        if "example" in schema and "examples" not in schema:
            made["examples"] = [schema["example"]]
        return made

    def _reference(self, schema: Mapping[str, Any], where: str, hidden: frozenset[str]) -> dict[str, Any]:
        target, place = self._document.target(schema["$ref"], where)
        hidden = hidden - self._hidden(target, place)
        name = self._names.get((place, hidden))
        if name is None:
            name = self._names[place, hidden] = self._free_name(place)
            self.definitions[name] = True
            self._owed.append((name, target, place, hidden))  # not now: references go as deep as they like
        return {"$ref": f"#/$defs/{name}"}

    def _free_name(self, place: str) -> str:
        short = place.removeprefix("/components/schemas/")
        name = stem = _MISFITS.sub("_", short).strip("_")[:64] or "schema"
        number = 1
        while name in self.definitions:
            number += 1
            name = f"{stem}_{number}"
        return name

    def _followed(self, schema: Any, where: str) -> tuple[Any, str]:
        """Return what a schema that is a bare reference stands for."""
        for _ in range(MAX_HOPS):
            if not isinstance(schema, dict) or "$ref" not in schema:
                return schema, where
            if not self._document.before_3_1 and schema.keys() - {"$ref", "description", "summary"}:
                return schema, where
            schema, where = self._document.target(schema["$ref"], where)
        raise Unusable(where, "is a reference without end", "let it point at a schema")

    def _hidden(self, schema: Any, where: str) -> frozenset[str]:
        """Return the properties that a schema, with all it is composed of, keeps for the other direction."""
        found: set[str] = set()
        seen: set[str] = set()
        parts = [(schema, where)]
        while parts:
            part, place = parts.pop()
            if not isinstance(part, dict) or place in seen:
                continue
            seen.add(place)
            if "$ref" in part:
                parts.append(self._document.target(part["$ref"], place))
                if self._document.before_3_1:
                    continue
            for name, inner in _members_of(part.get("properties")):
                if self._is_kept_out(inner, step(place, "properties", name)):
                    found.add(name)
            composed = part.get("allOf")
            if isinstance(composed, list):
                parts += [(inner, step(place, "allOf", i)) for i, inner in enumerate(composed)]
        return frozenset(found)

    def _is_kept_out(self, schema: Any, where: str) -> bool:
        for _ in range(MAX_HOPS):
            if not isinstance(schema, dict):
                return False
            if schema.get(self._direction.value) is True:
                return True
            if "$ref" not in schema:
                return False
            schema, where = self._document.target(schema["$ref"], where)
        return False

    def _discriminate(self, made: dict[str, Any], schema: Mapping[str, Any], where: str) -> None:
        """Let each alternative say which value of the discriminator is its own (4.8.25), where that is known."""
        said = schema.get("discriminator")
        name = said.get("propertyName") if isinstance(said, dict) else None
        if not isinstance(said, dict) or not isinstance(name, str):
            return
        for key in ("oneOf", "anyOf"):
            for i, raw in enumerate(schema.get(key) or []):
                if not isinstance(raw, dict) or "$ref" not in raw:
                    continue
                _, place = self._document.target(raw["$ref"], step(where, key, i))
                own = place.rpartition("/")[2]
                values = [v for v, meant in _members_of(said.get("mapping")) if meant in (own, raw["$ref"])]
                made[key][i] = {
                    **made[key][i],
                    "properties": {name: {"enum": [*values, *([own] if own not in values else [])]}},
                    "required": [name],
                }


def _refuse(schema: Mapping[str, Any], where: str) -> None:
    for key in schema:
        if key in _REFUSED:
            raise Unusable(step(where, key), "is not supported", "refer to schemas by `#/components/schemas/…`")
    if not str(schema.get("$schema", _DIALECTS[0])).startswith(_DIALECTS):
        raise Unusable(step(where, "$schema"), "is an unknown dialect", "use JSON Schema 2020-12")


def _as_2020_12(made: dict[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema of OpenAPI 3.0 (its 4.7.24) as 2020-12 spells it."""
    for bound in ("minimum", "maximum"):
        exclusive = "exclusive" + bound.capitalize()
        if made.pop(exclusive, False) is True and bound in made:
            made[exclusive] = made.pop(bound)
    if schema.get("nullable") is not True:
        return made
    if isinstance(made.get("type"), str):
        made["type"] = [made["type"], "null"]
        if isinstance(made.get("enum"), list) and None not in made["enum"]:
            made["enum"] = [*made["enum"], None]
        return made
    if not made.keys() & {"allOf", "anyOf", "oneOf", "$ref", "enum"}:
        return made  # of any type, so null too
    # 3.0.3 has it mean nothing without `type`; documents mean that the value may be null.
    said: dict[str, Any] = {key: made.pop(key) for key in _SAID if key in made}
    return {**said, "anyOf": [made, {"type": "null"}]}


def _members_of(value: Any) -> Iterable[tuple[str, Any]]:
    return value.items() if isinstance(value, dict) else ()


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise Unusable(where, "is not a list", "write a list")
    return value


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Unusable(where, "is not an object", "write an object")
    return value
