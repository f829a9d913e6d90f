"""The client-credentials grant (RFC 6749 §4.4): a client that acts for itself."""

from __future__ import annotations

from collections.abc import Mapping

from mcpgw.auth.access_tokens import NewToken
from mcpgw.auth.endpoints import Endpoints, scopes_at
from mcpgw.auth.holders import ISSUER, refusal_of
from mcpgw.auth.scopes import kind_of, scopes_of
from mcpgw.auth.server.client_assertions import refuse_public
from mcpgw.auth.server.granting import Granted, asked_scopes, endpoint_or_all, scope_text
from mcpgw.auth.server.refusals import Refused, unknown_client
from mcpgw.domain import OAuthClient, Principal
from mcpgw.ports import Clock, Worlds


class ClientGrant:
    """Grants what the client's own roles allow."""

    def __init__(self, endpoints: Endpoints, worlds: Worlds, clock: Clock, ttl_s: int) -> None:
        self._endpoints = endpoints
        self._worlds = worlds
        self._clock = clock
        self._ttl_s = ttl_s

    async def grant(self, client: OAuthClient, form: Mapping[str, str]) -> Granted:
        refuse_public(client)
        who = Principal(
            issuer=ISSUER,
            subject=client.subject,
            client_id=client.client_id,
            kind=kind_of(client.roles),
            team=client.team,
            issued_at=self._clock.time(),
        )
        refusal = refusal_of(who, self._worlds.current.identities)
        if refusal is not None:
            raise unknown_client(refusal.message)
        endpoint = endpoint_or_all(self._endpoints, form)
        granted = scopes_of(client.roles) & scopes_at(endpoint)
        for bound in (client.scopes, asked_scopes(form)):
            granted = granted if bound is None else granted & bound
        if not granted or not client.subject:
            raise Refused("invalid_scope", "the client holds none of these scopes for this resource")
        token = NewToken(
            subject=client.subject,
            client_id=client.client_id,
            endpoint=endpoint,
            scope=scope_text(granted),
            jti=self._clock.new_id(),
            ttl_s=self._ttl_s,
        )
        return Granted(token=token, principal=who.selector)
