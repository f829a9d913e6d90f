"""What we depend on: little, declared, explained, and used."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("mcpgw", "registry", "policies", "auth")
MAX_RUNTIME_DEPENDENCIES = 25
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# Present for what others do with them: SQLAlchemy loads the driver of its URL, uvicorn its loop.
# The authorization-code grant will stand on it (ADR 6); its JOSE half, joserfc, is in use.
FOR_LATER = {"authlib"}
LOADED_BY_NAME = {"aiosqlite"}


def name_of(requirement: str) -> str:
    """Return the name of a distribution as the index spells it: lower case, dashes."""
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match is not None
    return re.sub(r"[-_.]+", "-", match.group()).lower()


DEPENDENCIES = sorted(map(name_of, PROJECT["dependencies"]))


def imported() -> dict[str, set[str]]:
    """Return the modules of other projects that ours import, each with the files that do."""
    found: dict[str, set[str]] = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            if any(parent.is_symlink() for parent in path.parents):
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                    names = [node.module]
                else:
                    continue
                for name in names:
                    found.setdefault(name.split(".")[0], set()).add(str(path.relative_to(ROOT)))
    return {name: files for name, files in found.items() if name not in sys.stdlib_module_names | {"mcpgw"}}


@pytest.mark.requirement("dependencies:few")
def test_there_are_few_runtime_dependencies() -> None:
    assert len(DEPENDENCIES) == len(set(DEPENDENCIES))
    assert len(DEPENDENCIES) <= MAX_RUNTIME_DEPENDENCIES


@pytest.mark.requirement("dependencies:explained")
def test_every_dependency_is_explained() -> None:
    page = (ROOT / "docs" / "reference" / "dependencies.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("|") and "---" not in line]
    explained = {name_of(name) for row in rows[1:] for name in re.findall(r"[A-Za-z0-9._-]+", row)}
    assert [name for name in DEPENDENCIES if name not in explained] == []
    development = [name_of(requirement) for requirement in PROJECT["optional-dependencies"]["dev"]]
    tests = page.rpartition("For tests:")[2]
    assert [name for name in development if name not in tests and not name.startswith("types-")] == []


@pytest.mark.requirement("dependencies:explained")
def test_no_row_explains_what_is_not_there() -> None:
    page = (ROOT / "docs" / "reference" / "dependencies.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("|") and "---" not in line]
    named = {name_of(name) for row in rows[1:] for name in re.findall(r"[A-Za-z0-9._-]+", row.partition("(")[0])}
    assert named - set(DEPENDENCIES) == set()


@pytest.mark.requirement("dependencies:used")
def test_everything_that_is_imported_is_declared_and_everything_declared_is_imported() -> None:
    distributions = packages_distributions()
    used: dict[str, set[str]] = {}
    for module, files in imported().items():
        for distribution in distributions.get(module, [module]):
            used.setdefault(name_of(distribution), set()).update(files)
    # SQLModel is declared for both: it is SQLAlchemy's models and pins its release.
    brought = {"sqlalchemy": "sqlmodel", "mcp-types": "mcp"}
    known = {brought.get(name, name): files for name, files in used.items()}
    assert {name: files for name, files in known.items() if name not in DEPENDENCIES} == {}
    assert set(DEPENDENCIES) - set(known) - LOADED_BY_NAME - FOR_LATER == set()


@pytest.mark.requirement("dependencies:pinned")
def test_the_one_rego_engine_is_pinned_and_nothing_comes_from_elsewhere() -> None:
    assert "gordon-to-regorus==0.13.0" in PROJECT["dependencies"]
    assert [r for r in PROJECT["dependencies"] if "@" in r] == []
