"""Clients that prove themselves with a key of their own: `private_key_jwt` (RFC 7523 §2.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from joserfc.errors import JoseError

from mcpgw.auth.compact import ALGORITHMS, Compact
from mcpgw.auth.endpoints import Endpoints
from mcpgw.auth.server.client_keys import ClientKeys
from mcpgw.auth.server.once import Once
from mcpgw.auth.server.refusals import Refused, unknown_client
from mcpgw.domain import OAuthClient
from mcpgw.errors import GatewayError
from mcpgw.ports import Clock

MAX_LIFE_S = 600
SKEW_S = 30
MAX_CHARACTERS = 8192
_TYPES = frozenset({"JWT", "client-authentication+jwt"})
# `jku`, `x5u`, `jwk` and `crit` would name the key to trust, or ask for more.
_HEADER = frozenset({"alg", "typ", "kid"})
_UNREADABLE = (JoseError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError)


class ClientAssertions:
    """Checks assertions of clients; each counts once."""

    def __init__(self, *, keys: ClientKeys, endpoints: Endpoints, once: Once, clock: Clock) -> None:
        self._keys = keys
        self._endpoints = endpoints
        self._once = once
        self._clock = clock

    @staticmethod
    def issuer_of(assertion: str) -> str:
        """Return the client that an assertion says it is from; nothing of it is verified yet. Raises Refused."""
        try:
            claims = Compact(assertion, MAX_CHARACTERS).claims
            if claims["iss"] != claims["sub"] or not isinstance(claims["sub"], str):
                raise ValueError("iss and sub are not one client")
            subject: str = claims["sub"]
        except _UNREADABLE:
            raise unknown_client("the client assertion cannot be read, or iss and sub are not one client") from None
        return subject

    async def verify(self, client: OAuthClient, assertion: str, endpoint: str) -> None:
        """Return when an assertion proves this client at the endpoint of this path. Raises Refused."""
        try:
            claims = await self._signed_claims(client, assertion)
            jti, expires_at = self._checked(client, claims, endpoint)
        except (*_UNREADABLE, GatewayError):
            raise unknown_client("the client assertion is not signed by the client, or has a wrong claim") from None
        # Only now, so that nobody uses up the number of an assertion that they cannot make.
        if not await self._once.first("assertion", client.client_id, jti, expires_at + SKEW_S + 1):
            raise unknown_client("the client assertion was used before")

    async def _signed_claims(self, client: OAuthClient, assertion: str) -> Mapping[str, Any]:
        signed = Compact(assertion, MAX_CHARACTERS)
        header = signed.header
        if not _HEADER.issuperset(header) or header["alg"] not in ALGORITHMS or header.get("typ", "JWT") not in _TYPES:
            raise ValueError("a header that assertions do not have")
        keys = await self._keys.fitting(client, header.get("kid"), header["alg"])
        if not any(signed.signed_by(key, header["alg"]) for key in keys):
            raise ValueError("not signed by a key of the client")
        return signed.claims

    def _checked(self, client: OAuthClient, claims: Mapping[str, Any], endpoint: str) -> tuple[str, float]:
        """Return `jti` and `exp`. Raises ValueError, LookupError, TypeError."""
        now = self._clock.time()
        audience = claims["aud"]
        if isinstance(audience, list):
            (audience,) = audience
        base = self._endpoints.base
        if audience not in {base, f"{base}/oauth/token", base + endpoint}:
            raise ValueError("for another audience")
        if claims["iss"] != client.client_id or claims["sub"] != client.client_id:
            raise ValueError("from another client")
        expires_at = _seconds(claims["exp"])
        if not now < expires_at + SKEW_S or expires_at > now + MAX_LIFE_S + SKEW_S:
            raise ValueError("expired, or good for too long")
        for name in ("nbf", "iat"):
            if name in claims and _seconds(claims[name]) > now + SKEW_S:
                raise ValueError("not valid yet")
        jti = claims["jti"]
        if not isinstance(jti, str) or not 0 < len(jti) <= 256:
            raise ValueError("without a number of its own")
        return jti, expires_at


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("a time that is no number")
    return float(value)


def refuse_public(client: OAuthClient) -> None:
    """Raise Refused for a client that proves nothing: some grants are for those that do."""
    if client.auth_method == "none":
        raise Refused("unauthorized_client", "this grant is for clients that authenticate")
