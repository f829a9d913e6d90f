"""Tokens that are each caller's own: kept fresh, let go of, and asked for when they are missing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import msgspec
import pytest

from mcpgw.auth.fetch import Fetcher
from mcpgw.auth.server.forms import ANYONE, Forms
from mcpgw.auth.signing import SigningKeys
from mcpgw.auth.upstream.discovery import Discovery
from mcpgw.auth.upstream.requests import TokenRequests
from mcpgw.auth.upstream.static import References
from mcpgw.auth.upstream.tokens import Kept, Tokens, holder
from mcpgw.auth.upstream.user import TICKET, Connection, Connections, Ticket, UserTokens, place_of
from mcpgw.auth.vault import Vault
from mcpgw.auth.vault_keys import VaultKeys
from mcpgw.config import Settings
from mcpgw.domain import SYSTEM, AuthMode, Judged, Principal, UpstreamAuth
from mcpgw.errors import ConsentNeeded, UpstreamUnreachable
from mcpgw.seals import Seals
from mcpgw.store.migrations import upgrade
from mcpgw.store.records import SqlRecords
from mcpgw.store.sql import SqlStore
from tests.auth.upstreams import ALICE, BASE, BOB, judged
from tests.auth.web_site import Site, json_page, site
from tests.parts import SetClock

URL = "https://notes.example/mcp/notes"
AUTH = UpstreamAuth(mode=AuthMode.USER)
EXPIRED = 'Bearer error="invalid_token", resource_metadata="https://notes.example/m"'
SCOPELESS = 'Bearer error="insufficient_scope", scope="{}"'


@dataclass
class Worker:
    """What one worker has; several share a directory."""

    user: UserTokens
    connections: Connections
    forms: Forms
    clock: SetClock
    issuer: str

    async def connect(self, who: Principal = ALICE, token: str = "first", life_s: float = 600.0, **more: Any) -> None:
        given = {"requested": ("read",), "refresh_token": "refresh-1", **more}
        connection = Connection(
            id=f"connection of {who.subject}",
            server="notes",
            endpoint=URL,
            issuer=self.issuer,
            resource=URL,
            client_id="gateway",
            client_method="none",
            connected_at=self.clock.now,
            **given,
        )
        kept = Kept.granted(token, self.issuer, self.clock.now, life_s)
        await self.connections.keep(place(who), connection, kept)

    async def token(self, who: Principal = ALICE) -> str:
        headers = await self.user.headers_for(call(who), AUTH)
        return headers["authorization"].removeprefix("Bearer ")

    async def refused(self, challenge: str, token: str, who: Principal = ALICE) -> None:
        await self.user.refused(call(who), AUTH, {"authorization": f"Bearer {token}"}, challenge)

    def ticket(self, wanted: ConsentNeeded) -> Ticket:
        text = wanted.data["url"].partition("?ticket=")[2]
        found = self.forms.read(TICKET, ANYONE, text, Ticket)
        assert found is not None
        return found


def call(who: Principal = ALICE) -> Judged:
    found = judged(URL, AUTH, who)
    assert found.version is not None
    return replace(found, version=replace(found.version, published_by=ALICE.selector))


def place(who: Principal = ALICE) -> Any:
    return place_of("notes", URL, AUTH, holder(who.issuer, who.subject))


@pytest.fixture
async def web() -> AsyncIterator[Site]:
    async with site() as made:
        made.pages["/.well-known/oauth-authorization-server"] = json_page(
            {"issuer": made.base, "token_endpoint": f"{made.base}/token"}
        )
        answers(made, "second", "refresh-2")
        yield made


def answers(web: Site, token: str, refresh_token: str) -> None:
    answer = {"access_token": token, "token_type": "Bearer", "expires_in": 600, "refresh_token": refresh_token}
    web.pages["/token"] = json_page(answer)


def asked(web: Site) -> list[Mapping[str, str]]:
    """Return the token requests so far."""
    found = zip(web.asked, web.bodies, strict=True)
    return [dict(parse_qsl(body)) for request, body in found if request == "POST /token"]


@asynccontextmanager
async def working(directory: Path, web: Site, clock: SetClock) -> AsyncIterator[Worker]:
    url = f"sqlite+aiosqlite:///{directory / 'state.db'}"
    upgrade(url)
    store = SqlStore(url)
    records = SqlRecords(store, clock)
    vault = Vault(records, VaultKeys.load(Settings(data_dir=directory)))
    fetcher, tokens = Fetcher((), allow_loopback=True), Tokens(vault, records, clock)
    discovery = Discovery(fetcher, clock)
    requests = TokenRequests(fetcher, discovery, SigningKeys.load(directory), References(vault), clock)
    connections, forms = Connections(vault, clock), Forms(Seals(b"k" * 32, 0), records, clock)
    user = UserTokens(tokens, connections, requests, discovery, forms, clock, BASE)
    try:
        yield Worker(user, connections, forms, clock, web.base)
    finally:
        await tokens.close()
        await store.close()


@pytest.fixture
async def worker(tmp_path: Path, web: Site) -> AsyncIterator[Worker]:
    async with working(tmp_path, web, SetClock()) as made:
        yield made


@pytest.mark.requirement("connect:own-token")
async def test_a_caller_gets_their_own_token_whatever_client_they_use_and_nobody_elses(worker: Worker) -> None:
    await worker.connect(ALICE, "alices")

    assert await worker.token(ALICE) == "alices"
    assert await worker.token(replace(ALICE, client_id="another")) == "alices"
    for other in (BOB, replace(ALICE, issuer="https://other.example"), replace(ALICE, subject="alice|agent")):
        with pytest.raises(ConsentNeeded) as wanted:
            await worker.token(other)
        assert worker.ticket(wanted.value).owner == holder(other.issuer, other.subject)


@pytest.mark.requirement("connect:own-token")
async def test_the_gateway_asks_a_server_itself_as_whoever_published_it(worker: Worker) -> None:
    assert await worker.user.headers_for(call(SYSTEM), AUTH) == {}
    with pytest.raises(ConsentNeeded) as wanted:
        await worker.user.refused(call(SYSTEM), AUTH, {}, 'Bearer scope="a", resource_metadata="https://n.example/m"')
    ticket = worker.ticket(wanted.value)
    assert (ticket.subject, ticket.scopes, ticket.resource_metadata) == ("alice", ("a",), "https://n.example/m")

    await worker.connect(ALICE, "alices")
    assert await worker.token(SYSTEM) == "alices"


@pytest.mark.requirement("connect:refresh")
async def test_a_new_refresh_token_is_kept_before_the_new_access_token_is_used(worker: Worker, web: Site) -> None:
    await worker.connect(life_s=600.0)
    worker.clock.now += 700

    assert await worker.token() == "second"
    wanted = {"grant_type": "refresh_token", "refresh_token": "refresh-1", "resource": URL, "client_id": "gateway"}
    assert asked(web) == [wanted]
    found = await worker.connections.find(place())
    assert found is not None and found.connection.refresh_token == "refresh-2"
    worker.clock.now += 700
    answers(web, "third", "refresh-3")
    assert await worker.token() == "third"
    assert asked(web)[1]["refresh_token"] == "refresh-2"


@pytest.mark.requirement("connect:refresh")
async def test_of_all_calls_at_two_workers_one_refreshes(tmp_path: Path, web: Site) -> None:
    clock = SetClock()
    async with working(tmp_path, web, clock) as one, working(tmp_path, web, clock) as other:
        await one.connect(life_s=600.0)
        clock.now += 700
        found = await asyncio.gather(*(worker.token() for worker in (one, other) for _ in range(20)))
    assert set(found) == {"second"}
    assert len(asked(web)) == 1


@pytest.mark.requirement("connect:refresh")
async def test_a_refresh_token_that_counts_no_more_means_to_agree_anew(worker: Worker, web: Site) -> None:
    await worker.connect()
    worker.clock.now += 700
    web.pages["/token"] = json_page({"error": "invalid_grant"}, 400)

    with pytest.raises(ConsentNeeded) as wanted:
        await worker.token()
    assert worker.ticket(wanted.value).scopes == ("read",)
    assert await worker.connections.find(place()) is None


@pytest.mark.requirement("connect:refresh")
@pytest.mark.parametrize("answer", [(500, {}, b""), json_page({"error": "temporarily_unavailable"}, 400)])
async def test_an_authorization_server_that_is_unwell_costs_nobody_their_connection(
    worker: Worker, web: Site, answer: Any
) -> None:
    await worker.connect()
    worker.clock.now += 700
    web.pages["/token"] = answer

    with pytest.raises(UpstreamUnreachable):
        await worker.token()
    answers(web, "second", "refresh-2")
    worker.clock.now += 2
    assert await worker.token() == "second"


@pytest.mark.requirement("connect:own-token")
async def test_a_token_that_its_server_refuses_is_not_sent_again(worker: Worker, web: Site) -> None:
    await worker.connect()
    assert await worker.token() == "first"
    worker.clock.now += 100

    await worker.refused(EXPIRED, "first")
    assert await worker.token() == "second"
    with pytest.raises(ConsentNeeded) as wanted:  # what was had just now is refused too: a refresh is no help
        await worker.refused(EXPIRED, "second")
    assert worker.ticket(wanted.value).resource_metadata == "https://notes.example/m"
    with pytest.raises(ConsentNeeded):
        await worker.token()


@pytest.mark.requirement("connect:step-up")
async def test_scopes_that_were_asked_for_in_vain_are_asked_for_once_more_and_no_further(worker: Worker) -> None:
    await worker.connect(requested=("read",))
    await worker.token()
    with pytest.raises(ConsentNeeded) as wanted:
        await worker.refused(SCOPELESS.format("write"), "first")
    ticket = worker.ticket(wanted.value)
    assert (ticket.scopes, ticket.in_vain) == (("read", "write"), 0)

    await worker.connect(requested=ticket.scopes, in_vain=ticket.in_vain)
    await worker.token()
    with pytest.raises(ConsentNeeded) as wanted:
        await worker.refused(SCOPELESS.format("write"), "first")
    ticket = worker.ticket(wanted.value)
    assert (ticket.scopes, ticket.in_vain) == (("read", "write"), 1)

    await worker.connect(requested=ticket.scopes, in_vain=ticket.in_vain)
    await worker.token()
    await worker.refused(SCOPELESS.format("write"), "first")  # who called is told what the server said
    with pytest.raises(ConsentNeeded) as wanted:
        await worker.refused(SCOPELESS.format("admin"), "first")
    assert worker.ticket(wanted.value).scopes == ("read", "write", "admin")


@pytest.mark.requirement("connect:disconnect")
async def test_a_worker_looks_after_a_second_whether_a_connection_still_stands(tmp_path: Path, web: Site) -> None:
    clock = SetClock()
    async with working(tmp_path, web, clock) as one, working(tmp_path, web, clock) as other:
        await one.connect()
        assert await other.token() == "first"
        await one.connections.end(place().id)
        clock.now += 1
        with pytest.raises(ConsentNeeded):
            await other.token()
        await one.connect(token="anew")
        assert await other.token() == "anew"


def test_nothing_secret_stands_in_what_is_printed() -> None:
    connection = Connection(
        id="1", server="notes", endpoint=URL, issuer=BASE, resource=URL, client_id="c", client_method="none",
        requested=(), connected_at=0.0, client_secret="canary-1", refresh_token="canary-2",
    )  # fmt: skip
    assert "canary" not in repr(connection)
    assert msgspec.json.decode(msgspec.json.encode(connection), type=Connection) == connection
