"""What a token is, for those who may know (RFC 7662): the client that holds it, and administrators of keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mcpgw.auth.access_tokens import AccessTokens
from mcpgw.auth.endpoints import ADMIN, Endpoints
from mcpgw.auth.server.asked import form_of, needed
from mcpgw.auth.server.client_assertions import refuse_public
from mcpgw.auth.server.client_authentication import ClientAuthentication
from mcpgw.auth.server.refusals import NO_STORE, Answer, Refused, refused, unavailable
from mcpgw.auth.server.revocation import facts_of
from mcpgw.domain import Asked, Presented
from mcpgw.errors import GatewayError, Unauthenticated
from mcpgw.ports import AuthLog, TokenVerifier, Worlds

EVENT = "introspect"
MAY_KNOW_ALL = "keys:write"
_INACTIVE: Mapping[str, Any] = {"active": False}


class IntrospectionEndpoint:
    """Answers for our own access tokens; refresh tokens are nobody's to ask about."""

    def __init__(
        self,
        *,
        authentication: ClientAuthentication,
        verifier: TokenVerifier,
        tokens: AccessTokens,
        endpoints: Endpoints,
        worlds: Worlds,
        log: AuthLog,
    ) -> None:
        self._authentication = authentication
        self._verifier = verifier
        self._tokens = tokens
        self._endpoints = endpoints
        self._worlds = worlds
        self._log = log

    async def respond(self, asked: Asked) -> Answer:
        """Return the answer to one POST. A token that the caller may not know of is as inactive as one nobody has."""
        asker: str | None = None
        try:
            form = form_of(asked)
            asker = await self._asker(asked, form)
            return 200, NO_STORE, await self._known(needed(form, "token"), asker)
        except GatewayError as error:
            refusal = unavailable(error)
        except Refused as error:
            refusal = error
        refusal.client_id = refusal.client_id or asker
        return await refused(self._log, EVENT, asked, refusal)

    async def _asker(self, asked: Asked, form: Mapping[str, str]) -> str | None:
        """Return the id of the client that asks, None for an administrator. Raises Refused."""
        scheme, _, credential = (asked.authorization or "").partition(" ")
        if scheme.lower() == "bearer":
            await self._administrator(credential.strip())
            return None
        client = await self._authentication.client_of(asked, form)
        refuse_public(client)  # otherwise anyone could ask, in the name of a client that proves nothing
        return client.client_id

    async def _administrator(self, credential: str) -> None:
        presented = Presented(scheme="bearer", token=credential)
        try:
            who = await self._verifier.verify(presented, ADMIN, self._worlds.current)
        except Unauthenticated as error:
            raise Refused(
                "invalid_token", "the credential is not valid here", status=401, headers=_BEARER, reason=error.message
            ) from None
        if MAY_KNOW_ALL not in who.scopes:
            raise Refused("insufficient_scope", f"introspection needs {MAY_KNOW_ALL}", status=403, headers=_BEARER)

    async def _known(self, token: str, asker: str | None) -> Mapping[str, Any]:
        facts = facts_of(self._tokens, token)
        if facts is None or asker not in {None, facts.client_id}:
            return _INACTIVE
        endpoint = facts.endpoints[0]
        try:
            await self._verifier.verify(Presented(scheme="bearer", token=token), endpoint, self._worlds.current)
        except Unauthenticated:
            return _INACTIVE
        return {
            "active": True,
            "scope": " ".join(sorted(facts.scopes)),
            "client_id": facts.client_id,
            "sub": facts.subject,
            "aud": self._endpoints.url(endpoint),
            "iss": self._endpoints.base,
            "exp": int(facts.expires_at),
            "iat": int(facts.issued_at),
            "jti": facts.jti,
            "token_type": "Bearer",
        }


_BEARER: Mapping[str, str] = {"WWW-Authenticate": 'Bearer realm="mcpgw"'}
