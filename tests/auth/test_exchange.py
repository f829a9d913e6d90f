"""Tokens for one who acts for another (RFC 8693)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mcpgw.auth.server.exchange import TOKEN_EXCHANGE
from mcpgw.auth.server.granting import ACCESS_TOKEN
from mcpgw.domain import CLIENT_CREDENTIALS, OAuthClient
from tests.auth.authorization_server import Server, a_user, an_app, serving
from tests.auth.parts import BASE, START, a_client
from tests.auth.provider import Provider
from tests.auth.provider import serving as providing

GRANTS = frozenset({TOKEN_EXCHANGE, CLIENT_CREDENTIALS})
BOT, SECRET = a_client(grants=GRANTS)
SECOND, SECOND_SECRET = a_client("second-client", "second", grants=GRANTS)
US, THEM = (BOT.client_id, SECRET), (SECOND.client_id, SECOND_SECRET)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with serving(tmp_path, BOT, SECOND, an_app(), a_user()) as made:
        yield made


def exchange(subject_token: str, /, **changed: str | None) -> dict[str, str]:
    good = {
        "grant_type": TOKEN_EXCHANGE,
        "subject_token": subject_token,
        "subject_token_type": ACCESS_TOKEN,
        "resource": f"{BASE}/mcp",
    }
    return {name: value for name, value in {**good, **changed}.items() if value is not None}


async def own(server: Server, us: tuple[str, str], resource: str = f"{BASE}/mcp") -> str:
    """Return a token of a client for itself."""
    answer = (await server.ask({"grant_type": CLIENT_CREDENTIALS, "resource": resource}, us))[2]
    token: str = answer["access_token"]
    return token


@pytest.mark.requirement("as:exchange")
async def test_an_agent_gets_a_token_that_names_the_user_and_itself(server: Server) -> None:
    user = (await server.tokens())["access_token"]
    status, _, answer = await server.ask(exchange(user, resource=f"{BASE}/mcp/notes"), US)
    assert status == 200
    assert (answer["issued_token_type"], answer["token_type"], answer["scope"]) == (ACCESS_TOKEN, "Bearer", "mcp:use")
    assert "refresh_token" not in answer
    claims = server.claims(answer["access_token"])
    assert (claims["sub"], claims["client_id"], claims["aud"]) == ("account-ann", "bot-client", f"{BASE}/mcp/notes")
    assert claims["act"] == {"iss": "mcpgw", "sub": "bot"}
    assert claims["gid"] == server.claims(user)["gid"]
    who = server.who(answer["access_token"], "/mcp/notes")
    assert (who.selector, who.client_id, who.actors) == ("mcpgw|ann", "bot-client", ("mcpgw|bot",))
    assert server.log.entries[-1].detail["actor"] == "mcpgw|bot"


@pytest.mark.requirement("as:exchange")
async def test_a_chain_of_agents_is_nested_with_the_nearest_outside(server: Server) -> None:
    user = (await server.tokens())["access_token"]
    first = (await server.ask(exchange(user), US))[2]["access_token"]
    second = (await server.ask(exchange(first), THEM))[2]["access_token"]
    act = {"iss": "mcpgw", "sub": "second", "act": {"iss": "mcpgw", "sub": "bot"}}
    assert server.claims(second)["act"] == act
    assert server.who(second).actors == ("mcpgw|second", "mcpgw|bot")


@pytest.mark.requirement("as:exchange")
async def test_a_client_narrows_a_token_of_its_own_without_acting_for_anybody(server: Server) -> None:
    app, secret = a_client("app", "", grants=frozenset({TOKEN_EXCHANGE, "authorization_code"}), roles=frozenset())
    await server.add(replace(app, redirect_uris=("https://app.example/callback",), auth_method="none", digest=""))
    user = (await server.tokens())["access_token"]
    await server.add(replace(app, auth_method="client_secret_basic"))
    answer = (await server.ask(exchange(user, resource=f"{BASE}/mcp/notes"), ("app", secret)))[2]
    assert "act" not in server.claims(answer["access_token"])
    assert not server.counts(answer["access_token"], "/mcp")


@pytest.mark.requirement("as:exchange")
async def test_an_actor_token_says_who_acts_and_is_the_clients_own(server: Server) -> None:
    user = (await server.tokens())["access_token"]
    acting = {"actor_token": await own(server, US), "actor_token_type": ACCESS_TOKEN}
    answer = (await server.ask(exchange(user, **acting), US))[2]
    assert server.claims(answer["access_token"])["act"] == {"iss": "mcpgw", "sub": "bot"}
    assert await server.refused(exchange(user, **acting), THEM) == (400, "invalid_request")
    alone = exchange(user, actor_token=acting["actor_token"])
    assert await server.refused(alone, US) == (400, "invalid_request")
    for_another = (await server.ask(exchange(user), US))[2]["access_token"]
    chained = exchange(user, actor_token=for_another, actor_token_type=ACCESS_TOKEN)
    assert await server.refused(chained, US) == (400, "invalid_request")


@pytest.mark.requirement("as:exchange")
async def test_an_exchanged_token_lives_no_longer_than_what_it_was_made_of(server: Server) -> None:
    user = (await server.tokens())["access_token"]
    server.clock.now += 500
    answer = (await server.ask(exchange(user), US))[2]
    assert answer["expires_in"] == 100
    server.clock.now += 100
    assert await server.refused(exchange(user), US) == (400, "invalid_request")
    assert not server.counts(answer["access_token"])


@pytest.mark.requirement("as:exchange")
async def test_the_end_of_the_users_grant_ends_what_was_made_of_it(server: Server) -> None:
    user = (await server.tokens())["access_token"]
    answer = (await server.ask(exchange(user), US))[2]["access_token"]
    await server.identity.grants.revoke(server.claims(user)["gid"])
    assert not server.counts(answer)
    assert await server.refused(exchange(user), US) == (400, "invalid_request")


REFUSED: dict[str, tuple[dict[str, str | None], str]] = {
    "no subject": ({"subject_token": None}, "invalid_request"),
    "no type": ({"subject_token_type": None}, "invalid_request"),
    "an id token": ({"subject_token_type": "urn:ietf:params:oauth:token-type:id_token"}, "invalid_request"),
    "rubbish": ({"subject_token": "a.b.c"}, "invalid_request"),
    "a refresh token asked for": (
        {"requested_token_type": "urn:ietf:params:oauth:token-type:refresh_token"},
        "invalid_request",
    ),
    "another endpoint": ({"resource": f"{BASE}/v1"}, "invalid_request"),
    "the admin API": ({"resource": f"{BASE}/admin/v1"}, "invalid_target"),
    "a resource elsewhere": ({"resource": "https://other.example/mcp"}, "invalid_target"),
    "an audience elsewhere": ({"audience": "https://other.example/mcp"}, "invalid_target"),
    "two resources": ({"audience": f"{BASE}/mcp/notes"}, "invalid_target"),
    "another scope": ({"scope": "llm:use"}, "invalid_scope"),
    "an administrator's scope": ({"scope": "admin"}, "invalid_scope"),
}


@pytest.mark.requirement("as:exchange")
@pytest.mark.parametrize("case", REFUSED)
async def test_an_exchange_never_allows_more_than_the_subjects_token(server: Server, case: str) -> None:
    changed, error = REFUSED[case]
    user = (await server.tokens())["access_token"]
    assert await server.refused(exchange(user, **changed), US) == (400, error)


@pytest.mark.requirement("as:exchange")
async def test_what_is_no_token_of_a_user_is_not_exchanged(server: Server) -> None:
    assert await server.refused(exchange("mcpgw_0123456789ab_" + "x" * 49), US) == (400, "invalid_request")
    assert await server.refused(exchange(await own(server, THEM)), US) == (400, "invalid_request")
    narrow = (await server.tokens(resource=f"{BASE}/mcp/notes"))["access_token"]
    assert await server.refused(exchange(narrow), US) == (400, "invalid_request")


@pytest.mark.requirement("as:exchange")
@pytest.mark.parametrize(
    "client",
    [
        replace(BOT, grants=frozenset({CLIENT_CREDENTIALS})),
        replace(BOT, subject="", roles=frozenset()),
        replace(BOT, scopes=frozenset({"llm:use"})),
    ],
    ids=["without the grant", "without a name", "of other scopes"],
)
async def test_only_a_client_that_may_exchange_does(server: Server, client: OAuthClient) -> None:
    user = (await server.tokens())["access_token"]
    await server.add(client)
    assert (await server.refused(exchange(user), US))[1] in {"unauthorized_client", "invalid_request", "invalid_scope"}


@pytest.mark.requirement("as:exchange")
async def test_a_deactivated_agent_acts_for_nobody(server: Server) -> None:
    user = (await server.tokens())["access_token"]
    token = (await server.ask(exchange(user), US))[2]["access_token"]
    await server.add(a_user("bot", deactivated_at=START))
    assert await server.refused(exchange(user), US) == (400, "invalid_request")
    assert not server.counts(token), "nor with a token that it has already"


@pytest.mark.requirement("as:exchange")
@pytest.mark.parametrize(
    ("may_act", "allowed"),
    [
        (None, True),
        ({"sub": "bot"}, True),
        ({"sub": "bot", "iss": BASE}, True),
        ({"client_id": "bot-client"}, True),
        ({"sub": "second"}, False),
        ({"sub": "bot", "iss": "https://other.example"}, False),
        ({"sub": "bot", "client_id": "second-client"}, False),
        ({}, False),
        ("bot", False),
        ([{"sub": "bot"}], False),
    ],
)
async def test_a_token_of_another_issuer_says_who_may_act_for_its_user(
    tmp_path: Path, may_act: Any, allowed: bool
) -> None:
    with providing(Provider()) as provider:
        alice = a_user("alice", issuer=provider.issuer)
        async with serving(tmp_path, BOT, alice, issuers=[{"issuer": provider.issuer}]) as server:
            token = provider.token(provider.claims(f"{BASE}/mcp", START, may_act=may_act))
            if not allowed:
                assert await server.refused(exchange(token), US) == (400, "invalid_request")
                return
            answer = (await server.ask(exchange(token), US))[2]
            who = server.who(answer["access_token"])
            assert (who.issuer, who.subject, who.actors) == (provider.issuer, "alice", ("mcpgw|bot",))


@pytest.mark.requirement("as:exchange")
async def test_a_user_of_another_issuer_without_an_account_has_nothing_to_exchange(tmp_path: Path) -> None:
    with providing(Provider()) as provider:
        async with serving(tmp_path, BOT, issuers=[{"issuer": provider.issuer}]) as server:
            token = provider.token(provider.claims(f"{BASE}/mcp", START))
            assert await server.refused(exchange(token), US) == (400, "invalid_request")
