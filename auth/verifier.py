"""Who presented this credential? API keys, access tokens of ours and of other issuers, checked anew on every call.

What is remembered between calls is what a credential *says*. What its holder may do (roles, team, revocations) is read
from the world of the call, so a revocation holds from the moment the world knows of it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets

from joserfc.errors import JoseError

from mcpgw.auth import keys
from mcpgw.auth.access_tokens import AccessTokens, TokenFacts
from mcpgw.auth.claims import ForeignFacts, holder_of_foreign
from mcpgw.auth.compact import MAX_CHARACTERS, Compact
from mcpgw.auth.endpoints import MCP, Endpoints, endpoint_of, opens
from mcpgw.auth.holders import ISSUER, holder_of_key, holder_of_token
from mcpgw.auth.issuers import Issuers
from mcpgw.auth.scopes import ADMIN_SCOPES, AGENT_SCOPES
from mcpgw.domain import ApiKey, Kind, Presented, Principal
from mcpgw.errors import Unauthenticated
from mcpgw.ports import Clock, Identities, World

Facts = TokenFacts | ForeignFacts

# Base64url of what begins with a brace, and a point: such a token is a JWT, or nothing.
_JWT = re.compile(r"e[w-z0-9_-][A-Za-z0-9_-]*\.")
_NOBODY = ApiKey(id="", digest="0" * 64, subject="", roles=frozenset(), created_by="", created_at=0.0)

# All that parsing hostile bytes can raise. Whatever happens in here, nobody is let through and nobody learns why.
_UNREADABLE = (JoseError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError)


class Verifier:
    """Implements `ports.TokenVerifier`. `remembered` bounds the number of tokens whose facts are kept."""

    def __init__(
        self,
        *,
        pepper: bytes,
        tokens: AccessTokens,
        endpoints: Endpoints,
        clock: Clock,
        issuers: Issuers | None = None,
        remembered: int = 10_000,
    ) -> None:
        self._pepper = pepper
        self._tokens = tokens
        self._endpoints = endpoints
        self._clock = clock
        self._issuers = issuers
        self._remembered = remembered
        self._salt = secrets.token_bytes(32)
        self._facts: dict[bytes, Facts] = {}

    async def verify(self, presented: Presented, resource: str, world: World) -> Principal:
        """Return who presented this credential for the endpoint `resource` (a path).

        Raises Unauthenticated; Unavailable when an issuer that must be asked does not answer. Waits for nothing
        where the token is known.
        """
        token = presented.token
        if not token or presented.scheme != "bearer":
            raise Unauthenticated("no bearer credential", fix="send Authorization: Bearer, with an API key or a token")
        try:
            if token.startswith(keys.PREFIX):
                return self._holder_of_key(token, world)
            # The whole token, never a part of it: two tokens may share any prefix.
            place = hashlib.sha256(token.encode()).digest()
            facts = self._facts.get(place)
            now = self._clock.time()
            if facts is None or facts.generation != facts.source.generation or not now < facts.fresh_until:
                facts = await self._learned(place, token, facts, now)
            return self._holder_of_token(facts, resource, world.identities)
        except _UNREADABLE:
            raise Unauthenticated("the credential cannot be read", fix="send it whole and unchanged") from None

    def _holder_of_key(self, text: str, world: World) -> Principal:
        # A key that was recognised in this world is so again; found by a keyed digest of all of it.
        place = hashlib.blake2b(text.encode(), key=self._salt, digest_size=16).digest()
        held: tuple[Principal, float | None] | None = world.memo.get(place)
        if held is None:
            held = world.memo[place] = self._recognised(text, world)
        who, expires_at = held
        if expires_at is not None and not self._clock.time() < expires_at:
            raise Unauthenticated("the API key has expired", fix="ask an administrator for a new one")
        return who

    def _recognised(self, text: str, world: World) -> tuple[Principal, float | None]:
        _, key_id, secret = text.split("_")
        # An unknown id is compared with some other key, which is as far away in memory: the same steps, the same time.
        rows = world.state.keys
        decoy = rows[hash(key_id) % len(rows)] if rows else _NOBODY
        key = world.identities.keys.get(key_id, decoy)
        if not hmac.compare_digest(keys.digest(self._pepper, secret), key.digest) or key.id != key_id:
            if not keys.well_formed(text):
                raise Unauthenticated("the API key is mistyped or cut short", fix="copy it again, whole")
            raise Unauthenticated("the API key is not valid", fix="ask an administrator for one: mcpgw keys create")
        return holder_of_key(key, world.identities), key.expires_at

    def _holder_of_token(self, facts: Facts, resource: str, identities: Identities) -> Principal:
        if not facts.begins_at <= self._clock.time():
            raise Unauthenticated("the access token is not valid yet", fix="check the clocks")
        if resource not in facts.endpoints and not any(opens(endpoint, resource) for endpoint in facts.endpoints):
            wanted = self._endpoints.url(endpoint_of(resource) or MCP)
            raise Unauthenticated("the access token is for another audience", fix=f"request it with resource={wanted}")
        if facts.admitted is None or facts.admitted[0] is not identities:
            if isinstance(facts, TokenFacts):
                facts.admitted = identities, holder_of_token(facts, identities)
            else:
                facts.admitted = identities, holder_of_foreign(facts, identities)
        return facts.admitted[1]

    async def _learned(self, place: bytes, token: str, old: Facts | None, now: float) -> Facts:
        """Return what a token says that is not known, or not any more."""
        self._facts.pop(place, None)
        facts = old if old is not None and not now < old.expires_at else await self._read(token, place)
        if not self._clock.time() < facts.expires_at:
            raise Unauthenticated("the access token has expired", fix="get a new one")
        # Only tokens that were verified get here, so a stranger cannot push the others out.
        while len(self._facts) >= self._remembered:
            del self._facts[next(iter(self._facts))]
        self._facts[place] = facts
        return facts

    async def _read(self, token: str, place: bytes) -> Facts:
        if self._issuers is None:
            return self._tokens.read(token)
        if len(token) > MAX_CHARACTERS:
            raise Unauthenticated("the access token is longer than any that is read here")
        # What it says of its issuer is not verified yet: it chooses whose keys must fit.
        parsed = Compact(token) if _JWT.match(token) else None
        if parsed is not None and parsed.claims.get("iss") == self._tokens.issuer:
            return self._tokens.read(token)
        return await self._issuers.read(token, parsed, place.hex())


class DevVerifier:
    """Everyone is the same all-powerful developer: `--dev-no-auth`, which the settings allow on loopback only."""

    def __init__(self) -> None:
        self.who = Principal(
            issuer=ISSUER,
            subject="dev",
            client_id="dev",
            kind=Kind.ADMIN,
            roles=frozenset({"agent", "admin"}),
            scopes=AGENT_SCOPES | ADMIN_SCOPES,
        )

    async def verify(self, presented: Presented, resource: str, world: World) -> Principal:
        return self.who
