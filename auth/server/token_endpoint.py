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
from mcpgw.auth.server.refusals import NO_STORE, Answer, Refused, unavailable
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
        seen: dict[str, str] = {}
        try:
            return 200, NO_STORE, await self._issued(asked, seen)
        except Refused as refusal:
            return await self._refused(asked, seen, refusal)
        except GatewayError as error:
            return await self._refused(asked, seen, unavailable(error))

    async def _issued(self, asked: Asked, seen: dict[str, str]) -> Mapping[str, Any]:
        form = form_of(asked)
        seen["client_id"] = form.get("client_id", "")
        client = await self._authentication.client_of(asked, form)
        seen["client_id"] = client.client_id
        name = needed(form, "grant_type")
        grant = self._grants.get(name)
        if grant is None:
            raise Refused("unsupported_grant_type", f"the grants here are: {', '.join(sorted(self._grants))}")
        seen["grant_type"] = name
        if name not in client.grants:
            raise Refused("unauthorized_client", "the client is not registered for this grant")
        granted = await grant.grant(client, form)
        await self._record(asked, client, name, granted)
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

    async def _refused(self, asked: Asked, seen: Mapping[str, str], refusal: Refused) -> Answer:
        detail = {"reason": refusal.reason}
        if "grant_type" in seen:
            detail["grant_type"] = seen["grant_type"]
        client_id = seen.get("client_id") or None
        await self._log.record(EVENT, refusal.error, client_id=client_id, source=asked.source, detail=detail)
        return refusal.answer
