"""What the tests of this folder share: a clock that can be set, a gateway's identity parts, tokens that lie."""

from __future__ import annotations

import base64
import json
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest
from joserfc import jws
from joserfc.jwk import ECKey

from mcpgw.auth import keys
from mcpgw.auth.access_tokens import AccessTokens, NewToken
from mcpgw.auth.endpoints import Endpoints
from mcpgw.auth.signing import SigningKeys
from mcpgw.auth.verifier import Verifier
from mcpgw.domain import ApiKey, Decision, OAuthClient, Presented, Principal, Revocation, State, Switches
from mcpgw.errors import Unauthenticated
from mcpgw.ports import Identities, Question, Store, World
from mcpgw.world import NoCatalog

BASE = "https://gateway.example"
PEPPER = b"a pepper that is long enough for all"
START = 1_800_000_000.0


class SettableClock:
    def __init__(self, now: float = START) -> None:
        self.now = now
        self.made = 0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now - START

    def new_id(self) -> str:
        self.made += 1
        return f"id-{self.made}"


class NoPolicy:
    sha256 = "0" * 64

    async def decide(self, question: Question) -> Decision:
        raise AssertionError("authentication asks no policy")


def world_of(state: State, unavailable: str | None = None) -> World:
    return World(
        epoch=state.epoch,
        catalog=NoCatalog(),
        switches=Switches(),
        policy=NoPolicy(),
        identities=Identities.of(state),
        state=state,
        unavailable=unavailable,
    )


def world(*rows: ApiKey | OAuthClient | Revocation, epoch: int = 1, unavailable: str | None = None) -> World:
    state = State(
        epoch=epoch,
        keys=tuple(r for r in rows if isinstance(r, ApiKey)),
        clients=tuple(r for r in rows if isinstance(r, OAuthClient)),
        revocations=tuple(r for r in rows if isinstance(r, Revocation)),
    )
    return world_of(state, unavailable)


class StoreWorlds:
    """The current world of a store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.current = world()

    def published(self) -> int:
        return self.current.epoch

    async def at_least(self, epoch: int) -> World:
        read = world_of(await self._store.state())
        if read.epoch > self.current.epoch:  # of two reads at once the older one may come in last
            self.current = read
        assert self.current.epoch >= epoch
        return self.current


@dataclass
class Identity:
    """All of one gateway that has to do with identity, on a clock that can be set."""

    clock: SettableClock
    endpoints: Endpoints
    signing: SigningKeys
    tokens: AccessTokens
    verifier: Verifier

    @classmethod
    def at(cls, directory: Path, base: str = BASE) -> Identity:
        clock, endpoints, signing = SettableClock(), Endpoints(base), SigningKeys.load(directory)
        tokens = AccessTokens(signing, endpoints)
        verifier = Verifier(pepper=PEPPER, tokens=tokens, endpoints=endpoints, clock=clock, remembered=100)
        return cls(clock, endpoints, signing, tokens, verifier)

    def who(self, token: str | None, resource: str, now: World, scheme: str | None = "bearer") -> Principal:
        return outcome(self.verifier.verify(Presented(scheme=scheme, token=token), resource, now))

    def refused(self, token: str | None, resource: str, now: World, scheme: str | None = "bearer") -> str:
        with pytest.raises(Unauthenticated) as refusal:
            self.who(token, resource, now, scheme)
        return refusal.value.message

    def token(self, client: OAuthClient, endpoint: str = "/mcp", scope: str = "mcp:use") -> str:
        new = NewToken(
            subject=client.subject,
            client_id=client.client_id,
            endpoint=endpoint,
            scope=scope,
            jti="jti-1",
            ttl_s=900,
        )
        return self.tokens.issue(new, self.clock.now)

    def claims(self, **changed: Any) -> dict[str, Any]:
        """The claims of a good token of the client `bot`; a claim changed to None is left out."""
        now = int(self.clock.now)
        good = {
            "iss": self.endpoints.base,
            "sub": "bot",
            "aud": self.endpoints.url("/mcp"),
            "client_id": "bot-client",
            "scope": "mcp:use",
            "jti": "jti-1",
            "iat": now,
            "exp": now + 900,
        }
        return {name: value for name, value in {**good, **changed}.items() if value is not None}

    def signed(
        self, claims: Mapping[str, Any] | bytes, header: Mapping[str, Any] | None = None, key: ECKey | None = None
    ) -> str:
        """A token with a signature that holds, whatever it says."""
        body = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
        head = encoded({"alg": "ES256", "typ": "at+jwt", "kid": self.signing.kid, **(header or {})})
        message = f"{head}.{b64(body)}"
        algorithm = jws.JWSRegistry.algorithms["ES256"]
        return f"{message}.{b64(algorithm.sign(message.encode(), key or self.signing.current))}"


def outcome(call: Coroutine[Any, Any, Principal]) -> Principal:
    """Run a coroutine that never waits."""
    try:
        call.send(None)
    except StopIteration as done:
        result: Principal = done.value
        return result
    _waited()


def _waited() -> NoReturn:
    raise AssertionError("verification waited for something")


def agent_key(subject: str = "bot", **given: Any) -> tuple[ApiKey, str]:
    given = {"roles": {"agent"}, "created_by": "mcpgw|root", "created_at": START, **given}
    return keys.new_key(PEPPER, subject=subject, **given)


def a_client(client_id: str = "bot-client", subject: str = "bot", **given: Any) -> tuple[OAuthClient, str]:
    secret, _ = keys.new_secret(keys.CLIENT_LABEL)
    given = {"roles": frozenset({"agent"}), "created_by": "mcpgw|root", "created_at": START, **given}
    return OAuthClient(client_id=client_id, subject=subject, digest=keys.digest(PEPPER, secret), **given), secret


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def encoded(document: Mapping[str, Any]) -> str:
    return b64(json.dumps(document).encode())
