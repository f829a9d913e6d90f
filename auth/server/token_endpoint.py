"""The token endpoint (RFC 6749 §3.2): who asks, by which grant, and the answer with its record.

Written on joserfc, without Authlib's server framework: docs/adr/0006-authorization-server.md says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mcpgw.auth.access_tokens import AccessTokens
from mcpgw.auth.server.asked import form_of, needed
from mcpgw.auth.server.client_authentication import ClientAuthentication
from mcpgw.auth.server.granting import Granted, GrantType
from mcpgw.auth.server.refusals import NO_STORE, Answer, Refused, refused, unavailable
from mcpgw.domain import Asked, OAuthClient
from mcpgw.errors import GatewayError
from mcpgw.ports import AuthLog, Clock

EVENT = "token"


class TokenEndpoint:
    """Answers token requests. `grants` are the grant types that there are, by name."""

    def __init__(
        self,
        *,
        authentication: ClientAuthentication,
        grants: Mapping[str, GrantType],
        tokens: AccessTokens,
        log: AuthLog,
        clock: Clock,
    ) -> None:
        self._authentication = authentication
        self._grants = grants
        self._tokens = tokens
        self._log = log
        self._clock = clock

    async def respond(self, asked: Asked) -> Answer:
        """Return the answer to one POST, which is in the log already."""
        client: OAuthClient | None = None
        detail: dict[str, str] = {}
        try:
            form = form_of(asked)
            client = await self._authentication.client_of(asked, form)
            name = needed(form, "grant_type")
            grant = self._grants.get(name)
            if grant is None:
                raise Refused("unsupported_grant_type", f"the grants here are: {', '.join(sorted(self._grants))}")
            detail["grant_type"] = name
            if name not in client.grants:
                raise Refused("unauthorized_client", "the client is not registered for this grant")
            granted = await grant.grant(client, form)
            await self._record(asked, client, name, granted)
            return 200, NO_STORE, self._answer(granted)
        except GatewayError as error:
            refusal = unavailable(error)
        except Refused as error:
            refusal = error
        if client is not None:
            refusal.client_id = client.client_id
        return await refused(self._log, EVENT, asked, refusal, detail)

    def _answer(self, granted: Granted) -> Mapping[str, Any]:
        token = granted.token
        answer: dict[str, Any] = {
            "access_token": self._tokens.issue(token, self._clock.time()),
            "token_type": "Bearer",
            "expires_in": token.ttl_s,
            "scope": token.scope,
            **granted.members,
        }
        if granted.refresh_token is not None:
            answer["refresh_token"] = granted.refresh_token
        return answer

    async def _record(self, asked: Asked, client: OAuthClient, name: str, granted: Granted) -> None:
        token = granted.token
        detail = {
            "grant_type": name,
            "token": token.jti,
            "resource": token.endpoint,
            "scope": token.scope,
            **granted.detail,
        }
        await self._log.record(
            EVENT, principal=granted.principal, client_id=client.client_id, source=asked.source, detail=detail
        )
