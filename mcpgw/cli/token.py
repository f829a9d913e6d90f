"""`mcpgw token`: an access token for a client of the gateway's authorization server."""

from __future__ import annotations

import base64
import sys
from typing import Annotated
from urllib.parse import quote_plus, urlencode

import typer

from mcpgw.cli.api import find, request
from mcpgw.cli.options import Dir, Url, command
from mcpgw.cli.terminal import Out
from mcpgw.errors import Unauthenticated, UsageError

_METADATA = "/.well-known/oauth-protected-resource"


@command
def token(
    out: Out,
    client_id: Annotated[str, typer.Argument(metavar="CLIENT", help="The client's id.")],
    *,
    secret: Annotated[
        str | None,
        typer.Option(envvar="MCPGW_CLIENT_SECRET", help="Its secret.", show_default="read from standard input"),
    ] = None,
    resource: Annotated[str, typer.Option(help="What the token is for: /mcp, /mcp/SERVER, /v1, /admin/v1.")] = "/mcp",
    scope: Annotated[list[str] | None, typer.Option(help="Only this. Repeat for more.")] = None,
    url: Url = None,
    directory: Dir = None,
) -> None:
    """Get an access token with a client's secret (the client credentials grant of RFC 6749)."""
    secret = secret or sys.stdin.readline().strip()
    if not secret:
        raise UsageError("there is no client secret", fix="set MCPGW_CLIENT_SECRET, or pipe it in")
    base_url = find(url, secret, directory, which="agent_key").base_url
    form = {"grant_type": "client_credentials", "resource": _resource(base_url, resource)}
    form |= {"scope": " ".join(scope)} if scope else {}
    # Both are form-encoded before they are joined: RFC 6749 §2.3.1.
    basic = base64.b64encode(f"{quote_plus(client_id)}:{quote_plus(secret)}".encode()).decode()
    headers = {"Authorization": f"Basic {basic}", "Content-Type": "application/x-www-form-urlencoded"}
    status, answer = request(base_url, "POST", "/oauth/token", urlencode(form).encode(), headers)
    if status != 200:
        raise Unauthenticated(f"{answer.get('error')}: {answer.get('error_description')}", fix="mcpgw clients list")
    out.show(answer, str(answer["access_token"]))


def _resource(base_url: str, path: str) -> str:
    """Return the URL by which the gateway knows one of its endpoints, which may not be the one that is asked here."""
    status, metadata = request(base_url, "GET", _METADATA + path)
    if status != 200:
        raise UsageError(f"{path} is no endpoint of a gateway", fix="/mcp, /mcp/SERVER, /v1 or /admin/v1")
    return str(metadata["resource"])
