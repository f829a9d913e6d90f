"""Authorization requests (OAuth 2.1 §4.1.1) and their answers; between the two stand sign-in and consent.

A request whose client or redirect_uri does not hold is answered by a page; every other one, whatever is wrong with it,
by a redirect to the client that carries `iss` (RFC 9207).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Protocol
from urllib.parse import urlencode

from mcpgw.auth.endpoints import ADMIN, MCP, Endpoints, scopes_at
from mcpgw.auth.scopes import of_one_side, scopes_of_account
from mcpgw.auth.server.codes import Codes
from mcpgw.auth.server.grants import Grants
from mcpgw.auth.server.redirects import matches
from mcpgw.domain import Account, AuthorizationRequest, OAuthClient
from mcpgw.errors import PageError, RedirectError
from mcpgw.ports import AuthLog

AUTHORIZATION_CODE = "authorization_code"
MAX_STATE = 1024
MAX_CLIENT_ID = 2048
_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}")  # SHA-256 in base64url: RFC 7636 §4.2

Query = Mapping[str, str | Sequence[str]]
"""Parameters by name; a sequence holds what came more than once."""


class Clients(Protocol):
    async def find(self, client_id: str) -> OAuthClient | None:
        """Return the client of this id, unless it is revoked."""
        ...


class Pushed(Protocol):
    async def pushed(self, request_uri: str, client_id: str) -> Query | None:
        """Return the parameters that this client pushed before (RFC 9126), or None."""
        ...


class Authorizations:
    """Checks what is asked of users, and answers it."""

    def __init__(
        self, *, clients: Clients, pushed: Pushed, endpoints: Endpoints, grants: Grants, codes: Codes, log: AuthLog
    ) -> None:
        self._clients = clients
        self._pushed = pushed
        self._endpoints = endpoints
        self._grants = grants
        self._codes = codes
        self._log = log

    async def check(self, query: Query) -> AuthorizationRequest:
        """Return what the user may be asked. Raises PageError and RedirectError; the caller records them."""
        client_id = _one(query, "client_id")
        if client_id is None or len(client_id) > MAX_CLIENT_ID:
            raise PageError("the request does not name its client, or names it twice", fix="start again in the app")
        client = await self._clients.find(client_id)
        if client is None or AUTHORIZATION_CODE not in client.grants:
            raise PageError(
                "this app is not known here, or may not ask for an authorization",
                fix="start again in the app, or ask whoever runs this gateway",
                error="invalid_client",
            )
        if "request_uri" in query:
            query = await self._resolved(query, client_id)
        return self.checked(client, query)

    async def _resolved(self, query: Query, client_id: str) -> Query:
        request_uri = _one(query, "request_uri")
        pushed = None if request_uri is None else await self._pushed.pushed(request_uri, client_id)
        if pushed is None:
            raise PageError(
                "the request was pushed by another app, or too long ago", fix="start again", error="invalid_request_uri"
            )
        return pushed

    def checked(self, client: OAuthClient, query: Query) -> AuthorizationRequest:
        """Return what a known client asks. Raises PageError and RedirectError."""
        redirect_uri, given = _redirect_uri(client, query)
        state = _one(query, "state")

        def refuse(error: str, message: str) -> RedirectError:
            location = self._location(redirect_uri, error=error, error_description=message, state=state)
            return RedirectError(message, error=error, location=location)

        twice = [name for name, value in query.items() if not isinstance(value, str) and len(value) != 1]
        if "resource" in twice:
            raise refuse("invalid_target", "name one resource")  # RFC 8707 §2 allows several, and we serve one a token
        if twice or (state is not None and len(state) > MAX_STATE):
            raise refuse("invalid_request", "a parameter is there twice, or is too long")
        if "request" in query:
            raise refuse("request_not_supported", "request objects are not read here")
        if _one(query, "response_type") != "code":
            raise refuse("unsupported_response_type", "response_type can be code alone")
        if _one(query, "response_mode") not in {None, "query"}:
            raise refuse("invalid_request", "response_mode can be query alone")
        challenge = _one(query, "code_challenge") or ""
        if _one(query, "code_challenge_method") != "S256" or not _CHALLENGE.fullmatch(challenge):
            raise refuse("invalid_request", "PKCE with code_challenge_method S256 is required")
        endpoint = self._endpoints.path_of(_one(query, "resource") or self._endpoints.url(MCP))
        if endpoint is None:
            raise refuse("invalid_target", "resource is not an endpoint of this gateway")
        scopes = asked_of(client, endpoint, _one(query, "scope"))
        if not scopes:
            raise refuse("invalid_scope", "no such scope at this resource, or not for this client")
        return AuthorizationRequest(
            client_id=client.client_id,
            redirect_uri=redirect_uri,
            redirect_given=given,
            endpoint=endpoint,
            scopes=scopes,
            challenge=challenge,
            state=state,
            prompt=frozenset((_one(query, "prompt") or "").split()),
            login_hint=_one(query, "login_hint"),
        )

    async def approve(self, request: AuthorizationRequest, account: Account) -> str:
        """Return where the browser goes with its code, now that the user has said yes.

        The user's scopes may be fewer than those that were asked for; none at all is a refusal.
        """
        scopes = of_one_side(request.scopes & scopes_of_account(account))
        who = f"{account.issuer}|{account.subject}"
        if not scopes:
            detail = {"reason": "the user holds none of the scopes", "resource": request.endpoint}
            await self._log.record(
                "authorize", "access_denied", principal=who, client_id=request.client_id, detail=detail
            )
            return self.refuse(request)
        grant = await self._grants.begin(account, request.client_id, request.endpoint, scopes)
        code = await self._codes.issue(grant, request)
        detail = {"grant": grant.id, "resource": grant.endpoint, "scope": " ".join(sorted(scopes))}
        await self._log.record("authorize", principal=who, client_id=request.client_id, detail=detail)
        return self._location(request.redirect_uri, code=code, state=request.state)

    def refuse(self, request: AuthorizationRequest, error: str = "access_denied") -> str:
        """Return where the browser goes when the user says no, or cannot say yes."""
        return self._location(request.redirect_uri, error=error, state=request.state)

    def _location(self, redirect_uri: str, **parameters: str | None) -> str:
        given = {name: value for name, value in parameters.items() if value is not None}
        separator = "&" if "?" in redirect_uri else "?"
        return redirect_uri + separator + urlencode({**given, "iss": self._endpoints.base})


def asked_of(client: OAuthClient, endpoint: str, scope: str | None) -> frozenset[str]:
    """Return the scopes of a request that mean something at the endpoint and that the client may have for users.

    Nobody administers through a client unless an administrator wrote those scopes down for it: not for one that
    registered itself, or is a document.
    """
    known = scopes_at(endpoint)
    itself = client.registration is not None or client.created_by == client.client_id
    if endpoint == ADMIN and (itself or client.scopes is None):
        return frozenset()
    if client.scopes is not None:
        known &= client.scopes
    return known if scope is None else known & frozenset(scope.split())


def _redirect_uri(client: OAuthClient, query: Query) -> tuple[str, bool]:
    """Return where the answer goes, and whether the request said so. Raises PageError."""
    if "redirect_uri" not in query:
        if len(client.redirect_uris) == 1:
            return client.redirect_uris[0], False
        raise PageError("the request does not say where its answer goes", fix="start again in the app")
    asked = _one(query, "redirect_uri")
    if asked is None or not matches(client.redirect_uris, asked):
        raise PageError(
            "the answer would go to an address that this app has not registered",
            fix="do not go on if you followed a link; otherwise start again in the app",
        )
    return asked, True


def _one(query: Query, name: str) -> str | None:
    """Return a parameter that is there once and has a value; one without counts as left out (RFC 6749 §3.1)."""
    value = query.get(name)
    if value is None or isinstance(value, str):
        return value or None
    return value[0] or None if len(value) == 1 else None
