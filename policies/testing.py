"""`mcpgw policy test`: the `test_*` rules of a policy, as `opa test` runs them, and its vectors of input and answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from mcpgw.errors import UsageError
from mcpgw.policies.bundle import TEST_SUFFIX, Bundle
from mcpgw.policies.lint import cycles
from mcpgw.policies.local import Compiled, LocalEngine, compiled, evaluated, refused, syntax
from mcpgw.policies.output import shown
from mcpgw.policies.tree import Policy

VECTORS_SUFFIX = ".vectors.json"
_MAX_INPUT_BYTES = 1024 * 1024


class Expected(msgspec.Struct, forbid_unknown_fields=True):
    """What a vector wants of a decision; what is left out may be anything."""

    effect: str
    reasons: list[str] | None = None
    message: str | None = None
    obligations: list[dict[str, Any]] | None = None


class Vector(msgspec.Struct, forbid_unknown_fields=True):
    """One entry of a `*.vectors.json` file."""

    name: str
    input: dict[str, Any]
    expect: Expected


@dataclass(frozen=True, slots=True)
class Result:
    """One test: what it is called, in which file, whether it passed, and if not, why."""

    file: str
    name: str
    passed: bool
    why: str = ""


def run(where: Path) -> list[Result]:
    """Test the policy in a directory, or in one .rego file with the tests and vectors that are called like it.

    Raises UsageError for files that cannot be read, InvalidRequest for a policy or tests that do not compile.
    """
    source = compiled(Bundle.read(where), _MAX_INPUT_BYTES)
    tests, vectors = _files(where)
    return [*_rules(source, tests), *(r for path in vectors for r in _vectors(source, path))]


def vectors_of(path: Path) -> list[Vector]:
    """Return the vectors of a file. Raises UsageError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[Vector])
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", fix="check path and mode") from None
    except msgspec.DecodeError as error:
        fix = 'write [{"name": …, "input": {…}, "expect": {"effect": …, "reasons": […]}}, …]'
        raise UsageError(f"{path}: {error}", fix=fix) from None


def _files(where: Path) -> tuple[list[Path], list[Path]]:
    if where.is_dir():
        return sorted(where.rglob(f"*{TEST_SUFFIX}")), sorted(where.rglob(f"*{VECTORS_SUFFIX}"))
    beside = [where.with_name(where.stem + suffix) for suffix in (TEST_SUFFIX, VECTORS_SUFFIX)]
    return [p for p in beside[:1] if p.is_file()], [p for p in beside[1:] if p.is_file()]


def _rules(source: Compiled, paths: list[Path]) -> Iterator[Result]:
    if not paths:
        return
    tests = tuple((path.name, path.read_text(encoding="utf-8")) for path in paths)
    policy = Policy(syntax((*source.bundle.modules, *tests)))
    found = cycles(policy)
    if found:
        raise refused(found)
    files = {name for name, _ in tests}
    named = sorted({(rule.module.file, rule.path) for rule in policy.rules if rule.name.startswith("test_")})
    for file, path in named:
        if file in files:
            name = ".".join(path)
            answer = evaluated(source, tests, f"data.{name}")
            passed = answer == "true"
            yield Result(file, name, passed, "" if passed else f"it is {answer or 'an error'}, and must be true")


def _vectors(source: Compiled, path: Path) -> Iterator[Result]:
    engine = LocalEngine(source)
    for vector in vectors_of(path):
        got = shown(engine.evaluate(msgspec.json.encode(vector.input)))
        wanted = {key: value for key, value in msgspec.to_builtins(vector.expect).items() if value is not None}
        wrong = [f"{key} is {got[key]}, not {value}" for key, value in wanted.items() if got[key] != value]
        yield Result(path.name, vector.name, not wrong, "; ".join(wrong))
