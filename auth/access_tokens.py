"""Our access tokens: signed JWTs of RFC 9068, each for exactly one endpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from joserfc import jws, jwt

from mcpgw.auth.endpoints import Endpoints
from mcpgw.auth.signing import ALGORITHM, SigningKeys
from mcpgw.domain import OAuthClient, Principal
from mcpgw.errors import Unauthenticated
from mcpgw.ports import Identities

TYPE = "at+jwt"
MAX_CHARACTERS = 4096
SKEW_S = 5
"""How far the clock of another node that issued a token may be ahead of ours."""
# What we write and nothing else: `jku`, `x5u`, `jwk` and `x5c` would name the key to trust, `crit` would ask for more.
_HEADER = {"alg", "typ", "kid"}


class TokenFacts:
    """What a token says, its signature verified; nothing of what its holder may do now.

    `endpoint` is a path, times are Unix seconds. `admitted` is what `Verifier` last made of these facts and the
    identities of a world, valid for those very identities alone.
    """

    __slots__ = (
        "admitted",
        "begins_at",
        "client_id",
        "endpoint",
        "expires_at",
        "issued_at",
        "jti",
        "scopes",
        "subject",
    )

    def __init__(self, claims: Mapping[str, Any], endpoint: str) -> None:
        self.endpoint = endpoint
        self.subject = _text(claims, "sub")
        self.client_id = _text(claims, "client_id")
        self.jti = _text(claims, "jti")
        self.scopes = frozenset(_text(claims, "scope").split())
        self.issued_at = _seconds(claims, "iat")
        self.begins_at = max(self.issued_at - SKEW_S, _seconds(claims, "nbf") if "nbf" in claims else 0)
        self.expires_at = _seconds(claims, "exp")
        self.admitted: tuple[Identities, Principal] | None = None


class AccessTokens:
    """Issues tokens and reads them back."""

    def __init__(self, signing: SigningKeys, endpoints: Endpoints) -> None:
        self._signing = signing
        self._endpoints = endpoints
        self.generation = signing.generation

    def issue(self, client: OAuthClient, endpoint: str, scope: str, *, jti: str, now: float, ttl_s: int) -> str:
        """Return a token of RFC 9068 §2.2 for one endpoint."""
        issued_at = int(now)
        claims = {
            "iss": self._endpoints.base,
            "sub": client.subject,
            "aud": self._endpoints.url(endpoint),
            "client_id": client.client_id,
            "scope": scope,
            "jti": jti,
            "iat": issued_at,
            "exp": issued_at + ttl_s,
        }
        header = {"alg": ALGORITHM, "typ": TYPE, "kid": self._signing.kid}
        return jwt.encode(header, claims, self._signing.current, [ALGORITHM])

    def read(self, token: str) -> TokenFacts:
        """Return the facts of a token that we signed (RFC 9068 §4, without its times).

        Raises Unauthenticated, or what the libraries raise on rubbish: JoseError, ValueError, TypeError, LookupError.
        """
        if len(token) > MAX_CHARACTERS:
            raise Unauthenticated("the access token is longer than ours are")
        signed = jws.extract_compact(token.encode())
        header = signed.headers()
        if header.keys() != _HEADER or header["typ"] != TYPE or header["alg"] != ALGORITHM:
            raise Unauthenticated("the access token has a header that ours do not have")
        key = self._signing.find(header["kid"])
        if key is None:
            raise Unauthenticated("the access token is signed with a key that is not ours")
        if not jws.validate_compact(signed, key, [ALGORITHM]):
            raise Unauthenticated("the access token's signature does not hold")
        claims = json.loads(signed.payload)
        # Issuers are compared byte for byte: RFC 9068 §4.
        if claims["iss"] != self._endpoints.base:
            raise Unauthenticated("the access token is from another issuer")
        return TokenFacts(claims, self._endpoint(claims["aud"]))

    def _endpoint(self, audience: object) -> str:
        # A list is never ours, even if we stand in it: RFC 9068 §3 lets a token have one, and we issue none.
        if isinstance(audience, str) and audience.startswith(f"{self._endpoints.base}/"):
            return audience.removeprefix(self._endpoints.base)
        raise Unauthenticated("the access token is for another audience")


def _text(claims: Mapping[str, Any], name: str) -> str:
    value = claims[name]
    if not isinstance(value, str):
        raise TypeError("a claim that must be a string is none")
    return value


def _seconds(claims: Mapping[str, Any], name: str) -> int:
    value = claims[name]
    if type(value) is not int:  # a bool is an int, and JSON as Python reads it knows NaN
        raise TypeError("a claim that must be a number of seconds is none")
    return value
