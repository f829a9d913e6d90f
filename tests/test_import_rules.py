"""The directions of imports, and that they are looked at in all packages, also in those that live elsewhere."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ("mcpgw", "registry", "policies", "auth", "pyproject.toml")


def lint(checkout: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    environ = {"PYTHONPATH": str(checkout), "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, cwd=checkout, env=environ, capture_output=True, text=True, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(ROOT / name, tmp_path / name)
    return tmp_path


@pytest.mark.requirement("imports:directions")
def test_every_contract_is_kept() -> None:
    result = lint(ROOT)
    assert result.returncode == 0, result.stdout
    assert " 0 broken." in result.stdout


BREACHES = [
    ("policies/limits.py", "import mcpgw.edge.asgi"),
    ("policies/limits.py", "import mcpgw.auth.keys"),
    ("auth/keys.py", "import mcpgw.store.sql"),
    ("registry/digest.py", "import mcpgw.wiring"),
    ("auth/scopes.py", "import starlette"),
    ("mcpgw/edge/asgi.py", "import mcpgw.upstream.own"),
    ("mcpgw/upstream/own.py", "import mcpgw.edge.asgi"),
    ("mcpgw/judge.py", "import msgspec"),
    ("mcpgw/running.py", "import mcpgw.world"),
    ("mcpgw/domain/action.py", "import pydantic"),
    ("mcpgw/ports/path.py", "import mcpgw.config"),
    ("mcpgw/errors.py", "import mcpgw.judge"),
    ("mcpgw/addresses.py", "import mcpgw.upstream.own"),
    ("mcpgw/dialling.py", "import mcpgw.auth.fetch"),
    ("mcpgw/audit/journal.py", "import mcpgw.store.sql"),
    ("mcpgw/edge/guard.py", "import sqlalchemy"),
    ("mcpgw/upstream/router.py", "import authlib"),
    ("mcpgw/pipeline.py", "import mcp"),
]


@pytest.mark.requirement("imports:directions")
@pytest.mark.parametrize(("module", "line"), BREACHES, ids=[f"{module}: {line}" for module, line in BREACHES])
def test_a_breach_is_found_in_every_package(copy: Path, module: str, line: str) -> None:
    path = copy / module
    path.write_text(path.read_text(encoding="utf-8") + f"\n{line}\n", encoding="utf-8")
    result = lint(copy)
    assert result.returncode == 1, f"nobody minds `{line}` in {module}"
    assert module.removesuffix(".py").rpartition("/")[2] in result.stdout
