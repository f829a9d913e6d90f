"""Tokens that a user allowed a client to have: by a code (OAuth 2.1 §4.1.3), then by refresh tokens (§4.3)."""

from __future__ import annotations

from collections.abc import Mapping

from mcpgw.auth.access_tokens import NewToken
from mcpgw.auth.endpoints import Endpoints
from mcpgw.auth.scopes import of_one_side, scopes_of_account
from mcpgw.auth.server.asked import needed
from mcpgw.auth.server.client_metadata import REFRESH
from mcpgw.auth.server.codes import Codes, Redemption
from mcpgw.auth.server.granting import Granted, asked_scopes, endpoint_asked, scope_text
from mcpgw.auth.server.grants import Grant, holder_of
from mcpgw.auth.server.refresh import RefreshTokens
from mcpgw.auth.server.refusals import Refused, invalid_grant
from mcpgw.domain import Account, OAuthClient
from mcpgw.ports import Clock, Worlds


class UserTokens:
    """What a token for a user says: the grant's scopes that the user still has, at the grant's endpoint."""

    def __init__(self, worlds: Worlds, clock: Clock, ttl_s: int) -> None:
        self._worlds = worlds
        self._clock = clock
        self._ttl_s = ttl_s

    def holder(self, grant: Grant) -> Account:
        """Return the user of a grant that still stands. Raises Refused."""
        return holder_of(grant, self._worlds.current.identities)

    def scopes(self, grant: Grant, client: OAuthClient, account: Account) -> frozenset[str]:
        """Return what the grant comes to now. Raises Refused when that is nothing."""
        scopes = of_one_side(grant.scopes & scopes_of_account(account))
        if client.scopes is not None:
            scopes &= client.scopes
        if not scopes:
            raise invalid_grant("the user or the client has lost the scopes")
        return scopes

    def granted(
        self, grant: Grant, account: Account, scopes: frozenset[str], refresh_token: str | None = None
    ) -> Granted:
        token = NewToken(
            subject=account.id,
            client_id=grant.client_id,
            endpoint=grant.endpoint,
            scope=scope_text(scopes),
            jti=self._clock.new_id(),
            # A token outlives no authorization; of a second that has begun it has the whole.
            ttl_s=min(self._ttl_s, max(1, int(grant.expires_at - self._clock.time()))),
            grant=grant.id,
        )
        return Granted(
            token=token,
            principal=f"{account.issuer}|{account.subject}",
            refresh_token=refresh_token,
            detail={"grant": grant.id},
        )


class CodeGrant:
    """A code for tokens."""

    def __init__(self, endpoints: Endpoints, codes: Codes, refreshes: RefreshTokens, tokens: UserTokens) -> None:
        self._endpoints = endpoints
        self._codes = codes
        self._refreshes = refreshes
        self._tokens = tokens

    async def grant(self, client: OAuthClient, form: Mapping[str, str]) -> Granted:
        given = Redemption(
            code=needed(form, "code"),
            verifier=needed(form, "code_verifier"),
            redirect_uri=form.get("redirect_uri"),
            endpoint=endpoint_asked(self._endpoints, form),
        )
        grant = await self._codes.redeem(client, given)
        account = self._tokens.holder(grant)
        scopes = self._tokens.scopes(grant, client, account)
        refresh_token = await self._refreshes.begin(grant) if REFRESH in client.grants else None
        return self._tokens.granted(grant, account, scopes, refresh_token)


class RefreshGrant:
    """A refresh token for its successor and an access token, of fewer scopes perhaps."""

    def __init__(self, endpoints: Endpoints, refreshes: RefreshTokens, tokens: UserTokens) -> None:
        self._endpoints = endpoints
        self._refreshes = refreshes
        self._tokens = tokens

    async def grant(self, client: OAuthClient, form: Mapping[str, str]) -> Granted:
        presented = needed(form, "refresh_token")
        endpoint = endpoint_asked(self._endpoints, form)
        grant = await self._refreshes.owner(presented, client)
        account = self._tokens.holder(grant)
        if endpoint is not None and endpoint != grant.endpoint:
            raise Refused("invalid_target", "resource is not the one that the user was asked about")  # RFC 8707 §2.2
        scopes = self._tokens.scopes(grant, client, account)
        asked = asked_scopes(form)
        if asked is not None:
            if not asked <= grant.scopes:
                raise Refused("invalid_scope", "a refresh token gives no scope that the user did not grant")
            scopes &= asked  # for this access token: the refresh token keeps its own (RFC 6749 §6)
            if not scopes:
                raise Refused("invalid_scope", "the user has lost these scopes")
        # Last, so that a request that is refused for its form does not use the token up.
        return self._tokens.granted(grant, account, scopes, await self._refreshes.rotate(presented, grant))
