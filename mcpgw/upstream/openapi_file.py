"""The text of an OpenAPI document as JSON values, read so that no two readers differ on it, and bounded."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any, NoReturn

import yaml

from mcpgw.upstream.openapi_problem import Unusable

MAX_BYTES = 16 * 1024 * 1024
MAX_VALUES = 2_000_000  # with what YAML aliases repeat
MAX_DEPTH = 128


class _Yaml(yaml.CSafeLoader):
    """YAML with the decimal scalars of its core schema (YAML 1.2 §10.3): no dates, no `1:30`, no `no` for false.

    Keys are the text they are written as, each once. Merge keys, which YAML 1.2 has no more, are refused.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        found: dict[Hashable, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value in found or key.value == "<<":
                said = "a key that is there twice, is no text, or merges"
                raise yaml.constructor.ConstructorError(None, None, said, key.start_mark)
            found[key.value] = self.construct_object(value, deep=deep)
        return found


def _integer(loader: Any, node: yaml.ScalarNode) -> int:
    return int(node.value)


def _number(loader: Any, node: yaml.ScalarNode) -> float:
    return float(node.value)


_Yaml.yaml_implicit_resolvers = {}
for _tag, _form, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", list("-+.0123456789")),
):
    _Yaml.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_form})$"), _first)
_Yaml.add_constructor("tag:yaml.org,2002:int", _integer)
_Yaml.add_constructor("tag:yaml.org,2002:float", _number)


def read(path: Path) -> dict[str, Any]:
    """Return the object in a file: JSON if its name ends so, else YAML. Raises Unusable."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise Unusable("", f"cannot be read: {error.strerror}", "name a file that the gateway may read") from None
    if len(raw) > MAX_BYTES:
        raise Unusable("", f"is larger than {MAX_BYTES} bytes", "take out what is not offered")
    try:
        text = raw.decode("utf-8-sig")
        tree = _json(text) if path.suffix.lower() == ".json" else yaml.load(text, _Yaml)  # noqa: S506 - a safe loader
    except yaml.MarkedYAMLError as error:
        line = f" (line {error.problem_mark.line + 1})" if error.problem_mark else ""
        raise Unusable("", f"is not YAML as JSON has it{line}: {error.problem}", "correct it there") from None
    except (ValueError, yaml.YAMLError):
        raise Unusable("", "is not valid JSON or YAML in UTF-8, or has a key twice", "correct it") from None
    except RecursionError:
        raise Unusable("", f"is nested deeper than {MAX_DEPTH} levels", "flatten it") from None
    _bounded(tree)
    if not isinstance(tree, dict):
        raise Unusable("", "is not an object", "begin it with `openapi: 3.1.0`")
    return tree


def _json(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_unique, parse_constant=_not_json)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError
    return found


def _not_json(_constant: str) -> NoReturn:
    raise ValueError


def _bounded(tree: Any) -> None:
    """Raise Unusable unless the document is a tree of JSON values, of bounded size and depth."""
    level, count = [tree], 0
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below.extend(value.values())
            elif isinstance(value, list):
                below.extend(value)
            elif not (value is None or isinstance(value, str | int) or (type(value) is float and math.isfinite(value))):
                raise Unusable("", "has a value that JSON does not have", "write it as text, in quotes")
            if count + len(below) > MAX_VALUES:
                raise Unusable("", f"has more than {MAX_VALUES} values", "take out what is not offered")
        count += len(below)
        if not below:
            return
        level = below
    raise Unusable("", f"is nested deeper than {MAX_DEPTH} levels", "flatten it")
