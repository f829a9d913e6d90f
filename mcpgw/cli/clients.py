"""`mcpgw clients`: OAuth clients."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from mcpgw.cli.api import Api, path_of
from mcpgw.cli.keys import Id, Roles, Team, Why, listed
from mcpgw.cli.options import admin_command, gathered
from mcpgw.cli.terminal import Out
from mcpgw.errors import UsageError

app = typer.Typer(no_args_is_help=True, help="Create, list and revoke OAuth clients.")


@app.command("list")
@admin_command
def list_clients(api: Api, out: Out) -> None:
    """List the OAuth clients, never their secrets."""
    answer = api.get("/clients")
    out.show(answer, listed(answer["clients"], "client_id"))


TERMS: dict[str, Any] = {
    "subject": Annotated[str | None, typer.Option(help="Who its tokens are for.", show_default="the id")],
    "role": Roles,
    "team": Team,
    "title": Annotated[str | None, typer.Option(help="What people are told that it is.")],
    "redirect_uri": Annotated[
        list[str] | None, typer.Option(help="For users, who are sent back there. Repeat for more.")
    ],
    "grant": Annotated[
        list[str] | None,
        typer.Option(help="A grant type. Repeat for more.", show_default="by --redirect-uri, else client_credentials"),
    ],
    "auth_method": Annotated[
        str | None, typer.Option(help="client_secret_basic, client_secret_post, private_key_jwt or none.")
    ],
    "jwks": Annotated[Path | None, typer.Option(help="File with its public keys, for private_key_jwt.")],
    "scope": Annotated[list[str] | None, typer.Option(help="Only this. Repeat for more.")],
}


@app.command()
@admin_command
@gathered("terms", TERMS)
def create(api: Api, out: Out, client_id: Id, *, terms: Mapping[str, Any]) -> None:
    """Create an OAuth client. Its secret, if it has one, is shown once."""
    redirects, jwks = terms.get("redirect_uri"), terms.get("jwks")
    grants = terms.get("grant") or (["authorization_code", "refresh_token"] if redirects else ["client_credentials"])
    acts_itself = "client_credentials" in grants
    answer = api.post(
        "/clients",
        {
            "client_id": client_id,
            "subject": terms.get("subject") or (client_id if acts_itself else None),
            "roles": terms.get("role") or (["agent"] if acts_itself else None),
            "team": terms.get("team"),
            "title": terms.get("title"),
            "grants": grants,
            "auth_method": terms.get("auth_method") or ("private_key_jwt" if jwks else None),
            "redirect_uris": redirects or None,
            "scopes": terms.get("scope") or None,
            "jwks": None if jwks is None else _keys(jwks),
        },
    )
    secret = answer.get("client_secret")
    kept = f"{secret}\n  of client {client_id}; shown once: keep it now" if secret else f"created {client_id}"
    out.show(answer, kept)


@app.command()
@admin_command
def revoke(api: Api, out: Out, client_id: Id, *, reason: Why) -> None:
    """Revoke an OAuth client, and with it every token that it holds."""
    out.show(api.delete(path_of("clients", client_id), {"reason": reason}), f"revoked {client_id}")


def _keys(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UsageError(f"cannot read {file} as JSON", fix="a JWK set: RFC 7517 §5") from None
    if not isinstance(document, dict):
        raise UsageError(f"{file} is no JSON object", fix="a JWK set: RFC 7517 §5")
    return document
