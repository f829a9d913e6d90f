"""`mcpgw keys`: API keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.table import Table

from mcpgw.cli.api import Api, path_of
from mcpgw.cli.options import admin_command, gathered, seconds
from mcpgw.cli.terminal import Out, table, when
from mcpgw.errors import UsageError

app = typer.Typer(no_args_is_help=True, help="Create, list, revoke and rotate API keys.")
DURATION = "30s, 15m, 1h, 7d."
Id = Annotated[str, typer.Argument(metavar="ID")]
Why = Annotated[str, typer.Option("--reason", help="Why; it is recorded.")]
Roles = Annotated[list[str] | None, typer.Option("--role", help="Repeat for more.", show_default="agent")]
Team = Annotated[str | None, typer.Option(help="What policies see as principal.team.")]


LIMITS: dict[str, Any] = {
    "role": Roles,
    "team": Team,
    "expires": Annotated[float | None, typer.Option(parser=seconds, metavar="TIME", help=DURATION)],
    "scope": Annotated[list[str] | None, typer.Option(help="Only this of what its roles allow. Repeat for more.")],
    "server": Annotated[list[str] | None, typer.Option(help="Only this server. Repeat for more.")],
    "calls_per_minute": Annotated[int | None, typer.Option(min=1, help="Most calls in a minute, per worker.")],
    "concurrent": Annotated[int | None, typer.Option(min=1, help="Most calls at once, per worker.")],
}


@app.command()
@admin_command
@gathered("limits", LIMITS)
def create(
    api: Api,
    out: Out,
    subject: Annotated[str, typer.Argument(help="Who the key is for.")],
    *,
    limits: Mapping[str, Any],
) -> None:
    """Create an API key. It is shown once."""
    wanted = {
        "subject": subject,
        "roles": limits.get("role") or ["agent"],
        "team": limits.get("team"),
        "expires_in_s": limits.get("expires"),
        "scopes": limits.get("scope") or None,
        "servers": limits.get("server") or None,
        "calls_per_minute": limits.get("calls_per_minute"),
        "concurrent": limits.get("concurrent"),
    }
    answer = api.post("/keys", wanted)
    out.show(answer, f"{answer['key']}\n  id {answer['id']}; shown once: keep it now")


@app.command("list")
@admin_command
def list_keys(api: Api, out: Out) -> None:
    """List the API keys, never their secrets."""
    answer = api.get("/keys")
    out.show(answer, listed(answer["keys"], "id"))


@app.command()
@admin_command
def revoke(api: Api, out: Out, key_id: Id, *, reason: Why) -> None:
    """Revoke an API key: its next call is refused."""
    out.show(api.delete(path_of("keys", key_id), {"reason": reason}), f"revoked {key_id}")


@app.command()
@admin_command
def rotate(
    api: Api,
    out: Out,
    key_id: Annotated[str | None, typer.Argument(metavar="ID")] = None,
    *,
    overlap: Annotated[
        float | None, typer.Option(parser=seconds, metavar="TIME", help="For so long the old one lives on.")
    ] = None,
    vault: Annotated[
        bool, typer.Option("--vault", help="Not an API key: the key that secrets are sealed with.")
    ] = False,
    signing: Annotated[
        bool, typer.Option("--signing", help="Not an API key: the key that our tokens are signed with.")
    ] = False,
    at_once: Annotated[
        bool, typer.Option("--at-once", help="With --signing: what the old keys signed is void, too.")
    ] = False,
) -> None:
    """Replace an API key by a new one for the same subject. It is shown once."""
    if vault + signing + (key_id is not None) != 1 or at_once > signing:
        raise UsageError("give the ID of an API key, or --vault, or --signing", fix="mcpgw keys list shows the IDs")
    if signing:
        made = api.post("/signing-key/rotate", {"at_once": at_once})
        ended = "every token of before is void" if at_once else "tokens of before go on until they expire"
        out.show(made, f"tokens are signed with key {made['kid']} now; {ended}")
        return
    if key_id is None:
        done = api.post("/vault/rotate")
        out.show(done, f"the vault seals with key {done['key']} now; {done['records']} secrets were given it")
        return
    answer = api.post(path_of("keys", key_id, "rotate"), {"overlap_s": overlap or 0.0})
    old = f"ends in {overlap:g} s" if overlap else "is void"
    out.show(answer, f"{answer['key']}\n  id {answer['id']}; {key_id} {old}; shown once: keep it now")


def listed(holders: Sequence[Mapping[str, Any]], name: str) -> Table:
    """Return a table of keys or clients; `name` is the member that is their id."""
    rows = [
        (
            holder[name],
            holder["subject"],
            ", ".join(holder["roles"]),
            holder.get("team"),
            when(holder.get("created_at")),
            when(holder.get("expires_at")),
            when(holder.get("revoked_at")),
        )
        for holder in holders
    ]
    return table(("id", "subject", "roles", "team", "created (UTC)", "expires", "revoked"), rows)
