"""`mcpgw secrets`: named secrets towards upstreams, kept in the gateway's vault."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from mcpgw.cli.api import Api, path_of
from mcpgw.cli.options import admin_command
from mcpgw.cli.terminal import Out, table
from mcpgw.errors import UsageError

app = typer.Typer(no_args_is_help=True, help="Keep secrets for servers in the vault: `vault:NAME`.")
Name = Annotated[str, typer.Argument(metavar="NAME", help="For example github-token.")]


@app.command("set")
@admin_command
def set_secret(
    api: Api,
    out: Out,
    name: Name,
    *,
    origin: Annotated[list[str], typer.Option("--for", metavar="URL", help="Where it may be sent. Repeat for more.")],
) -> None:
    """Keep a secret, which is read from standard input."""
    value = sys.stdin.read().strip()
    if not value:
        raise UsageError("standard input holds no secret", fix=f"mcpgw secrets set {name} --for URL < FILE")
    answer = api.put(path_of("secrets", name), {"value": value, "origins": origin})
    out.show(answer, f"refer to it as vault:{name}; it is sent to {', '.join(answer['origins'])} alone")


@app.command("list")
@admin_command
def list_secrets(api: Api, out: Out) -> None:
    """List the names, and where each secret may be sent."""
    answer = api.get("/secrets")
    rows = [(secret["name"], ", ".join(secret["origins"])) for secret in answer["secrets"]]
    out.show(answer, table(("name", "sent to"), rows) if rows else "there are no secrets")


@app.command()
@admin_command
def remove(api: Api, out: Out, name: Name) -> None:
    """Remove a secret. Servers that need it cannot be called any more."""
    out.show(api.delete(path_of("secrets", name)), f"removed {name}")
