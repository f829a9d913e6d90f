"""`mcpgw keys` and `mcpgw clients`: credentials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.table import Table

from mcpgw.cli.api import Api, path_of
from mcpgw.cli.options import admin_command, seconds
from mcpgw.cli.terminal import Out, table, when

app = typer.Typer(no_args_is_help=True, help="Create, list, revoke and rotate API keys.")
clients = typer.Typer(no_args_is_help=True, help="Create, list and revoke OAuth clients.")
Id = Annotated[str, typer.Argument(metavar="ID")]
Why = Annotated[str, typer.Option("--reason", help="Why; it is recorded.")]
Roles = Annotated[list[str] | None, typer.Option("--role", help="Repeat for more.", show_default="agent")]
Team = Annotated[str | None, typer.Option(help="What policies see as principal.team.")]


@app.command()
@admin_command
def create(
    api: Api,
    out: Out,
    subject: Annotated[str, typer.Argument(help="Who the key is for.")],
    *,
    role: Roles = None,
    team: Team = None,
    expires: Annotated[float | None, typer.Option(parser=seconds, metavar="TIME", help="30s, 15m, 1h, 7d.")] = None,
) -> None:
    """Create an API key. It is shown once."""
    answer = api.post("/keys", {"subject": subject, "roles": role or ["agent"], "team": team, "expires_in_s": expires})
    out.show(answer, f"{answer['key']}\n  id {answer['id']}; shown once: keep it now")


@app.command("list")
@admin_command
def list_keys(api: Api, out: Out) -> None:
    """List the API keys, never their secrets."""
    answer = api.get("/keys")
    out.show(answer, _listed(answer["keys"], "id"))


@app.command()
@admin_command
def revoke(api: Api, out: Out, key_id: Id, *, reason: Why) -> None:
    """Revoke an API key: its next call is refused."""
    out.show(api.delete(path_of("keys", key_id), {"reason": reason}), f"revoked {key_id}")


@app.command()
@admin_command
def rotate(api: Api, out: Out, key_id: Id) -> None:
    """Replace an API key by a new one for the same subject. It is shown once."""
    answer = api.post(path_of("keys", key_id, "rotate"))
    out.show(answer, f"{answer['key']}\n  id {answer['id']}; {key_id} is void; shown once: keep it now")


@clients.command("list")
@admin_command
def list_clients(api: Api, out: Out) -> None:
    """List the OAuth clients, never their secrets."""
    answer = api.get("/clients")
    out.show(answer, _listed(answer["clients"], "client_id"))


@clients.command("create")
@admin_command
def create_client(
    api: Api,
    out: Out,
    client_id: Id,
    *,
    subject: Annotated[str | None, typer.Option(help="Who its tokens are for.", show_default="the id")] = None,
    role: Roles = None,
    team: Team = None,
) -> None:
    """Create an OAuth client for the client credentials grant. Its secret is shown once."""
    answer = api.post(
        "/clients", {"client_id": client_id, "subject": subject or client_id, "roles": role or ["agent"], "team": team}
    )
    out.show(answer, f"{answer['client_secret']}\n  of client {client_id}; shown once: keep it now")


@clients.command("revoke")
@admin_command
def revoke_client(api: Api, out: Out, client_id: Id, *, reason: Why) -> None:
    """Revoke an OAuth client, and with it every token that it holds."""
    out.show(api.delete(path_of("clients", client_id), {"reason": reason}), f"revoked {client_id}")


def _listed(holders: Sequence[Mapping[str, Any]], name: str) -> Table:
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
