"""Who presented this credential? API keys and our own access tokens, checked anew on every call.

What is remembered between calls is what a credential *says*. What its holder may do (roles, team, revocations) is read
from the world of the call, so a revocation holds from the moment the world knows of it.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping

from joserfc.errors import JoseError

from mcpgw.auth import keys
from mcpgw.auth.access_tokens import AccessTokens, TokenFacts
from mcpgw.auth.endpoints import MCP, Endpoints, endpoint_of, opens
from mcpgw.auth.scopes import ADMIN_SCOPES, AGENT_SCOPES, kind_of, scopes_of
from mcpgw.domain import ApiKey, Kind, OAuthClient, Presented, Principal
from mcpgw.errors import Unauthenticated
from mcpgw.ports import Clock, Identities, World

ISSUER = "mcpgw"
"""The issuer of every principal of ours, whatever the URL of the gateway: a kill switch on `mcpgw|bob` holds for bob's
keys and tokens alike, also after the gateway has moved to another port or host."""

_NOBODY = ApiKey(id="", digest="0" * 64, subject="", roles=frozenset(), created_by="", created_at=0.0)

# All that parsing hostile bytes can raise. Whatever happens in here, nobody is let through and nobody learns why.
_UNREADABLE = (JoseError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError)


class Verifier:
    """Implements `ports.TokenVerifier`. `remembered` bounds the number of tokens whose facts are kept."""

    def __init__(
        self, *, pepper: bytes, tokens: AccessTokens, endpoints: Endpoints, clock: Clock, remembered: int = 10_000
    ) -> None:
        self._pepper = pepper
        self._tokens = tokens
        self._endpoints = endpoints
        self._clock = clock
        self._remembered = remembered
        self._salt = secrets.token_bytes(32)
        self._facts: dict[bytes, TokenFacts] = {}

    async def verify(self, presented: Presented, resource: str, world: World) -> Principal:
        """Return who presented this credential for the endpoint `resource` (a path). Raises Unauthenticated."""
        token = presented.token
        if not token or presented.scheme != "bearer":
            raise Unauthenticated("no bearer credential", fix="send Authorization: Bearer, with an API key or a token")
        try:
            if token.startswith(keys.PREFIX):
                return self._holder_of_key(token, world)
            return self._holder_of_token(token, resource, world.identities)
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
        return _key_principal(key, world.identities), key.expires_at

    def _holder_of_token(self, token: str, resource: str, identities: Identities) -> Principal:
        # The whole token, never a part of it: two tokens may share any prefix.
        place = hashlib.sha256(self._tokens.generation + token.encode()).digest()
        facts = self._facts.get(place)
        if facts is None:
            facts = self._learn(place, token)
        now = self._clock.time()
        if not now < facts.expires_at:
            self._facts.pop(place, None)
            raise Unauthenticated("the access token has expired", fix=f"get a new one from {self._endpoints.base}")
        if not facts.begins_at <= now:
            raise Unauthenticated("the access token is not valid yet", fix="check the clocks")
        if not opens(facts.endpoint, resource):
            wanted = self._endpoints.url(endpoint_of(resource) or MCP)
            raise Unauthenticated("the access token is for another audience", fix=f"request it with resource={wanted}")
        client = identities.clients.get(facts.client_id)
        if client is None or client.revoked_at is not None:
            raise Unauthenticated("the client of this access token is unknown or revoked", fix="ask an administrator")
        if identities.not_before and voided(identities.not_before, facts.subject, facts.client_id, facts.issued_at):
            raise Unauthenticated("the access token is revoked", fix="get a new one")
        if facts.admitted is None or facts.admitted[0] is not client:
            facts.admitted = client, _token_principal(facts, client)
        return facts.admitted[1]

    def _learn(self, place: bytes, token: str) -> TokenFacts:
        facts = self._tokens.read(token)
        # Only tokens that we signed get here, so a stranger cannot push the others out.
        while len(self._facts) >= self._remembered:
            del self._facts[next(iter(self._facts))]
        self._facts[place] = facts
        return facts


class DevVerifier:
    """Everyone is the same all-powerful developer: `--dev-no-auth`, which the settings allow on loopback only."""

    def __init__(self) -> None:
        self._who = Principal(
            issuer=ISSUER,
            subject="dev",
            client_id="dev",
            kind=Kind.ADMIN,
            roles=frozenset({"agent", "admin"}),
            scopes=AGENT_SCOPES | ADMIN_SCOPES,
        )

    async def verify(self, presented: Presented, resource: str, world: World) -> Principal:
        return self._who


def _key_principal(key: ApiKey, identities: Identities) -> Principal:
    if key.revoked_at is not None or voided(identities.not_before, key.subject, key.id, key.created_at):
        raise Unauthenticated("the API key is revoked", fix="ask an administrator for a new one")
    return Principal(
        issuer=ISSUER,
        subject=key.subject,
        client_id=key.id,
        kind=kind_of(key.roles),
        roles=key.roles,
        scopes=scopes_of(key.roles),
        team=key.team,
        credential=key.id,
        expires_at=key.expires_at,
    )


def _token_principal(facts: TokenFacts, client: OAuthClient) -> Principal:
    if facts.subject != client.subject:
        raise Unauthenticated("the access token is for another subject", fix="get a new one")
    return Principal(
        issuer=ISSUER,
        subject=client.subject,
        client_id=client.client_id,
        kind=kind_of(client.roles),
        roles=client.roles,
        # What the token grants and the client still holds.
        scopes=facts.scopes & scopes_of(client.roles),
        team=client.team,
        credential=facts.jti,
        expires_at=float(facts.expires_at),
    )


def voided(not_before: Mapping[tuple[str, str], float], subject: str, client_id: str, issued_at: float) -> bool:
    """Whether a credential of ours was issued before its principal, client or issuer was revoked up to a time."""
    places = (("principal", f"{ISSUER}|{subject}"), ("client", client_id), ("issuer", ISSUER))
    return any(issued_at < not_before.get(place, 0.0) for place in places)
