"""The issuers that the operator has configured besides our own, and how a token finds its one."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from mcpgw.auth.claims import ForeignFacts, Reading
from mcpgw.auth.compact import UNTRUSTED, Compact
from mcpgw.auth.endpoints import Endpoints
from mcpgw.auth.fetch import Fetcher
from mcpgw.auth.introspect import Introspection
from mcpgw.auth.jwks import IssuerKeys
from mcpgw.domain import Principal
from mcpgw.errors import FetchRefused, Unauthenticated, UsageError
from mcpgw.issuer_section import IssuerSection
from mcpgw.ports import Clock


class Issuer:
    """One issuer of JWTs. `generation` changes with its keys."""

    def __init__(self, section: IssuerSection, reading: Reading, keys: IssuerKeys, clock: Clock) -> None:
        self.section = section
        self._algorithms = frozenset(section.algorithms)
        self._types = frozenset(kind.lower() for kind in section.types)
        self._reading = reading
        self._keys = keys
        self._clock = clock

    @property
    def generation(self) -> int:
        return self._keys.generation

    async def read(self, token: Compact, digest: str) -> ForeignFacts:
        """Return the facts of a token (RFC 9068 §4, without its times). Raises Unauthenticated, Unavailable."""
        await self.verify(token, self._types)
        now = self._clock.time()
        facts = self._reading.facts(token.claims, digest, self, now)
        # Then its key is looked for again: one that its issuer has withdrawn does not count for long.
        facts.fresh_until = min(facts.expires_at, now + self._keys.fresh_s)
        return facts

    async def verify(self, token: Compact, types: Collection[str]) -> None:
        """Return when a token is of one of these types, and signed by the issuer.

        Raises Unauthenticated; Unavailable when the issuer's keys cannot be had.
        """
        if not UNTRUSTED.isdisjoint(token.header):
            raise Unauthenticated("the access token's header names a key to trust, or an extension")
        algorithm, kid = token.text("alg"), token.text("kid")
        if algorithm not in self._algorithms:
            raise Unauthenticated("the access token is signed with an algorithm that is not allowed for its issuer")
        # RFC 7515 §4.1.9: `application/` may be left out.
        if (token.text("typ") or "").lower().removeprefix("application/") not in types:
            raise Unauthenticated("the token is of another type than the access tokens of its issuer")
        if kid is None:
            raise Unauthenticated("the access token does not name the key that it is signed with")
        key = await self._keys.find(kid, algorithm)
        if not token.signed_by(key, algorithm):
            raise Unauthenticated("the access token's signature does not hold")


class Issuers:
    """All of them. What a token says of its issuer before it is verified only chooses among these."""

    def __init__(self, sections: Sequence[IssuerSection], endpoints: Endpoints, fetcher: Fetcher, clock: Clock) -> None:
        self._by_name: dict[str, Issuer] = {}
        self._opaque: Introspection | None = None
        for section in sections:
            if section.issuer.rstrip("/") == endpoints.base:
                raise UsageError("auth.issuers: the gateway itself is listed", fix="leave it out: it always counts")
            _check_urls(section, fetcher)
            reading = Reading(section, endpoints)
            keys = IssuerKeys(section, fetcher.fetch, clock)
            self._by_name[section.issuer] = Issuer(section, reading, keys, clock)
            if section.introspection is not None:
                self._opaque = Introspection(section.introspection, reading, fetcher.fetch, clock)

    def granting(self, name: object) -> Issuer | None:
        """Return the issuer of this name, if it may grant access in its users' names (ID-JAG)."""
        issuer = self._by_name.get(name) if isinstance(name, str) else None
        return issuer if issuer is not None and issuer.section.id_jag else None

    async def read(self, token: str, parsed: Compact | None, digest: str) -> ForeignFacts:
        """Return the facts of a token that is not ours; `parsed` None: one that is no JWT.

        Raises Unauthenticated; Unavailable when its issuer does not answer, and says nothing of the token then.
        """
        if parsed is None:
            if self._opaque is None:
                raise Unauthenticated("the credential cannot be read", fix="send it whole and unchanged")
            return await self._opaque.read(token, digest)
        name = parsed.claims.get("iss")
        issuer = self._by_name.get(name) if isinstance(name, str) else None
        if issuer is None:
            raise Unauthenticated("the access token is from an issuer that does not count here")
        return await issuer.read(parsed, digest)

    def refusal_of(self, who: Principal) -> Unauthenticated | None:
        """Return why a call that runs may not go on, as far as the issuer of its opaque token says; or None."""
        return None if self._opaque is None else self._opaque.refusal_of(who)


def _check_urls(section: IssuerSection, fetcher: Fetcher) -> None:
    named = (section.issuer, section.jwks_uri, section.introspection.endpoint if section.introspection else None)
    for url in filter(None, named):
        try:
            fetcher.check(url)
        except FetchRefused as refusal:
            raise UsageError(f"auth.issuers: {section.issuer}: {refusal.message}", fix=refusal.fix) from None
