"""The wheel: built from a clean export, complete, and safe to run in a directory full of traps."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from email.parser import HeaderParser
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Where each package of the wheel lives in the checkout.
FOLDERS: Mapping[str, str] = {
    "mcpgw/registry/": "registry/",
    "mcpgw/policies/": "policies/",
    "mcpgw/auth/": "auth/",
    "mcpgw/": "mcpgw/",
}


def sources() -> list[str]:
    """Return every file of the checkout that git would take, tracked or new."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return sorted(name for name in names if name and os.path.lexists(ROOT / name))


def in_wheel(source: str) -> str | None:
    """Return where a file of the checkout stands in the wheel; None when it is no part of a package."""
    if (ROOT / source).is_symlink():
        return None
    return next((inside + source.removeprefix(at) for inside, at in FOLDERS.items() if source.startswith(at)), None)


EXPECTED = {inside: source for source in sources() if (inside := in_wheel(source)) is not None}
MODULES = sorted(
    inside.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    for inside in EXPECTED
    if inside.endswith(".py")
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from an export of the checkout: no caches, no `build/`, nothing that git ignores."""
    export = tmp_path_factory.mktemp("export")
    for source in sources():
        (export / source).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / source, export / source, follow_symlinks=False)
    # An old setuptools cannot read our pyproject.toml; then the builder fetches the one that it asks for.
    recent = int(version("setuptools").split(".")[0]) >= 77
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(out), *(["--no-isolation"] if recent else [])]
    built = subprocess.run(command, cwd=export, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    [found] = out.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def contents(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*command, str(wheel)], check=True)
    return target


@pytest.fixture
def trap(tmp_path: Path) -> Iterator[Path]:
    """A working directory whose modules have the names of ours: whoever imports one of them ends there."""
    for name in ("auth", "policies", "registry"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('hijacked')\n")
    yield tmp_path


def run(installed: Path, trap: Path, *arguments: str) -> str:
    """Run Python in the trap with the installed wheel in front of everything else; return what it prints."""
    environ = {**os.environ, "PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1", "NO_COLOR": "1"}
    ran = subprocess.run(
        [sys.executable, *arguments], cwd=trap, env=environ, capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.mark.requirement("packaging:complete")
def test_every_module_and_every_data_file_of_the_checkout_is_in_the_wheel(contents: list[str]) -> None:
    missing = {source for inside, source in EXPECTED.items() if inside not in contents}
    assert missing == set()


@pytest.mark.requirement("packaging:complete")
def test_nothing_else_is_in_the_wheel(contents: list[str]) -> None:
    """No bare `auth`, no tests, and no `.pth` file, which would run at every start of Python."""
    assert {name.split("/")[0].split("-")[0] for name in contents} == {"mcpgw", "mcpgw_server"}
    assert [name for name in contents if name.endswith(".pth")] == []
    packaged = {name for name in contents if name.startswith("mcpgw/")}
    assert packaged - set(EXPECTED) == set()


@pytest.mark.requirement("packaging:metadata")
def test_the_wheel_says_what_it_is(wheel: Path, contents: list[str]) -> None:
    with zipfile.ZipFile(wheel) as archive:
        [metadata] = [name for name in contents if name.endswith(".dist-info/METADATA")]
        told = HeaderParser().parsestr(archive.read(metadata).decode())
        [commands] = [name for name in contents if name.endswith(".dist-info/entry_points.txt")]
        entry_points = configparser.ConfigParser()
        entry_points.read_string(archive.read(commands).decode())
    assert told["Name"] == "mcpgw-server"
    assert told["Requires-Python"] == ">=3.11"
    assert told["License-Expression"] == "Apache-2.0"
    assert [name for name in contents if name.endswith("/LICENSE")]
    assert dict(entry_points["console_scripts"]) == {"mcpgw": "mcpgw.cli.main:main"}
    assert "mcpgw/py.typed" in contents


@pytest.mark.requirement("packaging:no-hijack")
def test_every_module_is_imported_from_the_wheel_whatever_lies_in_the_working_directory(
    installed: Path, trap: Path
) -> None:
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[2:]:\n"
        "    module = importlib.import_module(name)\n"
        "    assert module.__file__.startswith(sys.argv[1]), module.__file__\n"
        "bare = {'auth', 'policies', 'registry'} & set(sys.modules)\n"
        "assert not bare, bare\n"
        "print(len(sys.argv) - 2)\n"
    )
    assert "mcpgw.auth.verifier" in MODULES
    assert "mcpgw.policies.limits" in MODULES
    names = [name for name in MODULES if not name.endswith("__main__")]
    assert run(installed, trap, "-c", code, str(installed), *names).split() == [str(len(names))]


@pytest.mark.requirement("packaging:no-hijack")
def test_the_command_runs_from_the_wheel_in_a_directory_full_of_traps(installed: Path, trap: Path) -> None:
    assert "quickstart" in run(installed, trap, "-m", "mcpgw", "--help")
