"""`mcpgw quickstart`: a gateway with everything in it, from one command."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer
import yaml

import mcpgw
from mcpgw.cli.announce import FAILED
from mcpgw.cli.api import DEFAULT_DIR, QUICKSTART
from mcpgw.cli.options import Dir, command
from mcpgw.cli.serve import CONFIG_NAME, Port, check_startable
from mcpgw.cli.terminal import Out
from mcpgw.config import Settings, load
from mcpgw.errors import UsageError
from mcpgw.policies.bundle import Bundle
from mcpgw.processes import bootstrap
from mcpgw.supervisor import run

SERVER = "notes"
USER = "admin"
"""The name of the first user."""


@command
def quickstart(out: Out, *, port: Port = None, directory: Dir = None) -> None:
    """Start a gateway with an example server, keys and policy; run again, it goes on where it was."""
    shown = directory or DEFAULT_DIR
    home = shown.expanduser().absolute()
    settings = _settings(home, port)
    keys = _known_keys(home)
    order = {
        "directory": str(home),
        "base_url": settings.server.base_url,
        "server": SERVER,
        "first": keys is None,
        "commands": commands(shown),
        "json": out.json,
        "supervisor": os.getpid(),
        **(keys or _new_keys(settings)),
    }
    announcer = _announce(order)
    code = run(settings)
    raise typer.Exit(code or int(announcer.poll() == FAILED))


def commands(directory: Path) -> dict[str, str]:
    """Return the four commands to try, as they work when pasted in this directory."""
    program = _program()
    where = "" if directory == DEFAULT_DIR else f" --dir {shlex.quote(str(directory))}"
    delete = '{"note_id":"welcome","confirm":{"note_id":"welcome"}}'
    return {
        "allowed": f"""{program} call {SERVER} read_note '{{"note_id":"welcome"}}'{where}""",
        "denied": f"{program} call {SERVER} delete_note '{delete}'{where}",
        "kill": f"{program} kill tool {SERVER}/read_note --reason 'drill'{where}",
        "verify": f"{program} audit verify{where}",
    }


def _settings(home: Path, port: int | None) -> Settings:
    """Return the settings of a data directory, made if need be once it is sure that a gateway can start there."""
    path = home / CONFIG_NAME
    over: dict[str, Any] = {"data_dir": str(home)}
    if port is not None:
        over["server"] = {"port": port or _free_port()}
    settings = load(path if path.is_file() else None, over)
    check_startable(settings)
    if path.is_file():
        return settings
    _create(home, settings.server.port)
    return load(path, over)


def _create(home: Path, port: int) -> None:
    """Make the data directory and its configuration. Raises UsageError."""
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(home.iterdir()):
            raise UsageError(f"{home} holds other things and no {CONFIG_NAME}", fix="choose a new directory: --dir")
        home.chmod(0o700)
        (home / CONFIG_NAME).write_text(_configuration(home, port), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot create {home}: {error.strerror}", fix="choose another directory: --dir") from None


def _configuration(home: Path, port: int) -> str:
    # The package's own parent as working directory: nothing in the caller's directory can take a module's place.
    notes = {
        "name": SERVER,
        "title": "Notes",
        "command": [sys.executable, "-m", "mcpgw.example.notes"],
        "cwd": str(Path(mcpgw.__file__).parents[1]),
    }
    tree = {"data_dir": str(home), "server": {"port": port}, "registry": {"stdio": [notes]}}
    made_by = "# Made by `mcpgw quickstart`. Every key: docs/reference/configuration.md\n"
    return made_by + yaml.safe_dump(tree, sort_keys=False)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _known_keys(home: Path) -> Mapping[str, Any] | None:
    """Return the keys and the first user of an earlier start, or None at the first."""
    path = home / QUICKSTART
    if not path.exists():
        return None
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        found = {name: str(known[name]) for name in ("agent_key", "admin_key")}
        return {**found, "sign_in": known.get("sign_in")}
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(f"cannot read the keys in {path}", fix="restore the file, or choose a new --dir") from None


def _new_keys(settings: Settings) -> Mapping[str, Any]:
    made = asyncio.run(bootstrap(settings, Bundle.own("example").files, USER))
    sign_in = {"name": USER, "password": made.password}
    return {"agent_key": made.agent_key, "admin_key": made.admin_key, "sign_in": sign_in}


def _announce(order: Mapping[str, Any]) -> subprocess.Popen[bytes]:
    """Start the process that waits for the gateway, approves the example server and tells where everything is.

    The keys go through a pipe: never on a command line, nor in the environment.
    """
    announcer = subprocess.Popen(
        [sys.executable, "-m", "mcpgw.cli.announce"], stdin=subprocess.PIPE, cwd=Path(mcpgw.__file__).parents[1]
    )
    if announcer.stdin is None:
        raise TypeError("a pipe was asked for")
    with announcer.stdin as pipe:
        pipe.write(json.dumps(order).encode())
    return announcer


def _program() -> str:
    """Return what to type to run this program from here."""
    if shutil.which("mcpgw"):
        return "mcpgw"
    started_as = Path(sys.argv[0])
    if started_as.name == "mcpgw" and os.access(started_as, os.X_OK):
        return shlex.quote(str(started_as.absolute()))
    return f"{shlex.quote(sys.executable)} -m mcpgw"
