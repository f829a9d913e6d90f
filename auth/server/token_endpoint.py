"""The token endpoint: the client-credentials grant (RFC 6749 §4.4) with resource indicators (RFC 8707).

Written on joserfc alone, without Authlib's server framework: docs/adr/0006-authorization-server.md says why.
"""

from __future__ import annotations

import base64
import hmac
import math
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote_plus

from mcpgw.auth.access_tokens import AccessTokens
from mcpgw.auth.endpoints import MCP, Endpoints, scopes_at
from mcpgw.auth.keys import digest
from mcpgw.auth.scopes import scopes_of
from mcpgw.auth.server.backoff import Backoff
from mcpgw.domain import OAuthClient
from mcpgw.ports import Clock, Worlds

Answer = tuple[int, Mapping[str, str], Mapping[str, Any]]
"""Status, header fields, JSON object."""

_NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}  # RFC 6749 §5.1
_MAX_FIELDS = 16
_MAX_CLIENT_ID = 128
# Compared in place of a client that does not exist, so that it costs the same time.
_NOBODY = OAuthClient(client_id="", digest="0" * 64, subject="", roles=frozenset(), created_by="", created_at=0.0)


class _Refused(Exception):
    """An error answer of RFC 6749 §5.2. `description` never repeats what was sent."""

    def __init__(
        self, error: str, description: str, status: int = 400, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(error)
        self.answer: Answer = (
            status,
            {**_NO_STORE, **(headers or {})},
            {"error": error, "error_description": description},
        )


class TokenEndpoint:
    """Answers token requests from what the current world knows of clients."""

    def __init__(
        self,
        *,
        tokens: AccessTokens,
        endpoints: Endpoints,
        worlds: Worlds,
        pepper: bytes,
        ttl_s: int,
        clock: Clock,
    ) -> None:
        self._tokens = tokens
        self._endpoints = endpoints
        self._worlds = worlds
        self._pepper = pepper
        self._ttl_s = ttl_s
        self._clock = clock
        self._backoff = Backoff(clock)

    def respond(
        self, *, authorization: str | None, content_type: str | None, body: bytes, source: str | None
    ) -> Answer:
        """Return the answer to one POST. `source` is the address that it came from."""
        try:
            form = _form(content_type, body)
            client_id, secret = _credentials(authorization, form)
            client = self._authenticated(client_id, secret, source)
            return 200, _NO_STORE, self._grant(client, form)
        except _Refused as refusal:
            return refusal.answer

    def _authenticated(self, client_id: str, secret: str, source: str | None) -> OAuthClient:
        world = self._worlds.current
        if world.unavailable is not None:
            raise _Refused("temporarily_unavailable", "the gateway cannot answer now", 503, {"Retry-After": "1"})
        who = client_id, source
        wait_s = self._backoff.wait_s(who)
        if wait_s:
            pause = {"Retry-After": str(math.ceil(wait_s))}
            raise _Refused("temporarily_unavailable", "too many failures: wait before the next try", 429, pause)
        client = world.identities.clients.get(client_id, _NOBODY)
        matches = hmac.compare_digest(digest(self._pepper, secret), client.digest)
        if not matches or client is _NOBODY or client.revoked_at is not None:
            self._backoff.failed(who)
            raise _unknown_client("unknown client, wrong secret, or revoked")
        self._backoff.succeeded(who)
        return client

    def _grant(self, client: OAuthClient, form: Mapping[str, str]) -> Mapping[str, Any]:
        if "grant_type" not in form:
            raise _Refused("invalid_request", "grant_type is missing")
        if form["grant_type"] != "client_credentials":
            raise _Refused("unsupported_grant_type", "the only grant here is client_credentials")
        endpoint = self._endpoints.path_of(form.get("resource") or self._endpoints.url(MCP))
        if endpoint is None:
            raise _Refused("invalid_target", "resource is not an endpoint of this gateway")  # RFC 8707 §2
        granted = scopes_of(client.roles) & scopes_at(endpoint)
        if "scope" in form:
            granted &= frozenset(form["scope"].split())
        if not granted:
            raise _Refused("invalid_scope", "the client holds none of these scopes for this resource")
        scope = " ".join(sorted(granted))
        token = self._tokens.issue(
            client, endpoint, scope, jti=self._clock.new_id(), now=self._clock.time(), ttl_s=self._ttl_s
        )
        return {"access_token": token, "token_type": "Bearer", "expires_in": self._ttl_s, "scope": scope}


def _form(content_type: str | None, body: bytes) -> dict[str, str]:
    """Return the parameters that have a value; one without counts as left out (RFC 6749 §3.2)."""
    if (content_type or "").partition(";")[0].strip().lower() != "application/x-www-form-urlencoded":
        raise _Refused("invalid_request", "send application/x-www-form-urlencoded")
    try:
        fields = parse_qsl(body.decode("ascii"), max_num_fields=_MAX_FIELDS, errors="strict")
    except ValueError:
        raise _Refused("invalid_request", "the form cannot be read") from None
    form = dict(fields)
    if len(form) != len(fields):
        raise _Refused("invalid_request", "a parameter is there twice")
    return form


def _credentials(authorization: str | None, form: Mapping[str, str]) -> tuple[str, str]:
    """Return (client id, secret) of client_secret_basic or client_secret_post, never of both (RFC 6749 §2.3)."""
    if authorization is None:
        client_id, secret = form.get("client_id", ""), form.get("client_secret", "")
    elif "client_secret" in form:
        raise _Refused("invalid_request", "the client authenticates in two ways at once")
    else:
        client_id, secret = _basic(authorization)
        if form.get("client_id", client_id) != client_id:
            raise _Refused("invalid_request", "client_id is not the client that authenticates")
    if not client_id or not secret or len(client_id) > _MAX_CLIENT_ID:
        raise _unknown_client("the client must authenticate with its id and secret")
    return client_id, secret


def _basic(authorization: str) -> tuple[str, str]:
    scheme, _, encoded = authorization.partition(" ")
    try:
        if scheme.lower() != "basic":
            raise ValueError
        client_id, colon, secret = base64.b64decode(encoded.strip(), validate=True).decode("ascii").partition(":")
        if not colon:
            raise ValueError
        # Both are form-encoded before they are joined: RFC 6749 §2.3.1.
        return unquote_plus(client_id, errors="strict"), unquote_plus(secret, errors="strict")
    except ValueError:
        raise _unknown_client("the Authorization header is not HTTP Basic as RFC 6749 has it") from None


def _unknown_client(description: str) -> _Refused:
    return _Refused("invalid_client", description, 401, {"WWW-Authenticate": 'Basic realm="mcpgw"'})
