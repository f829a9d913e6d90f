"""What an enterprise's identity provider grants (Identity Assertion JWT Authorization Grant, RFC 7523 §2.1 in use).

The provider has decided that its user may use a client here, and says so to the client, which proves itself and gets a
token. Nobody is asked: so it counts only from issuers configured for it, once, for that client and our resource.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mcpgw.auth.access_tokens import NewToken
from mcpgw.auth.compact import Compact
from mcpgw.auth.endpoints import ADMIN, MCP, Endpoints, opens, scopes_at
from mcpgw.auth.holders import refusal_of
from mcpgw.auth.issuers import Issuer, Issuers
from mcpgw.auth.principals import Person
from mcpgw.auth.scopes import AGENT_SCOPES, scopes_of_account
from mcpgw.auth.server.asked import needed
from mcpgw.auth.server.client_assertions import refuse_public
from mcpgw.auth.server.granting import Granted, asked_scopes, endpoint_asked, scope_text
from mcpgw.auth.server.once import Once
from mcpgw.auth.server.refusals import Refused, invalid_grant
from mcpgw.domain import Account, OAuthClient, Principal
from mcpgw.errors import InvalidParams, Unauthenticated
from mcpgw.ports import Clock, Identities, Worlds

JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
TYPE = "oauth-id-jag+jwt"
MAX_LIFE_S = 3600
SKEW_S = 30
FirstSeen = Callable[[Person], Awaitable[Account]]
"""Return the account of someone whom an identity provider describes, making it at first sight."""


@dataclass(frozen=True, slots=True)
class Users:
    """Those whom identity providers speak of: as the world knows them, and how one of them gets an account."""

    worlds: Worlds
    first_seen: FirstSeen

    @property
    def identities(self) -> Identities:
        return self.worlds.current.identities


class AssertionGrant:
    """An ID-JAG for an access token; there are no refresh tokens: the provider is asked again."""

    def __init__(
        self,
        *,
        issuers: Issuers,
        endpoints: Endpoints,
        users: Users,
        once: Once,
        clock: Clock,
        ttl_s: int,
    ) -> None:
        self._issuers = issuers
        self._endpoints = endpoints
        self._users = users
        self._once = once
        self._clock = clock
        self._ttl_s = ttl_s

    async def grant(self, client: OAuthClient, form: Mapping[str, str]) -> Granted:
        refuse_public(client)
        issuer, claims = await self._verified(needed(form, "assertion"))
        expires_at = self._checked(client, claims)
        endpoint = self._endpoint(claims, form)
        subject = _text(claims, "sub")
        scopes = self._scopes(client, claims, form, endpoint)
        account = self._known(issuer, subject)
        if account is not None:
            scopes = self._held(client, account, scopes)
        # Only what would be granted is used up, and before anything is made of it.
        if not await self._once.first("id-jag", issuer.section.issuer, _text(claims, "jti"), expires_at + 1):
            raise invalid_grant("the assertion was used before")
        if account is None:
            try:
                account = await self._users.first_seen(_person(issuer, subject, claims))
            except InvalidParams as error:
                raise invalid_grant(error.message) from None
            scopes = self._held(client, account, scopes)
        token = NewToken(
            subject=account.id,
            client_id=client.client_id,
            endpoint=endpoint,
            scope=scope_text(scopes),
            jti=self._clock.new_id(),
            ttl_s=self._ttl_s,
        )
        who = f"{account.issuer}|{account.subject}"
        return Granted(token=token, principal=who, detail={"assertion": _text(claims, "jti")})

    async def _verified(self, assertion: str) -> tuple[Issuer, Mapping[str, Any]]:
        try:
            token = Compact(assertion)
        except ValueError:
            raise invalid_grant("the assertion is no JWT") from None
        issuer = self._issuers.granting(token.claims.get("iss"))
        if issuer is None:
            raise invalid_grant("the assertion is from an issuer that may not grant access here")
        try:
            await issuer.verify(token, {TYPE})
        except Unauthenticated as error:
            raise invalid_grant(error.message.replace("access token", "assertion")) from None
        return issuer, token.claims

    def _checked(self, client: OAuthClient, claims: Mapping[str, Any]) -> float:
        """Return when an assertion for this client and us expires. Raises Refused."""
        now = self._clock.time()
        audience = claims.get("aud")
        if isinstance(audience, list) and len(audience) == 1:
            audience = audience[0]
        if audience != self._endpoints.base:
            raise invalid_grant("the assertion is for another audience")
        if _text(claims, "client_id") != client.client_id:
            raise invalid_grant("the assertion is for another client")
        expires_at, issued_at = _seconds(claims, "exp"), _seconds(claims, "iat")
        begins_at = _seconds(claims, "nbf") if "nbf" in claims else issued_at
        if not now < expires_at or expires_at > now + MAX_LIFE_S:
            raise invalid_grant("the assertion has expired, or is good for too long")
        if max(issued_at, begins_at) > now + SKEW_S:
            raise invalid_grant("the assertion is not valid yet")
        if "cnf" in claims:
            raise invalid_grant("the assertion is bound to a key, whose proof is not read here")  # RFC 7800
        return expires_at

    def _endpoint(self, claims: Mapping[str, Any], form: Mapping[str, str]) -> str:
        """Return the endpoint of the token: the one granted, or one below it that the client asks for."""
        asked = endpoint_asked(self._endpoints, form)
        endpoint = asked or MCP
        if "resource" in claims:
            named = claims["resource"]
            if isinstance(named, list) and len(named) == 1:
                named = named[0]
            granted = self._endpoints.path_of(named) if isinstance(named, str) else None
            if granted is None:
                raise invalid_grant("the assertion is for a resource that is not ours")
            endpoint = asked or granted
            if not opens(granted, endpoint):
                raise invalid_grant("the assertion is for another resource")
        if endpoint == ADMIN:
            raise invalid_grant("nobody administers by an assertion")
        return endpoint

    def _scopes(
        self, client: OAuthClient, claims: Mapping[str, Any], form: Mapping[str, str], endpoint: str
    ) -> frozenset[str]:
        """Return what is asked for, of what the provider grants, of what means something there."""
        scopes = scopes_at(endpoint) & AGENT_SCOPES
        granted = frozenset(_text(claims, "scope").split()) if "scope" in claims else None
        for bound in (granted, asked_scopes(form), client.scopes):
            scopes = scopes if bound is None else scopes & bound
        if not scopes:
            raise Refused("invalid_scope", "the assertion grants none of these scopes for this resource")
        return scopes

    def _known(self, issuer: Issuer, subject: str) -> Account | None:
        """Return the user's account, None where one may be made. Raises Refused."""
        account = self._users.identities.accounts.get((issuer.section.issuer, subject))
        if account is None and not issuer.section.id_jag_new_accounts:
            raise invalid_grant("the user has no account here")
        return account

    def _held(self, client: OAuthClient, account: Account, scopes: frozenset[str]) -> frozenset[str]:
        """Return the scopes that the user holds of these. Raises Refused when that is none, or the user has ended."""
        who = Principal(
            issuer=account.issuer,
            subject=account.subject,
            client_id=client.client_id,
            kind=account.kind,
            team=account.team,
            issued_at=self._clock.time(),
        )
        refusal = refusal_of(who, self._users.identities)
        if refusal is not None:
            raise invalid_grant(refusal.message)
        held = scopes & scopes_of_account(account)
        if not held:
            raise Refused("invalid_scope", "the user holds none of these scopes")
        return held


def _person(issuer: Issuer, subject: str, claims: Mapping[str, Any]) -> Person:
    email = claims.get("email")
    return Person(issuer=issuer.section.issuer, subject=subject, email=email if isinstance(email, str) else None)


def _text(claims: Mapping[str, Any], name: str) -> str:
    value = claims.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= 2048:
        raise invalid_grant(f"the assertion's claim {name} is missing, or no text")
    return value


def _seconds(claims: Mapping[str, Any], name: str) -> float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**53:
        raise invalid_grant(f"the assertion's claim {name} is missing, or no time")
    return float(value)
