"""`mcpgw serve` and `mcpgw check-config`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from mcpgw.cli.api import DEFAULT_DIR
from mcpgw.cli.checks import problems
from mcpgw.cli.options import Dir, command
from mcpgw.cli.terminal import Out
from mcpgw.cluster import live_slots
from mcpgw.config import Settings, load
from mcpgw.errors import UsageError
from mcpgw.supervisor import listening, run

CONFIG_NAME = "mcpgw.yaml"
Config = Annotated[
    Path | None,
    typer.Option("--config", envvar="MCPGW_CONFIG", help="YAML file.", show_default="mcpgw.yaml in the data directory"),
]
Port = Annotated[int | None, typer.Option(help="Port to bind.", min=0, max=65535, show_default="8080")]


@command
def serve(
    out: Out,
    *,
    config: Config = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes.", min=1, max=64, show_default="1")] = None,
    host: Annotated[str | None, typer.Option(help="Address to bind.", show_default="127.0.0.1")] = None,
    port: Port = None,
    directory: Dir = None,
    dev_no_auth: Annotated[
        bool, typer.Option("--dev-no-auth", help="Everyone may do everything; loopback only.")
    ] = False,
) -> None:
    """Start the gateway, with safe defaults when there is no configuration."""
    server: dict[str, Any] = {"workers": workers, "host": host, "port": port, "dev_no_auth": dev_no_auth or None}
    file, settings = settings_of(config, directory, {k: v for k, v in server.items() if v is not None})
    check_startable(settings)
    out.note(f"mcpgw on {settings.server.base_url}, data in {settings.data_dir}, configuration: {file or 'defaults'}")
    raise typer.Exit(run(settings))


@command
def check_config(out: Out, *, config: Config = None, directory: Dir = None) -> None:
    """Load everything a start would; print each problem with file, key and fix. Exit status 1 when there is one."""
    file = config_file(config, directory)
    found = []
    try:
        file, settings = settings_of(config, directory, {})
        found = list(problems(settings, str(file or "configuration")))
    except UsageError as error:
        found = [{"problem": line, "fix": ""} for line in error.message.splitlines()]
    lines = [f"{p['problem']}" + (f"\n  fix: {p['fix']}" if p["fix"] else "") for p in found]
    where = str(file) if file else "no file: defaults"
    out.show(
        {"ok": not found, "file": str(file) if file else None, "problems": found}, "\n".join(lines) or f"ok ({where})"
    )
    if found:
        raise typer.Exit(1)


def check_startable(settings: Settings) -> None:
    """Refuse, before anything is made, a port or a data directory that is in use. Raises UsageError."""
    with listening(settings):
        pass
    if list(live_slots(settings.data_dir / "run")):
        raise UsageError(f"another gateway runs on {settings.data_dir}", fix="stop it, or choose another: --dir")


def config_file(config: Path | None, directory: Path | None) -> Path | None:
    """Return the configuration to read: the one given, else the data directory's own, else none."""
    own = (directory or DEFAULT_DIR) / CONFIG_NAME
    return config or (own if own.is_file() else None)


def settings_of(config: Path | None, directory: Path | None, server: dict[str, Any]) -> tuple[Path | None, Settings]:
    """Return the file read and the settings; a data directory's own file is for that directory, also when moved."""
    file = config_file(config, directory)
    data_dir = directory if directory or config else (DEFAULT_DIR if file else None)
    over: dict[str, Any] = {"server": server} if server else {}
    if data_dir is not None:
        over["data_dir"] = os.fspath(data_dir)
    return file, load(file, over)
