"""Tokens towards upstreams go away with whoever holds them, and with what they are for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mcpgw.auth.upstream.exchange import Provided
from mcpgw.auth.vault import NEVER, PROVIDER, UPSTREAM
from mcpgw.domain import AuthMode, Server, ServerVersion, State, Team, UpstreamAuth
from tests.auth import upstreams
from tests.auth.parts import START, world_of
from tests.auth.upstreams import ALICE, BOB, Authority, Parts, account, judged, worker

pytestmark = pytest.mark.requirement("broker:endings")


@pytest.fixture
def authority(tmp_path: Path) -> Iterator[Authority]:
    with upstreams.authority(tmp_path / "authority.log") as found:
        yield found


def state_of(*versions: ServerVersion, active: str | None = "1.0.0", epoch: int = 1, **rows: Any) -> State:
    servers = tuple(
        Server(slug=slug, title="", created_by="x", created_at=0.0) for slug in {v.server for v in versions}
    )
    return State(
        **{
            "epoch": epoch,
            "servers": servers,
            "versions": versions,
            "active": {server.slug: active for server in servers},
            "accounts": (account(ALICE), account(BOB)),
            **rows,
        }
    )


def version_with(authority: Authority, auth: UpstreamAuth) -> ServerVersion:
    found = judged(authority.resource("notes"), auth).version
    assert found is not None
    return found


async def tokens_of(parts: Parts, authority: Authority, auth: UpstreamAuth) -> list[str]:
    """Have a token for each of the two; return them."""
    found = [await parts.headers(judged(authority.resource("notes"), auth, who)) for who in (ALICE, BOB)]
    return [headers["authorization"].removeprefix("Bearer ") for headers in found]


async def owners(parts: Parts, kind: str = UPSTREAM) -> set[str]:
    return {owner.rpartition("|")[2] for _, owner in await parts.vault.ids(kind)}


@pytest.mark.parametrize("how", ["account", "team"])
async def test_a_deactivated_holder_loses_their_tokens_and_nobody_else_does(
    authority: Authority, tmp_path: Path, how: str
) -> None:
    async with worker(tmp_path) as parts:
        authority.trust(parts.signing)
        auth = authority.auth(AuthMode.TOKEN_EXCHANGE)
        version = version_with(authority, auth)
        alice, bob = await tokens_of(parts, authority, auth)
        provided = Provided(issuer=ALICE.issuer, id_token="canary-id-token")
        for who in (ALICE, BOB):
            await parts.provided.keep(account(who), provided, NEVER)
        before = state_of(version)
        if how == "account":
            ended = replace(before, epoch=2, accounts=(account(ALICE, deactivated_at=START), account(BOB)))
        else:
            team = Team(name="sales", title="", created_by="x", created_at=0.0, deactivated_at=START)
            ended = replace(before, epoch=2, accounts=(account(ALICE, team="sales"), account(BOB)), teams=(team,))
        parts.endings.world_changed(world_of(before), world_of(ended))
        await parts.endings.settled()
        assert await owners(parts) == await owners(parts, PROVIDER) == {"bob"}
        assert authority.about("revoked") == [alice]
        assert bob in authority.about("issued")
        again = await parts.headers(judged(authority.resource("notes"), auth, BOB))
        assert again == {"authorization": f"Bearer {bob}"}


async def test_tokens_go_with_a_server_and_with_another_authorization(authority: Authority, tmp_path: Path) -> None:
    async with worker(tmp_path) as parts:
        authority.trust(parts.signing)
        auth, newer = authority.auth(AuthMode.TOKEN_EXCHANGE), authority.auth(AuthMode.TOKEN_EXCHANGE, scopes=("more",))
        old = version_with(authority, auth)
        new = replace(old, version="2.0.0", auth=newer, published_at=old.published_at + 1)
        first = await tokens_of(parts, authority, auth)
        second = await tokens_of(parts, authority, newer)
        assert await parts.endings.review(state_of(old, new)) == 0, "the newer is not active yet: both may be"
        assert await parts.endings.review(state_of(old, new, active="2.0.0")) == 2
        assert sorted(authority.about("revoked")) == sorted(first)
        gone = state_of(old, new, active=None)
        assert await parts.endings.review(replace(gone, servers=(replace(gone.servers[0], removed_at=START),))) == 2
        assert sorted(authority.about("revoked")) == sorted(first + second)
        assert await owners(parts) == set()


async def test_what_stays_is_left_alone(authority: Authority, tmp_path: Path) -> None:
    async with worker(tmp_path) as parts:
        authority.trust(parts.signing)
        auth = authority.auth(AuthMode.TOKEN_EXCHANGE)
        await tokens_of(parts, authority, auth)
        state = state_of(version_with(authority, auth))
        parts.endings.world_changed(world_of(state), world_of(replace(state, epoch=2)))
        await parts.endings.settled()
        assert await parts.endings.review(state) == 0
        assert await owners(parts) == {"alice", "bob"}
        assert authority.about("revoked") == []
