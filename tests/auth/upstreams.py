"""Brokers with real parts: records in a database, a vault, and an authorization server that is a process of its own."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2
import msgspec

from mcpgw.auth.broker import Broker
from mcpgw.auth.endpoints import Endpoints
from mcpgw.auth.fetch import Fetcher
from mcpgw.auth.signing import SigningKeys
from mcpgw.auth.upstream.assertion import Assertions, SignedAssertion
from mcpgw.auth.upstream.configured import ConfiguredHeaders
from mcpgw.auth.upstream.discovery import Discovery
from mcpgw.auth.upstream.endings import Endings
from mcpgw.auth.upstream.exchange import Exchanged, ProvidedTokens
from mcpgw.auth.upstream.machine import ClientCredentials
from mcpgw.auth.upstream.requests import BASIC, Client, TokenRequests
from mcpgw.auth.upstream.static import Named, References, StaticHeaders
from mcpgw.auth.upstream.tokens import Tokens
from mcpgw.auth.vault import NEVER, Vault
from mcpgw.auth.vault import SECRET as SECRETS
from mcpgw.auth.vault_keys import VaultKeys
from mcpgw.clock import SystemClock
from mcpgw.config import Settings
from mcpgw.domain import (
    Account,
    Action,
    Arguments,
    AuthMode,
    Decision,
    Effect,
    Judged,
    Kind,
    Principal,
    Route,
    ServerVersion,
    UpstreamAuth,
    Verb,
)
from mcpgw.ports import Clock
from mcpgw.store.migrations import upgrade
from mcpgw.store.records import SqlRecords
from mcpgw.store.sql import SqlStore
from tests.fixtures.processes import running
from tests.upstream.calls import version

BASE = "https://gateway.example"
SECRET = "canary-5c1f-client-secret"
CLIENTS = {"gw-basic": SECRET, "gw-jwt": None}
ALICE = Principal(
    issuer="https://idp.example",
    subject="alice",
    client_id="agent",
    kind=Kind.USER,
    roles=frozenset({"agent"}),
    team="research",
    account="account-alice",
)
BOB = replace(ALICE, subject="bob", account="account-bob")


@dataclass(frozen=True)
class Authority:
    """The authorization server of a test."""

    issuer: str

    def about(self, what: str) -> Any:
        return httpx2.get(f"{self.issuer}/about/{what}").json()

    def void(self, name: str) -> None:
        httpx2.post(f"{self.issuer}/void/{name}")

    def trust(self, signing: SigningKeys, issuer: str = BASE) -> None:
        httpx2.post(f"{self.issuer}/trust", json={"issuer": issuer, "jwks": signing.jwks()})

    def id_token(self, name: str) -> str:
        text: str = httpx2.get(f"{self.issuer}/id_token/{name}").json()
        return text

    def resource(self, name: str) -> str:
        return f"{self.issuer}/mcp/{name}"

    def auth(self, mode: AuthMode, **more: Any) -> UpstreamAuth:
        given = {"issuer": self.issuer, "client_id": "gw-jwt", "scopes": ("notes:read",), **more}
        return UpstreamAuth(mode=mode, **given)


@contextmanager
def authority(log: Path, ttl_s: float = 300.0) -> Iterator[Authority]:
    settings = json.dumps({"clients": CLIENTS, "ttl_s": ttl_s})
    with running([sys.executable, "-m", "tests.fixtures.guarded_server", settings], log=log) as process:
        yield Authority(process.url)


@dataclass
class Parts:
    """All that one worker has towards upstreams."""

    broker: Broker
    tokens: Tokens
    vault: Vault
    signing: SigningKeys
    provided: ProvidedTokens
    endings: Endings

    async def headers(self, judged: Judged) -> Mapping[str, str]:
        return await self.broker.credential_for(judged)

    async def named(self, name: str, value: str, *origins: str) -> None:
        await self.vault.put(SECRETS, name, "gateway", msgspec.json.encode(Named(value, origins)), NEVER)


@asynccontextmanager
async def worker(directory: Path, clock: Clock | None = None) -> AsyncIterator[Parts]:
    """Return the parts of a worker on the data directory, beside others on the same one."""
    url = f"sqlite+aiosqlite:///{directory / 'state.db'}"
    upgrade(url)
    clock, settings, store = clock or SystemClock(), Settings(data_dir=directory), SqlStore(url)
    records, signing = SqlRecords(store, clock), SigningKeys.load(directory)
    vault = Vault(records, VaultKeys.load(settings))
    fetcher = Fetcher((), allow_loopback=True)
    tokens, references, known = Tokens(vault, records, clock), References(vault), Discovery(fetcher, clock)
    requests = TokenRequests(fetcher, known, signing, references, clock)
    assertions, provided = Assertions(signing, Endpoints(BASE), clock), ProvidedTokens(vault)
    at_provider = Client("gw-basic", BASIC, SECRET)
    exchanged = Exchanged(tokens, requests, assertions, provided, known, lambda issuer: at_provider)
    broker = Broker(
        ConfiguredHeaders(settings, references),
        {
            AuthMode.STATIC: StaticHeaders(references),
            AuthMode.CLIENT_CREDENTIALS: ClientCredentials(tokens, requests),
            AuthMode.TOKEN_EXCHANGE: exchanged,
            AuthMode.ID_JAG: exchanged,
            AuthMode.ASSERTION: SignedAssertion(assertions, clock),
        },
    )
    endings = Endings(vault, tokens, requests, known, leads=True)
    try:
        yield Parts(broker, tokens, vault, signing, provided, endings)
    finally:
        await endings.close()
        await tokens.close()
        await store.close()


def judged(
    endpoint: str,
    auth: UpstreamAuth | None,
    who: Principal = ALICE,
    *,
    verb: Verb = Verb.TOOLS_CALL,
    route: Route = Route.MCP,
    epoch: int = 1,
) -> Judged:
    target: ServerVersion = replace(version(endpoint, server=endpoint.rpartition("/")[2]), auth=auth)
    return Judged(
        principal=who,
        action=Action(id="1", route=route, verb=verb, resource="/mcp", received_at=0.0, server="srv", name="t"),
        decision=Decision(Effect.ALLOW, ("r",), "0" * 64),
        arguments=Arguments(),
        epoch=epoch,
        version=target,
    )


def account(who: Principal, **given: Any) -> Account:
    return Account(
        id=who.account or "",
        issuer=who.issuer,
        subject=who.subject,
        kind=Kind.USER,
        roles=frozenset({"agent"}),
        created_by="mcpgw|root",
        created_at=0.0,
        **given,
    )
