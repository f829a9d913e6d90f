"""`mcpgw audit`: the log, through the API; and `verify`, which needs nothing but the files."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from mcpgw.audit.verify import verify as verify_log
from mcpgw.cli.api import DEFAULT_DIR, Api, path_of
from mcpgw.cli.options import Dir, admin_command, command, gathered, seconds
from mcpgw.cli.terminal import Out, table, when
from mcpgw.errors import UsageError

app = typer.Typer(no_args_is_help=True, help="Read and verify the log.")
FOLLOW_EVERY_S = 1.0
_COLUMNS = ("time (UTC)", "phase", "who", "what", "effect", "outcome", "because", "action")
_TIME = "A time (2026-01-31T12:00:00Z, Unix seconds), or how long ago (15m, 1h)."
FILTERS: dict[str, Any] = {
    "principal": Annotated[str | None, typer.Option(help="issuer|subject.")],
    "server": Annotated[str | None, typer.Option(help="Its slug.")],
    "tool": Annotated[str | None, typer.Option(help="Its own name.")],
    "effect": Annotated[str | None, typer.Option(help="allow, deny or hold.")],
    "outcome": Annotated[str | None, typer.Option(help="How it ended: ok, killed, denied, …")],
    "trace": Annotated[str | None, typer.Option(help="Trace id.")],
    "since": Annotated[str | None, typer.Option(help=_TIME)],
    "until": Annotated[str | None, typer.Option(help=_TIME)],
    "cursor": Annotated[str | None, typer.Option(help="Where the page before ended.")],
    "limit": Annotated[int | None, typer.Option(min=1, max=1000, help="Most records.", show_default="100")],
}


@app.command()
@admin_command
@gathered("filters", FILTERS)
def query(api: Api, out: Out, filters: Mapping[str, Any]) -> None:
    """Find records, newest first."""
    answer = api.get("/audit", **{name: _moment(name, value) for name, value in filters.items()})
    out.show(answer, table(_COLUMNS, map(_row, answer["records"])) if answer["records"] else "no record matches")
    if answer.get("cursor"):
        out.note(f"more: --cursor {answer['cursor']}")


@app.command()
@admin_command
def tail(
    api: Api,
    out: Out,
    *,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, max=1000, help="Records to begin with.")] = 20,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new ones until Ctrl-C.")] = False,
) -> None:
    """Show the newest records, oldest of them first; with --json one line each."""
    seen: set[tuple[str, int]] = set()
    since: float | None = None
    while True:
        found = api.get("/audit", limit=lines if since is None else 1000, since=since)["records"]
        fresh = [r for r in reversed(found) if (r["log"], r["index"]) not in seen]
        for record in fresh:
            out.show(record, "  ".join(str(cell) for cell in _row(record) if cell))
        if not follow:
            return
        # Logs are indexed one after the other: a record may appear a little after a later one of another log.
        since = max((r.get("time", 0.0) for r in found), default=time.time()) - FOLLOW_EVERY_S * 5
        seen |= {(r["log"], r["index"]) for r in fresh}
        time.sleep(FOLLOW_EVERY_S)


@app.command()
@admin_command
def show(api: Api, out: Out, action_id: Annotated[str, typer.Argument(metavar="ACTION")]) -> None:
    """Show all records of one action, whole."""
    answer = api.get(path_of("audit", action_id))
    out.show(answer, "\n".join(json.dumps(record, indent=2, ensure_ascii=False) for record in answer["records"]))


@app.command()
@admin_command
def checkpoint(api: Api, out: Out) -> None:
    """Print the newest signed checkpoint: keep it elsewhere, and `verify --checkpoint` finds any change since."""
    answer = api.get("/audit/checkpoint")
    out.show(answer, json.dumps(answer, ensure_ascii=False))


@app.command()
@command
def verify(
    out: Out,
    log: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="A data directory, or a copy of its audit/.")
    ] = None,
    *,
    kept: Annotated[
        Path | None, typer.Option("--checkpoint", metavar="FILE", help="A checkpoint that you kept.")
    ] = None,
    kill: Annotated[str | None, typer.Option(metavar="ID", help="Prove that this kill held.")] = None,
    directory: Dir = None,
) -> None:
    """Verify the log from its files alone, without a gateway. Exit status 1 when something does not hold."""
    report = verify_log(_audit_dir(log or directory or DEFAULT_DIR), checkpoint=kept, kill=kill)
    out.show(report.document(), report.text())
    if not report.ok:
        raise typer.Exit(1)


def _audit_dir(path: Path) -> Path:
    """Return the audit directory that `path` is, or holds."""
    for candidate in (path / "audit", path):
        if (candidate / "logs").is_dir():
            return candidate
    raise UsageError(f"{path} holds no log", fix="name a data directory, or a copy of its `audit` directory")


def _moment(name: str, value: Any) -> Any:
    """Return `1h` as the Unix time one hour ago; times as they are."""
    if name in {"since", "until"} and value[-1:] in "smhd":
        return time.time() - seconds(value)
    return value


def _row(record: Mapping[str, Any]) -> tuple[object, ...]:
    what = "/".join(str(record[part]) for part in ("server", "name") if record.get(part))
    return (
        when(record.get("time")),
        record["phase"],
        record.get("principal"),
        f"{record.get('verb') or ''} {what}".strip(),
        record.get("effect"),
        record.get("outcome"),
        ", ".join(record.get("reasons") or ()),
        record.get("action_id"),
    )
