"""Clients that give tokens back (RFC 7009)."""

from __future__ import annotations

from joserfc.errors import JoseError

from mcpgw.auth.access_tokens import AccessTokens, TokenFacts
from mcpgw.auth.server.asked import form_of, needed
from mcpgw.auth.server.client_authentication import ClientAuthentication
from mcpgw.auth.server.grants import Grants
from mcpgw.auth.server.refresh import RefreshTokens
from mcpgw.auth.server.refusals import NO_STORE, Answer, Refused, refused, unavailable
from mcpgw.domain import Asked, OAuthClient
from mcpgw.errors import GatewayError, Unauthenticated
from mcpgw.ports import AuthLog, Clock

EVENT = "revoke"
_UNREADABLE = (JoseError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError)


def facts_of(tokens: AccessTokens, token: str) -> TokenFacts | None:
    """Return what one of our access tokens says; None for anything else."""
    try:
        return tokens.read(token)
    except (Unauthenticated, *_UNREADABLE):
        return None


class RevocationEndpoint:
    """A refresh token ends its whole grant, an access token itself; both in all workers before the answer leaves."""

    def __init__(
        self,
        *,
        authentication: ClientAuthentication,
        refreshes: RefreshTokens,
        grants: Grants,
        tokens: AccessTokens,
        log: AuthLog,
        clock: Clock,
    ) -> None:
        self._authentication = authentication
        self._refreshes = refreshes
        self._grants = grants
        self._tokens = tokens
        self._log = log
        self._clock = clock

    async def respond(self, asked: Asked) -> Answer:
        """Return the answer to one POST: the same for a token that is unknown, or another client's (RFC 7009 §2.2)."""
        client: OAuthClient | None = None
        try:
            form = form_of(asked)
            client = await self._authentication.client_of(asked, form)
            ended = await self._ended(client, needed(form, "token"))
            if ended is not None:
                await self._log.record(EVENT, client_id=client.client_id, source=asked.source, detail=ended)
            return 200, NO_STORE, {}
        except GatewayError as error:
            refusal = unavailable(error)
        except Refused as error:
            refusal = error
        if client is not None:
            refusal.client_id = client.client_id
        return await refused(self._log, EVENT, asked, refusal)

    async def _ended(self, client: OAuthClient, token: str) -> dict[str, str] | None:
        """End a token of this client; return what ended, None when there was nothing to end."""
        actor = f"client|{client.client_id}"
        grant = await self._refreshes.find(token)
        if grant is not None:
            if grant.client_id != client.client_id:
                return None
            await self._grants.revoke(grant.id, actor=actor, reason="the client gave its refresh token back")
            return {"grant": grant.id}
        facts = facts_of(self._tokens, token)
        if facts is None or facts.client_id != client.client_id or facts.expires_at <= self._clock.time():
            return None
        await self._grants.revoke_token(facts.jti, facts.expires_at, actor=actor)
        return {"token": facts.jti}
