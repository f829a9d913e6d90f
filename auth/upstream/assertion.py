"""Who calls, in a short-lived JWT of ours: for servers that trust the gateway, and as what we exchange for a token.

Our published keys (`/.well-known/jwks.json`) verify it. Its type is not that of an access token: it opens nothing here.
"""

from __future__ import annotations

import secrets
from collections.abc import Hashable, Mapping
from typing import Any

from mcpgw.auth.endpoints import Endpoints
from mcpgw.auth.holders import ISSUER
from mcpgw.auth.signing import SigningKeys
from mcpgw.domain import Judged, Principal, UpstreamAuth
from mcpgw.ports import Clock

TYPE = "mcpgw-assertion+jwt"
TTL_S = 60
USED_S = 30
"""How long an assertion is sent; the rest of its life is for the way and for clocks that differ."""
_MOST = 20_000


class Assertions:
    """Makes assertions."""

    def __init__(self, signing: SigningKeys, endpoints: Endpoints, clock: Clock) -> None:
        self._signing = signing
        self._endpoints = endpoints
        self._clock = clock

    def claims(self, who: Principal, audience: str) -> dict[str, Any]:
        """Return what is said of a caller to one audience. `sub` is unique: no name of ours has a `|` in it."""
        now = int(self._clock.time())
        said: dict[str, Any] = {
            "iss": self._endpoints.base,
            "sub": who.subject if who.issuer == ISSUER else who.selector,
            "aud": audience,
            "client_id": who.client_id,
            "roles": sorted(who.roles),
            "jti": secrets.token_urlsafe(16),
            "iat": now,
            "exp": now + TTL_S,
        }
        if who.team is not None:
            said["team"] = who.team
        if who.actors:
            said["act"] = _act(who.actors)
        return said

    def of(self, who: Principal, audience: str) -> str:
        """Return a signed assertion for one audience."""
        return self._signing.sign({"typ": TYPE}, self.claims(who, audience))

    def id_jag(self, who: Principal, issuer: str, client_id: str, resource: str, scopes: tuple[str, ...]) -> str:
        """Return an identity assertion authorization grant, of which we are the identity provider.

        For the authorization server `issuer`, to be presented by the gateway as its client `client_id`.
        """
        claims = self.claims(who, issuer) | {"client_id": client_id, "resource": resource}
        if scopes:
            claims["scope"] = " ".join(scopes)
        return self._signing.sign({"typ": "oauth-id-jag+jwt"}, claims)


class SignedAssertion:
    """Implements `broker.Mode`: an assertion as the bearer token. One serves the calls of half a minute."""

    def __init__(self, assertions: Assertions, clock: Clock) -> None:
        self._assertions = assertions
        self._clock = clock
        self._held: dict[Hashable, tuple[float, Mapping[str, str]]] = {}

    async def headers_for(self, judged: Judged, auth: UpstreamAuth) -> Mapping[str, str]:
        key, now = _key(judged, auth), self._clock.monotonic()
        held = self._held.get(key)
        if held is not None and now < held[0]:
            return held[1]
        text = self._assertions.of(judged.principal, key[1])
        headers = {"authorization": f"Bearer {text}"}
        while len(self._held) >= _MOST:
            del self._held[next(iter(self._held))]
        self._held.pop(key, None)  # to the end of the line
        self._held[key] = now + USED_S, headers
        return headers

    async def refused(self, judged: Judged, auth: UpstreamAuth, sent: Mapping[str, str], challenge: str) -> None:
        key = _key(judged, auth)
        held = self._held.get(key)
        if held is not None and held[1] == sent:
            del self._held[key]


def said_of(who: Principal) -> tuple[Hashable, ...]:
    """Return all of a caller that an assertion says: of two callers who differ in any of it, each has his own."""
    return who.key, who.team, who.roles, who.actors


def _key(judged: Judged, auth: UpstreamAuth) -> tuple[tuple[Hashable, ...], str]:
    audience = auth.audience or auth.resource or (judged.version.endpoint if judged.version is not None else "")
    return said_of(judged.principal), audience


def _act(actors: tuple[str, ...]) -> dict[str, Any]:
    """Return the chain of those who act (RFC 8693 §4.1), nearest outermost."""
    issuer, _, subject = actors[0].rpartition("|")
    nearest: dict[str, Any] = {"sub": subject, **({"iss": issuer} if issuer else {})}
    return nearest | {"act": _act(actors[1:])} if len(actors) > 1 else nearest
