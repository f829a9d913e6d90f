"""`mcpgw kill`, `mcpgw release`, `mcpgw kills`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from mcpgw.cli.api import Api, path_of
from mcpgw.cli.options import admin_command, seconds
from mcpgw.cli.terminal import Out, table, when
from mcpgw.domain import Mode, Scope

Why = Annotated[str, typer.Option("--reason", help="Why; it is recorded.")]


@admin_command
def kill(
    api: Api,
    out: Out,
    scope: Annotated[Scope, typer.Argument(help="What to stop by.")],
    selector: Annotated[str, typer.Argument(help="server, server@1.2.0, server/tool, issuer|subject, …; global: *")],
    *,
    reason: Why,
    mode: Annotated[Mode, typer.Option(help="hard also cuts what is running; drain lets it finish.")] = Mode.HARD,
    expires: Annotated[float | None, typer.Option(parser=seconds, metavar="TIME", help="30s, 15m, 1h, 7d.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing; show what would match.")] = False,
) -> None:
    """Throw a kill switch: returns when every worker has applied it."""
    answer = api.post(
        "/kill-switches",
        {
            "scope": scope.value,
            "selector": selector,
            "reason": reason,
            "mode": mode.value,
            "expires_in_s": expires,
            "dry_run": dry_run,
        },
    )
    out.show(answer, _preview(answer) if dry_run else _thrown(answer, f"{scope.value} {selector}"))
    if answer.get("missing"):
        raise typer.Exit(1)


@admin_command
def release(api: Api, out: Out, switch: Annotated[str, typer.Argument(metavar="ID")], *, reason: Why) -> None:
    """Release a kill switch."""
    answer = api.delete(path_of("kill-switches", switch), {"reason": reason})
    missing = answer.get("missing")
    out.show(answer, f"released {switch}" + (f"; not yet by {', '.join(missing)}" if missing else ""))
    if missing:
        raise typer.Exit(1)


@admin_command
def kills(
    api: Api, out: Out, *, released: Annotated[bool, typer.Option("--all", help="Released ones too.")] = False
) -> None:
    """List kill switches."""
    answer = api.get("/kill-switches", include_released=released)
    rows = [
        (k["id"], k["scope"], k["selector"], k["mode"], k["reason"], k["thrown_by"], when(k["thrown_at"]), _state(k))
        for k in answer["kill_switches"]
    ]
    columns = ("id", "scope", "selector", "mode", "reason", "thrown by", "at (UTC)", "state")
    out.show(answer, table(columns, rows) if rows else "no kill switch is thrown")


def _thrown(answer: dict[str, Any], what: str) -> str:
    missing = answer.get("missing") or []
    sent = answer.get("may_have_taken_effect") or []
    lines = [
        f"killed {what}: {answer['id']}, epoch {answer['epoch']}",
        f"  applied by {_workers(answer)} in {answer.get('took_ms', 0):.1f} ms; "
        f"running calls: {answer.get('cancelled', 0)} cut, {answer.get('finished', 0)} left to finish",
    ]
    if sent:
        lines.append(f"  may have taken effect upstream: {', '.join(sent)}")
    if missing:
        lines.append(f"  NOT applied by {', '.join(missing)}: calls through them may still go out")
    lines.append(f"  prove it: mcpgw audit verify --kill {answer['id']}")
    lines.append(f"  undo it: mcpgw release {answer['id']} --reason '…'")
    return "\n".join(lines)


def _workers(answer: dict[str, Any]) -> str:
    count = len(answer.get("acknowledged") or [])
    return f"{count} worker{'s' * (count != 1)}"


def _preview(answer: dict[str, Any]) -> str:
    tools = answer.get("tools") or []
    return "\n".join(
        [
            "nothing changed; the switch would stop:",
            *(f"  {tool}" for tool in tools),
            f"  {len(tools)} tools, {len(answer.get('running_here') or [])} running calls",
        ]
    )


def _state(switch: dict[str, Any]) -> str:
    if switch.get("released_at"):
        return f"released by {switch.get('released_by')}: {switch.get('release_reason')}"
    expires = switch.get("expires_at")
    return f"until {when(expires)}" if expires else "in force"
