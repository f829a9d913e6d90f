"""Tokens that are given back (RFC 7009) and asked about (RFC 7662)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from mcpgw.auth import keys
from mcpgw.domain import CLIENT_CREDENTIALS, Revocation
from tests.auth.authorization_server import Server, a_confidential_app, a_user, an_app, refreshing, serving
from tests.auth.parts import BASE, PEPPER, START, a_client

BOT, SECRET = a_client()
US = (BOT.client_id, SECRET)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with serving(tmp_path, BOT, an_app(), a_user()) as made:
        yield made


async def own(server: Server) -> str:
    token: str = (await server.ask({"grant_type": CLIENT_CREDENTIALS}, US))[2]["access_token"]
    return token


@pytest.mark.requirement("as:revocation")
async def test_a_refresh_token_that_is_given_back_ends_the_whole_grant(server: Server) -> None:
    answer = await server.tokens()
    assert (await server.ask({"client_id": "app", "token": answer["refresh_token"]}, at="revoke"))[::2] == (200, {})
    assert not server.counts(answer["access_token"])
    assert await server.refused(refreshing(answer["refresh_token"])) == (400, "invalid_grant")
    entry = next(e for e in server.log.entries if e.event == "revoke")
    assert (entry.outcome, entry.client_id) == ("ok", "app")


@pytest.mark.requirement("as:revocation")
async def test_an_access_token_that_is_given_back_ends_alone(server: Server) -> None:
    answer = await server.tokens()
    form = {"client_id": "app", "token": answer["access_token"], "token_type_hint": "access_token"}
    assert (await server.ask(form, at="revoke"))[0] == 200
    assert not server.counts(answer["access_token"])
    status, _, fresh = await server.refresh(answer["refresh_token"])
    assert status == 200 and server.counts(fresh["access_token"])


@pytest.mark.requirement("as:revocation")
async def test_nobody_ends_what_is_not_theirs_or_learns_whether_it_is_there(server: Server) -> None:
    await server.add(an_app("other"))
    answer = await server.tokens()
    epoch = server.worlds.current.epoch
    for token in (answer["access_token"], answer["refresh_token"], "made-up", "a.b.c", answer["refresh_token"][:-1]):
        assert (await server.ask({"client_id": "other", "token": token}, at="revoke"))[::2] == (200, {})
    assert server.counts(answer["access_token"])
    assert (await server.refresh(answer["refresh_token"]))[0] == 200
    assert server.worlds.current.epoch == epoch


@pytest.mark.requirement("as:revocation")
async def test_whoever_gives_back_proves_who_they_are(server: Server) -> None:
    token = await own(server)
    for form, error in (
        ({"token": token, "client_id": BOT.client_id}, (401, "invalid_client")),
        ({"token": token}, (401, "invalid_client")),
        ({"client_id": "app"}, (400, "invalid_request")),
    ):
        assert await server.refused(form, at="revoke") == error
    assert server.counts(token)
    assert (await server.ask({"token": token}, US, at="revoke"))[0] == 200
    assert not server.counts(token)


@pytest.mark.requirement("as:revocation")
async def test_what_was_revoked_is_forgotten_once_all_tokens_of_then_have_expired(server: Server) -> None:
    for _ in range(3):
        await server.ask({"token": await own(server)}, US, at="revoke")
    await server.add(Revocation("principal", "mcpgw|ann", START))
    held = {row.kind for row in server.worlds.current.state.revocations}
    assert held == {"token", "principal"}
    server.clock.now += 3 * 86_400
    await server.ask({"token": await own(server)}, US, at="revoke")
    kinds = [row.kind for row in server.worlds.current.state.revocations]
    assert sorted(kinds) == ["principal", "token"], "what an administrator revoked stays"


@pytest.mark.requirement("as:introspection")
async def test_a_client_may_ask_about_its_own_tokens(server: Server) -> None:
    token = await own(server)
    status, _, said = await server.ask({"token": token}, US, at="introspect")
    claims = server.claims(token)
    assert status == 200
    assert said == {**claims, "active": True, "token_type": "Bearer"}
    await server.ask({"token": token}, US, at="revoke")
    assert (await server.ask({"token": token}, US, at="introspect"))[2] == {"active": False}


@pytest.mark.requirement("as:introspection")
async def test_anything_else_is_inactive_to_a_client(server: Server) -> None:
    answer = await server.tokens()
    expired = await own(server)
    server.clock.now += 600
    for token in (answer["access_token"], answer["refresh_token"], expired, "made-up", "a.b.c"):
        assert (await server.ask({"token": token}, US, at="introspect"))[2] == {"active": False}


@pytest.mark.requirement("as:introspection")
async def test_an_administrator_of_keys_may_ask_about_every_token(server: Server) -> None:
    admin, text = keys.new_key(PEPPER, subject="root", roles={"admin"}, created_by="x", created_at=START)
    auditor, other = keys.new_key(PEPPER, subject="eve", roles={"auditor"}, created_by="x", created_at=START)
    await server.add(admin, auditor)
    token = (await server.tokens())["access_token"]
    said = (await server.ask({"token": token}, authorization=f"Bearer {text}", at="introspect"))[2]
    assert (said["active"], said["client_id"], said["aud"]) == (True, "app", f"{BASE}/mcp")
    asked = {"token": token}
    refused = await server.refused(asked, authorization=f"Bearer {other}", at="introspect")
    assert refused == (403, "insufficient_scope")
    assert await server.refused(asked, authorization="Bearer x", at="introspect") == (401, "invalid_token")
    assert await server.refused(asked, authorization=f"Bearer {token}", at="introspect") == (401, "invalid_token")


@pytest.mark.requirement("as:introspection")
async def test_a_stranger_learns_nothing(server: Server) -> None:
    token = (await server.tokens())["access_token"]
    assert await server.refused({"token": token}, at="introspect") == (401, "invalid_client")
    public = {"token": token, "client_id": "app"}
    assert await server.refused(public, at="introspect") == (400, "unauthorized_client")
    app, secret = a_confidential_app("gone")
    await server.add(replace(app, revoked_at=START))
    assert await server.refused({"token": token}, ("gone", secret), at="introspect") == (401, "invalid_client")


@pytest.mark.requirement("as:sweep")
async def test_records_that_have_expired_are_swept_away(server: Server) -> None:
    answer = await server.tokens()
    assert await server.records.sweep() == 0
    server.clock.now += 31 * 86_400
    await server.identity.sweep()
    assert await server.records.sweep() == 0
    assert await server.refused(refreshing(answer["refresh_token"])) == (400, "invalid_grant")
