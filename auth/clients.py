"""OAuth clients, as administrators make and end them. The edge lets holders of `keys:write` in, and nobody else."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from mcpgw.auth import keys
from mcpgw.auth.changing import Change, Changes, Document, Documents, check_holder, check_may_grant, check_names
from mcpgw.auth.scopes import ADMIN_SCOPES, AGENT_SCOPES, check_roles, scopes_of
from mcpgw.auth.server.client_metadata import (
    CODE,
    MAX_REDIRECT_URIS,
    PRIVATE_KEY_JWT,
    SECRET_METHODS,
    BadMetadata,
    public_keys,
    shown_title,
)
from mcpgw.auth.server.redirects import fault_of
from mcpgw.auth.service import shown_holder
from mcpgw.domain import CLIENT_CREDENTIALS, ClientTerms, OAuthClient, Principal, State
from mcpgw.errors import Conflict, InvalidParams, NotFound
from mcpgw.ports import Clock, Store, Worlds

GRANTS = frozenset(
    {
        CLIENT_CREDENTIALS,
        CODE,
        "refresh_token",
        "urn:ietf:params:oauth:grant-type:token-exchange",
        "urn:ietf:params:oauth:grant-type:jwt-bearer",
    }
)
_METHODS = SECRET_METHODS | {"none", PRIVATE_KEY_JWT}
_CLIENT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
ITSELF = ClientTerms()
"""A client that acts for itself, with a secret."""


class ClientsService:
    """Every change is one transaction with its note, and applies in all workers before the answer leaves."""

    def __init__(self, store: Store, worlds: Worlds, clock: Clock, pepper: bytes) -> None:
        self._changes = Changes(store, worlds, clock)
        self._worlds = worlds
        self._clock = clock
        self._pepper = pepper

    async def create(
        self,
        who: Principal,
        client_id: str | None,
        subject: str = "",
        roles: Collection[str] = (),
        team: str | None = None,
        terms: ClientTerms = ITSELF,
    ) -> Document:
        """Create a client; `client_secret` of the answer, for one that has a secret, is shown this once.

        `subject` and `roles` are who it is when it acts for itself; a client of users alone has none.
        Raises InvalidParams, InsufficientScope, and Conflict when the id is taken, also by a revoked client.
        """
        if client_id is not None and not _CLIENT_ID.fullmatch(client_id):
            raise InvalidParams("a client id has up to 64 letters, digits, and . _ - within", fix="or leave it out")
        _check_itself(who, subject, roles, team, terms)
        secret = keys.new_secret(keys.CLIENT_LABEL)[0] if terms.auth_method in SECRET_METHODS else None
        client = self._new(who, client_id, subject, roles, team, _checked(terms))
        if secret is not None:
            client = replace(client, digest=keys.digest(self._pepper, secret))
        shown = shown_client(client)

        def change(state: State) -> Change:
            if any(c.client_id == client.client_id for c in state.clients):
                raise Conflict(f"client {client.client_id} exists", fix="choose another id, or leave it out")
            check_holder(state, subject, roles, team)
            answer = shown if secret is None else {**shown, "client_secret": secret}
            return Change(rows=[client], action="client.create", target=client.client_id, after=shown, answer=answer)

        return await self._changes.carry_out(who, change)

    async def revoke(self, who: Principal, client_id: str, reason: str = "") -> Document:
        """Revoke a client, and with it every token that it holds. Raises NotFound, Conflict.

        A client that is the URL of a document about it has no row: what it holds ends with `revoke_before`.
        """

        def change(state: State) -> Change:
            held = next((c for c in state.clients if c.client_id == client_id), None)
            if held is None:
                raise NotFound("no such client", fix="mcpgw clients list shows them")
            after = replace(held, revoked_at=held.revoked_at or self._clock.time())
            return Change(
                rows=[after],
                action="client.revoke",
                target=client_id,
                reason=reason,
                before=shown_client(held),
                after=shown_client(after),
            )

        return await self._changes.carry_out(who, change)

    def list(self) -> Documents:
        """Return every client, newest first, without its digests."""
        rows = self._worlds.current.state.clients
        return [shown_client(c) for c in sorted(rows, key=lambda c: c.created_at, reverse=True)]

    def _new(
        self,
        who: Principal,
        client_id: str | None,
        subject: str,
        roles: Collection[str],
        team: str | None,
        terms: ClientTerms,
    ) -> OAuthClient:
        return OAuthClient(
            client_id=client_id or f"client-{keys.new_id()}",
            digest="",
            subject=subject,
            roles=frozenset(roles),
            created_by=who.selector,
            created_at=self._clock.time(),
            team=team,
            title=terms.title,
            grants=terms.grants,
            auth_method=terms.auth_method,
            redirect_uris=terms.redirect_uris,
            scopes=terms.scopes,
            jwks=terms.jwks,
            jwks_uri=terms.jwks_uri,
        )


def shown_client(client: OAuthClient) -> Document:
    """Return what may be shown of a client: all but its digests."""
    return {
        "client_id": client.client_id,
        **shown_holder(client),
        "title": client.title,
        "grants": sorted(client.grants),
        "auth_method": client.auth_method,
        "redirect_uris": list(client.redirect_uris),
        "jwks": client.jwks,
        "jwks_uri": client.jwks_uri,
        "registered_itself": client.registration is not None,
    }


def _check_itself(who: Principal, subject: str, roles: Collection[str], team: str | None, terms: ClientTerms) -> None:
    """Check who the client is when it acts for itself. Raises InvalidParams, InsufficientScope."""
    if CLIENT_CREDENTIALS in terms.grants or subject or roles:
        check_names(subject, team)
        check_may_grant(who, scopes_of(check_roles(roles)))
    if terms.scopes is None:
        return
    limit = scopes_of(roles) if roles else AGENT_SCOPES | ADMIN_SCOPES
    if not terms.scopes or not terms.scopes <= limit:
        raise InvalidParams("a client cannot have a scope that its roles do not carry", fix="or that does not exist")


def _checked(terms: ClientTerms) -> ClientTerms:
    """Return the terms, which fit together. Raises InvalidParams."""
    if not terms.grants or not terms.grants <= GRANTS:
        raise InvalidParams("a client has a grant type that does not exist here", fix=", ".join(sorted(GRANTS)))
    if terms.auth_method not in _METHODS:
        raise InvalidParams("no such way to authenticate a client", fix=f"one of: {', '.join(sorted(_METHODS))}")
    if terms.auth_method == "none" and CODE not in terms.grants:
        raise InvalidParams("a client that proves nothing can only act for users", fix="give it a secret or a key")
    if (CODE in terms.grants) != bool(terms.redirect_uris):
        raise InvalidParams("redirect URIs and the authorization code grant go together", fix="give both or neither")
    if len(terms.redirect_uris) > MAX_REDIRECT_URIS:
        raise InvalidParams(f"a client has at most {MAX_REDIRECT_URIS} redirect URIs", fix="make two clients")
    for uri in terms.redirect_uris:
        fault = fault_of(uri, ())
        if fault is not None:
            raise InvalidParams(fault, fix="https, or http to this machine, without a fragment")
    return _with_keys(terms)


def _with_keys(terms: ClientTerms) -> ClientTerms:
    given: dict[str, Any] = {"client_name": terms.title, "jwks": terms.jwks, "jwks_uri": terms.jwks_uri}
    try:
        title = shown_title(given)
        jwks, jwks_uri = public_keys({name: value for name, value in given.items() if value is not None})
    except BadMetadata as bad:
        raise InvalidParams(bad.description, fix="RFC 7591 §2 says what stands there") from None
    has_keys = jwks is not None or jwks_uri is not None
    if (terms.auth_method == PRIVATE_KEY_JWT) != has_keys:
        raise InvalidParams("private_key_jwt and the client's public keys go together", fix="give jwks or jwks_uri")
    return replace(terms, title=title, jwks=jwks, jwks_uri=jwks_uri)
