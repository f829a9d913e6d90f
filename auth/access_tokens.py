"""Our access tokens: signed JWTs of RFC 9068, each for exactly one endpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from joserfc import jwt

from mcpgw.auth.compact import Compact
from mcpgw.auth.endpoints import Endpoints
from mcpgw.auth.scopes import AGENT_SCOPES
from mcpgw.auth.signing import ALGORITHM, SigningKeys
from mcpgw.domain import Principal
from mcpgw.domain.values import value
from mcpgw.errors import Unauthenticated
from mcpgw.ports import Identities

TYPE = "at+jwt"
MAX_CHARACTERS = 4096
SKEW_S = 5
"""How far the clock of another node that issued a token may be ahead of ours."""
MAX_ACTORS = 8
# What we write and nothing else: `jku`, `x5u`, `jwk` and `x5c` would name the key to trust, `crit` would ask for more.
_HEADER = {"alg", "typ", "kid"}
_LAST_SECOND = 2**53


@value(frozen=True, slots=True, kw_only=True)
class NewToken:
    """What a token is to say. `subject` is an Account's id, or that of a client that acts for itself.

    `endpoint` is a path, `scope` as RFC 6749 §3.3 writes it, `grant` the id of the user's authorization, `act` the
    claim of RFC 8693 §4.1.
    """

    subject: str
    client_id: str
    endpoint: str
    scope: str
    jti: str
    ttl_s: int
    grant: str | None = None
    act: Mapping[str, Any] | None = None


class Source(Protocol):
    """Who answers for what a token says. `generation` changes with the keys: what older ones signed is read anew."""

    @property
    def generation(self) -> object: ...


class TokenFacts:
    """What a token of ours says, its signature verified; nothing of what its holder may do now.

    `grant` is the id of the authorization that a user gave (None: the client acts for itself), `actors` as in
    Principal. `endpoints` are paths, times are Unix seconds; after `fresh_until` the token is read anew. `admitted` is
    what `Verifier` last made of these facts and the identities of a world, valid for those very identities alone.
    """

    __slots__ = (
        "actors",
        "admitted",
        "begins_at",
        "client_id",
        "endpoints",
        "expires_at",
        "fresh_until",
        "generation",
        "grant",
        "issued_at",
        "jti",
        "scopes",
        "source",
        "subject",
    )

    def __init__(self, claims: Mapping[str, Any], endpoint: str, source: Source) -> None:
        self.endpoints = (endpoint,)
        self.source = source
        self.generation = source.generation
        self.subject = _text(claims, "sub")
        self.client_id = _text(claims, "client_id")
        self.jti = _text(claims, "jti")
        self.scopes = frozenset(_text(claims, "scope").split())
        self.issued_at = _seconds(claims, "iat")
        self.begins_at = max(self.issued_at - SKEW_S, _seconds(claims, "nbf") if "nbf" in claims else 0)
        self.expires_at = self.fresh_until = _seconds(claims, "exp")
        self.grant = _text(claims, "gid") if "gid" in claims else None
        self.actors = _actors(claims.get("act"))
        if self.actors:  # who acts for an administrator administers nothing
            self.scopes &= AGENT_SCOPES
        self.admitted: tuple[Identities, Principal] | None = None


class AccessTokens:
    """Issues tokens and reads them back."""

    def __init__(self, signing: SigningKeys, endpoints: Endpoints) -> None:
        self._signing = signing
        self._endpoints = endpoints

    @property
    def issuer(self) -> str:
        return self._endpoints.base

    @property
    def generation(self) -> bytes:
        return self._signing.generation

    def issue(self, new: NewToken, now: float) -> str:
        """Return a token of RFC 9068 §2.2 for one endpoint. `now` in Unix seconds."""
        issued_at = int(now)
        claims: dict[str, Any] = {
            "iss": self.issuer,
            "sub": new.subject,
            "aud": self._endpoints.url(new.endpoint),
            "client_id": new.client_id,
            "scope": new.scope,
            "jti": new.jti,
            "iat": issued_at,
            "exp": issued_at + new.ttl_s,
        }
        if new.grant is not None:
            claims["gid"] = new.grant
        if new.act is not None:
            claims["act"] = new.act
        header = {"alg": ALGORITHM, "typ": TYPE, "kid": self._signing.kid}
        return jwt.encode(header, claims, self._signing.current, [ALGORITHM])

    def read(self, token: str) -> TokenFacts:
        """Return the facts of a token that we signed (RFC 9068 §4, without its times).

        Raises Unauthenticated, or what the libraries raise on rubbish: JoseError, ValueError, TypeError, LookupError.
        """
        if len(token) > MAX_CHARACTERS:
            raise Unauthenticated("the access token is longer than ours are")
        signed = Compact(token)
        header, claims = signed.header, signed.claims
        if header.keys() != _HEADER or header["typ"] != TYPE or header["alg"] != ALGORITHM:
            raise Unauthenticated("the access token has a header that ours do not have")
        key = self._signing.find(header["kid"])
        if key is None:
            raise Unauthenticated("the access token is signed with a key that is not ours")
        if not signed.signed_by(key, ALGORITHM):
            raise Unauthenticated("the access token's signature does not hold")
        # Issuers are compared byte for byte: RFC 9068 §4.
        if claims["iss"] != self.issuer:
            raise Unauthenticated("the access token is from another issuer")
        return TokenFacts(claims, self._endpoint(claims["aud"]), self)

    def _endpoint(self, audience: object) -> str:
        # A list is never ours, even if we stand in it: RFC 9068 §3 lets a token have one, and we issue none.
        if isinstance(audience, str) and audience.startswith(f"{self._endpoints.base}/"):
            return audience.removeprefix(self._endpoints.base)
        raise Unauthenticated("the access token is for another audience")


def _actors(act: object) -> tuple[str, ...]:
    """Return the chain of RFC 8693 §4.1, nearest first, each as `issuer|subject`. Raises TypeError, LookupError."""
    found: list[str] = []
    while act is not None:
        if not isinstance(act, Mapping) or len(found) == MAX_ACTORS:
            raise TypeError("a claim `act` that is no chain of actors")
        found.append(f"{_text(act, 'iss')}|{_text(act, 'sub')}")
        act = act.get("act")
    return tuple(found)


def _text(claims: Mapping[str, Any], name: str) -> str:
    value = claims[name]
    if not isinstance(value, str):
        raise TypeError("a claim that must be a string is none")
    return value


def _seconds(claims: Mapping[str, Any], name: str) -> int:
    value = claims[name]
    # A bool is an int too, and an integer of JSON may be larger than any time.
    if type(value) is not int or not 0 <= value < _LAST_SECOND:
        raise TypeError("a claim that must be a number of seconds is none")
    return value
