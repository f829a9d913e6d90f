"""Access that an enterprise's identity provider grants: ID-JAG at the token endpoint."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from mcpgw.auth.metadata import ID_JAG_PROFILE
from mcpgw.auth.server.id_jag import JWT_BEARER
from mcpgw.domain import CLIENT_CREDENTIALS, Revocation
from tests.auth.authorization_server import Server, a_user, serving
from tests.auth.parts import BASE, START, a_client
from tests.auth.provider import Provider, key_of, public
from tests.auth.provider import serving as providing

APP, SECRET = a_client("app", "", grants=frozenset({JWT_BEARER}), roles=frozenset())
US = (APP.client_id, SECRET)
TYPE = "oauth-id-jag+jwt"


@pytest.fixture
def provider() -> Iterator[Provider]:
    with providing(Provider()) as made:
        yield made


@pytest.fixture
async def server(tmp_path: Path, provider: Provider) -> AsyncIterator[Server]:
    alice = a_user("alice", issuer=provider.issuer)
    async with serving(tmp_path, APP, alice, issuers=[{"issuer": provider.issuer, "id_jag": True}]) as made:
        yield made


def claims_of(provider: Provider, **changed: Any) -> dict[str, Any]:
    good = {"aud": BASE, "resource": f"{BASE}/mcp", "exp": int(START) + 300, **changed}
    return provider.claims(good.pop("aud"), START, **good)


def bearing(provider: Provider, *, typ: str = TYPE, header: Any = None, **changed: Any) -> dict[str, str]:
    """Return the form of a good request; a claim changed to None is left out of its assertion."""
    assertion = provider.token(claims_of(provider, **changed), typ=typ, **(header or {}))
    return {"grant_type": JWT_BEARER, "assertion": assertion}


@pytest.mark.requirement("as:id-jag")
async def test_a_client_gets_the_token_that_its_users_provider_grants(server: Server, provider: Provider) -> None:
    status, _, answer = await server.ask(bearing(provider), US)
    assert (status, answer["scope"]) == (200, "mcp:use")
    assert "refresh_token" not in answer
    claims = server.claims(answer["access_token"])
    assert (claims["sub"], claims["aud"], claims["client_id"]) == ("account-alice", f"{BASE}/mcp", "app")
    who = server.who(answer["access_token"])
    assert (who.issuer, who.subject, who.client_id) == (provider.issuer, "alice", "app")
    assert server.server.metadata.authorization_server()["authorization_grant_profiles_supported"] == [ID_JAG_PROFILE]


@pytest.mark.requirement("as:id-jag")
async def test_an_assertion_counts_once(server: Server, provider: Provider) -> None:
    form, statuses = bearing(provider), []

    async def send() -> None:
        statuses.append((await server.ask(form, US))[0])

    async with anyio.create_task_group() as tasks:
        for _ in range(6):
            tasks.start_soon(send)
    assert sorted(statuses) == [200, *[400] * 5]
    assert await server.refused(form, US) == (400, "invalid_grant")


BAD: dict[str, dict[str, Any]] = {
    "an access token": {"typ": "at+jwt"},
    "a mere JWT": {"typ": "JWT"},
    "another audience": {"aud": "https://other.example"},
    "our audience with a slash": {"aud": f"{BASE}/"},
    "an endpoint as its audience": {"aud": f"{BASE}/mcp"},
    "two audiences": {"aud": [BASE, "https://other.example"]},
    "another client": {"client_id": "second"},
    "no client": {"client_id": None},
    "a resource elsewhere": {"resource": "https://other.example/mcp"},
    "two resources": {"resource": [f"{BASE}/mcp", f"{BASE}/v1"]},
    "the admin API": {"resource": f"{BASE}/admin/v1"},
    "an issuer that does not count": {"iss": "https://evil.example"},
    "an issuer that is almost ours": {"iss": BASE},
    "nobody": {"sub": None},
    "somebody without an account": {"sub": "mallory"},
    "expired": {"exp": int(START)},
    "good for too long": {"exp": int(START) + 3601},
    "no expiry": {"exp": None},
    "an expiry that is a text": {"exp": "9999999999"},
    "no time of issue": {"iat": None},
    "issued in the future": {"iat": int(START) + 31},
    "not valid yet": {"nbf": int(START) + 31},
    "no number": {"jti": None},
    "a number that is none": {"jti": 7},
    "bound to a key": {"cnf": {"jkt": "x"}},
    "a key in its header": {"header": {"jwk": public(key_of("ES256", 5), "key-1")}},
    "a key's address in its header": {"header": {"jku": "https://evil.example/jwks"}},
    "a key that is not published": {"header": {"kid": "key-9"}},
    "another key under the same id": {"header": {"key": key_of("ES256", 5)}},
}


@pytest.mark.requirement("as:id-jag")
@pytest.mark.parametrize("case", BAD)
async def test_an_assertion_with_a_lie_grants_nothing(server: Server, provider: Provider, case: str) -> None:
    assert await server.refused(bearing(provider, **BAD[case]), US) == (400, "invalid_grant")


@pytest.mark.requirement("as:id-jag")
@pytest.mark.parametrize("assertion", ["", "a.b.c", "x" * 20_000])
async def test_what_is_no_assertion_grants_nothing(server: Server, assertion: str) -> None:
    error = "invalid_grant" if assertion else "invalid_request"
    assert await server.refused({"grant_type": JWT_BEARER, "assertion": assertion}, US) == (400, error)


@pytest.mark.requirement("as:id-jag")
async def test_scopes_are_those_asked_for_that_the_provider_grants_and_the_user_holds(
    server: Server, provider: Provider
) -> None:
    wide = bearing(provider, jti="1", scope="mcp:use llm:use admin")
    assert (await server.ask({**wide, "scope": "mcp:use admin"}, US))[2]["scope"] == "mcp:use"
    narrow = bearing(provider, jti="2", scope="llm:use")
    assert await server.refused({**narrow, "scope": "mcp:use"}, US) == (400, "invalid_scope")
    unsaid = bearing(provider, jti="3", scope=None)
    assert (await server.ask(unsaid, US))[2]["scope"] == "mcp:use"
    await server.add(a_user("alice", issuer=provider.issuer, roles=frozenset({"editor"})))
    assert await server.refused(bearing(provider, jti="4"), US) == (400, "invalid_scope")


@pytest.mark.requirement("as:id-jag")
async def test_the_token_is_for_the_resource_that_was_granted_or_one_below(server: Server, provider: Provider) -> None:
    below = {**bearing(provider, jti="1"), "resource": f"{BASE}/mcp/notes"}
    assert server.claims((await server.ask(below, US))[2]["access_token"])["aud"] == f"{BASE}/mcp/notes"
    above = {**bearing(provider, jti="2", resource=f"{BASE}/mcp/notes"), "resource": f"{BASE}/mcp"}
    assert await server.refused(above, US) == (400, "invalid_grant")
    beside = {**bearing(provider, jti="3"), "resource": f"{BASE}/v1"}
    assert await server.refused(beside, US) == (400, "invalid_grant")
    unsaid = {**bearing(provider, jti="4", resource=None, scope="llm:use"), "resource": f"{BASE}/v1"}
    assert server.claims((await server.ask(unsaid, US))[2]["access_token"])["aud"] == f"{BASE}/v1"


@pytest.mark.requirement("as:id-jag")
async def test_a_refused_assertion_is_not_used_up(server: Server, provider: Provider) -> None:
    form = bearing(provider)
    assert await server.refused({**form, "scope": "llm:use"}, US) == (400, "invalid_scope")
    assert (await server.ask(form, US))[0] == 200


@pytest.mark.requirement("as:id-jag")
async def test_a_user_at_first_sight_gets_an_account_only_where_that_is_configured(
    tmp_path: Path, provider: Provider
) -> None:
    section = {"issuer": provider.issuer, "id_jag": True, "id_jag_new_accounts": True}
    async with serving(tmp_path, APP, issuers=[section]) as server:
        answer = (await server.ask(bearing(provider, email="alice@corp.example"), US))[2]
        who = server.who(answer["access_token"])
        assert (who.issuer, who.subject) == (provider.issuer, "alice")
        account = server.worlds.current.identities.accounts[provider.issuer, "alice"]
        assert account.id == who.account
        again = (await server.ask(bearing(provider, jti="another"), US))[2]
        assert server.who(again["access_token"]).account == account.id
        odd = bearing(provider, jti="odd", sub="a name with blanks")
        assert await server.refused(odd, US) == (400, "invalid_grant")


@pytest.mark.requirement("as:id-jag")
async def test_only_an_issuer_that_is_configured_for_it_grants_access(tmp_path: Path, provider: Provider) -> None:
    others = [{"issuer": provider.issuer}, {"issuer": "https://other.example", "id_jag": True}]
    async with serving(tmp_path, APP, a_user("alice", issuer=provider.issuer), issuers=others) as server:
        assert await server.refused(bearing(provider), US) == (400, "invalid_grant")
    async with serving(tmp_path, APP, a_user("alice", issuer=provider.issuer), issuers=others[:1]) as server:
        assert await server.refused(bearing(provider), US) == (400, "unsupported_grant_type")
        assert "authorization_grant_profiles_supported" not in server.server.metadata.authorization_server()


@pytest.mark.requirement("as:id-jag")
async def test_a_client_that_proves_nothing_or_lacks_the_grant_is_refused(server: Server, provider: Provider) -> None:
    await server.add(replace(APP, client_id="open", digest="", auth_method="none"))
    open_form = {**bearing(provider, client_id="open"), "client_id": "open"}
    assert await server.refused(open_form) == (400, "unauthorized_client")
    await server.add(replace(APP, grants=frozenset({CLIENT_CREDENTIALS})))
    assert await server.refused(bearing(provider), US) == (400, "unauthorized_client")


@pytest.mark.requirement("as:grant-ends")
async def test_what_a_provider_granted_ends_with_the_user_here(server: Server, provider: Provider) -> None:
    token = (await server.ask(bearing(provider), US))[2]["access_token"]
    await server.add(a_user("alice", issuer=provider.issuer, deactivated_at=START))
    assert not server.counts(token)
    assert await server.refused(bearing(provider, jti="2"), US) == (400, "invalid_grant")
    await server.add(a_user("alice", issuer=provider.issuer), Revocation("issuer", provider.issuer, START + 1))
    assert await server.refused(bearing(provider, jti="3"), US) == (400, "invalid_grant")
