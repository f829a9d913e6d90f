"""Tokens that a user allowed: codes, PKCE, refresh tokens, and the end of all of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from mcpgw.auth.server.grants import MAX_PER_CLIENT
from mcpgw.auth.server.pushed import MAX_BYTES, MAX_PER_MINUTE
from mcpgw.domain import AuthorizationRequest, Revocation, Team
from mcpgw.errors import PageError, RedirectError
from tests.auth.authorization_server import (
    CALLBACK,
    Proof,
    Server,
    a_confidential_app,
    a_user,
    an_app,
    answered,
    refreshing,
    serving,
    told,
)
from tests.auth.parts import BASE, START


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with serving(tmp_path, an_app(), a_user()) as made:
        yield made


@pytest.mark.requirement("as:code")
async def test_a_code_becomes_tokens_that_stand_for_the_user_at_one_endpoint(server: Server) -> None:
    answer = await server.tokens()
    assert (answer["token_type"], answer["expires_in"], answer["scope"]) == ("Bearer", 600, "mcp:use")
    claims = server.claims(answer["access_token"])
    grant = claims.pop("gid")
    assert claims == {
        "iss": BASE,
        "sub": "account-ann",
        "aud": f"{BASE}/mcp",
        "client_id": "app",
        "scope": "mcp:use",
        "jti": claims["jti"],
        "iat": int(START),
        "exp": int(START) + 600,
    }
    who = server.who(answer["access_token"])
    assert (who.selector, who.client_id, who.account, who.scopes) == ("mcpgw|ann", "app", "account-ann", {"mcp:use"})
    assert not server.counts(answer["access_token"], "/v1")
    assert [held.id for held in await server.identity.grants.of("account-ann")] == [grant]


@pytest.mark.requirement("as:audit")
async def test_each_step_that_goes_well_leaves_one_record_without_a_secret(server: Server) -> None:
    answer = await server.tokens()
    seen = [(entry.event, entry.outcome, entry.principal, entry.client_id) for entry in server.log.entries]
    assert seen == [("authorize", "ok", "mcpgw|ann", "app"), ("token", "ok", "mcpgw|ann", "app")]
    text = told(server)
    assert answer["access_token"] not in text and answer["refresh_token"] not in text


@pytest.mark.requirement("as:code-once")
async def test_a_replayed_code_ends_the_grant_with_all_its_tokens(server: Server) -> None:
    proof = Proof.new()
    code = await server.code(proof)
    answer = (await server.ask(server.redemption(code, proof)))[2]
    assert server.counts(answer["access_token"])
    assert await server.refused(server.redemption(code, proof)) == (400, "invalid_grant")
    assert "presented before" in server.log.entries[-1].detail["reason"]
    assert not server.counts(answer["access_token"])
    assert await server.refused(refreshing(answer["refresh_token"])) == (400, "invalid_grant")
    epoch = server.worlds.current.epoch
    assert await server.refused(server.redemption(code, proof)) == (400, "invalid_grant")
    assert server.worlds.current.epoch == epoch, "a stranger with an old code changes the state once, and no more"


@pytest.mark.requirement("as:code-once")
async def test_of_many_who_redeem_one_code_at_once_at_most_one_wins(server: Server) -> None:
    proof = Proof.new()
    code = await server.code(proof)
    statuses: list[int] = []

    async def redeem() -> None:
        statuses.append((await server.ask(server.redemption(code, proof)))[0])

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(redeem)
    assert sorted(statuses)[1:] == [400] * 7
    assert await server.identity.grants.of("account-ann") == []


WRONG: dict[str, tuple[dict[str, str | None], str]] = {
    "a wrong verifier": ({"code_verifier": "v" * 43}, "invalid_grant"),
    "a verifier that is too short": ({"code_verifier": "v" * 42}, "invalid_grant"),
    "a verifier of other characters": ({"code_verifier": "é" * 43}, "invalid_grant"),
    "no verifier": ({"code_verifier": None}, "invalid_request"),
    "another redirect_uri": ({"redirect_uri": f"{CALLBACK}/"}, "invalid_grant"),
    "no redirect_uri": ({"redirect_uri": None}, "invalid_grant"),
    "another resource": ({"resource": f"{BASE}/mcp/notes"}, "invalid_target"),
    "a resource that is not ours": ({"resource": "https://other.example/mcp"}, "invalid_target"),
    "another client": ({"client_id": "other"}, "invalid_grant"),
    "no client": ({"client_id": None}, "invalid_client"),
    "no code": ({"code": None}, "invalid_request"),
    "a code that never was": ({"code": "c" * 43}, "invalid_grant"),
}


@pytest.mark.requirement("as:code-bound")
@pytest.mark.parametrize("case", WRONG)
async def test_a_code_is_good_only_with_what_it_is_bound_to(server: Server, case: str) -> None:
    await server.add(an_app("other"))
    changed, error = WRONG[case]
    proof = Proof.new()
    code = await server.code(proof)
    assert (await server.refused(server.redemption(code, proof, **changed)))[1] == error


@pytest.mark.requirement("as:code-bound")
@pytest.mark.parametrize("case", ["a wrong verifier", "another redirect_uri", "another client", "another resource"])
async def test_a_code_that_was_presented_wrongly_is_spent(server: Server, case: str) -> None:
    await server.add(an_app("other"))
    proof = Proof.new()
    code = await server.code(proof)
    await server.refused(server.redemption(code, proof, **WRONG[case][0]))
    assert await server.refused(server.redemption(code, proof)) == (400, "invalid_grant")


@pytest.mark.requirement("as:code-bound")
async def test_a_code_lives_for_a_minute_and_its_grant_no_longer(server: Server) -> None:
    proof = Proof.new()
    code = await server.code(proof)
    server.clock.now += 60
    assert await server.refused(server.redemption(code, proof)) == (400, "invalid_grant")
    assert await server.identity.grants.of("account-ann") == []


@pytest.mark.requirement("as:refresh")
async def test_a_refresh_token_is_used_once_and_gives_its_successor(server: Server) -> None:
    first = await server.tokens()
    status, _, second = await server.refresh(first["refresh_token"], resource=f"{BASE}/mcp")
    assert status == 200 and second["refresh_token"] != first["refresh_token"]
    third = (await server.refresh(second["refresh_token"]))[2]
    assert all(server.counts(answer["access_token"]) for answer in (first, second, third))
    assert server.claims(third["access_token"])["gid"] == server.claims(first["access_token"])["gid"]


@pytest.mark.requirement("as:refresh-reuse")
async def test_a_refresh_token_that_comes_back_ends_the_whole_family(server: Server) -> None:
    first = await server.tokens()
    second = (await server.refresh(first["refresh_token"]))[2]
    third = (await server.refresh(second["refresh_token"]))[2]
    assert await server.refused(refreshing(first["refresh_token"])) == (400, "invalid_grant")
    assert "used before" in server.log.entries[-1].detail["reason"]
    assert not any(server.counts(answer["access_token"]) for answer in (first, second, third))
    assert await server.refused(refreshing(third["refresh_token"])) == (400, "invalid_grant")


@pytest.mark.requirement("as:refresh-reuse")
async def test_of_many_who_use_one_refresh_token_at_once_at_most_one_wins_and_for_nothing(server: Server) -> None:
    first = await server.tokens()
    answers: list[Any] = []

    async def use() -> None:
        answers.append(await server.refresh(first["refresh_token"]))

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(use)
    good = [document for status, _, document in answers if status == 200]
    assert len(good) <= 1
    assert not any(server.counts(answer["access_token"]) for answer in [first, *good])


@pytest.mark.requirement("as:refresh-reuse")
async def test_nobody_ends_a_grant_with_a_refresh_token_that_never_was(server: Server) -> None:
    first = await server.tokens()
    grant, _, mac = first["refresh_token"].split(".")
    for made_up in (f"{grant}.1.{'m' * 43}", f"{grant}.2.{mac}", f"{grant}.0.{mac}", grant, "x.1.y", "é"):
        assert await server.refused(refreshing(made_up)) == (400, "invalid_grant")
    assert server.counts(first["access_token"])
    assert (await server.refresh(first["refresh_token"]))[0] == 200


@pytest.mark.requirement("as:refresh")
async def test_another_client_cannot_use_a_refresh_token(server: Server) -> None:
    await server.add(an_app("other"))
    first = await server.tokens()
    assert await server.refused(refreshing(first["refresh_token"], client_id="other")) == (400, "invalid_grant")
    assert (await server.refresh(first["refresh_token"]))[0] == 200


@pytest.mark.requirement("as:refresh")
async def test_a_refresh_narrows_scopes_and_never_widens_them(tmp_path: Path) -> None:
    admin = an_app(scopes=frozenset({"audit:read", "kill:write", "mcp:use"}))
    boss = a_user(roles=frozenset({"admin"}))
    async with serving(tmp_path, admin, boss) as server:
        url = f"{BASE}/admin/v1"
        first = await server.tokens(boss, resource=url, scope="audit:read kill:write")
        assert first["scope"] == "audit:read kill:write"
        fewer = (await server.refresh(first["refresh_token"], scope="audit:read"))[2]
        assert fewer["scope"] == "audit:read"
        asked = refreshing(fewer["refresh_token"], scope="audit:read mcp:use")
        assert await server.refused(asked) == (400, "invalid_scope")
        whole = (await server.refresh(fewer["refresh_token"]))[2]
        assert whole["scope"] == "audit:read kill:write", "a refused request uses nothing up"


@pytest.mark.requirement("as:refresh")
async def test_an_authorization_ends_a_month_after_its_consent_however_often_it_is_refreshed(tmp_path: Path) -> None:
    async with serving(tmp_path, an_app(), a_user(), server={"refresh_ttl_s": 3600}) as server:
        answer = await server.tokens()
        for _ in range(5):
            server.clock.now += 700
            status, _, answer = await server.refresh(answer["refresh_token"])
            assert status == 200
        assert answer["expires_in"] == 100, "a token outlives no authorization"
        server.clock.now += 100
        assert await server.refused(refreshing(answer["refresh_token"])) == (400, "invalid_grant")


@pytest.mark.requirement("as:grant-ends")
@pytest.mark.parametrize(
    "row",
    [
        a_user(deactivated_at=START),
        a_user(team="red"),
        Revocation("principal", "mcpgw|ann", START + 1),
        Revocation("client", "app", START + 1),
        Revocation("issuer", "mcpgw", START + 1),
        an_app(revoked_at=START),
        a_user(roles=frozenset({"editor"})),
    ],
    ids=["user", "team", "principal", "client before", "issuer", "client", "role"],
)
async def test_what_ends_a_user_or_a_client_ends_their_tokens(server: Server, row: Any) -> None:
    gone = Team(name="red", title="", created_by="x", created_at=START, deactivated_at=START)
    answer, proof = await server.tokens(), Proof.new()
    code = await server.code(proof)
    await server.add(row, gone)
    who = "invalid_client" if getattr(row, "revoked_at", None) else "invalid_grant"
    assert (await server.refused(server.redemption(code, proof)))[1] == who
    assert (await server.refused(refreshing(answer["refresh_token"])))[1] == who
    counts = server.counts(answer["access_token"]) and server.who(answer["access_token"]).scopes
    assert not counts


@pytest.mark.requirement("as:grant-ends")
async def test_a_user_takes_back_one_authorization_and_keeps_the_others(server: Server) -> None:
    one, other = await server.tokens(), await server.tokens()
    grant = server.claims(one["access_token"])["gid"]
    assert await server.identity.grants.revoke(grant, actor="mcpgw|ann", reason="no more")
    assert not await server.identity.grants.revoke(grant)
    assert (server.counts(one["access_token"]), server.counts(other["access_token"])) == (False, True)
    assert await server.refused(refreshing(one["refresh_token"])) == (400, "invalid_grant")
    assert await server.identity.grants.revoke_all("account-ann") == 1
    assert not server.counts(other["access_token"])


@pytest.mark.requirement("as:grant-ends")
async def test_a_client_that_asks_again_and_again_keeps_so_many_authorizations(server: Server) -> None:
    answers = []
    for _ in range(MAX_PER_CLIENT + 2):
        answers.append(await server.tokens())
        server.clock.now += 1
    counts = [server.counts(answer["access_token"]) for answer in answers]
    assert counts == [False, False, *[True] * MAX_PER_CLIENT]
    assert len(await server.identity.grants.of("account-ann")) == MAX_PER_CLIENT


@pytest.mark.requirement("as:authorize")
@pytest.mark.parametrize(
    "changed",
    [
        {"client_id": None},
        {"client_id": ["app", "app"]},
        {"client_id": "nobody"},
        {"client_id": "gone"},
        {"client_id": "robot"},
        {"redirect_uri": "https://evil.example/callback"},
        {"redirect_uri": f"{CALLBACK}?x=1"},
        {"redirect_uri": [CALLBACK, "https://evil.example/"]},
        {"redirect_uri": "http://127.0.0.1:1/callback"},
        {"client_id": "two", "redirect_uri": None},
        {"request_uri": "urn:ietf:params:oauth:request_uri:unknown"},
    ],
)
async def test_a_request_whose_client_or_destination_does_not_hold_is_never_redirected(
    server: Server, changed: dict[str, Any]
) -> None:
    robot = an_app("robot", grants=frozenset({"client_credentials"}))
    two = an_app("two", redirect_uris=(CALLBACK, "https://app.example/other"))
    await server.add(an_app("gone", revoked_at=START), robot, two)
    with pytest.raises(PageError):
        await server.server.authorizations.check(server.query(Proof.new(), **changed))


@pytest.mark.requirement("as:authorize")
@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"response_type": None}, "unsupported_response_type"),
        ({"response_mode": "fragment"}, "invalid_request"),
        ({"code_challenge": None}, "invalid_request"),
        ({"code_challenge": "too-short"}, "invalid_request"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"code_challenge_method": None}, "invalid_request"),
        ({"resource": "https://other.example/mcp"}, "invalid_target"),
        ({"resource": [f"{BASE}/mcp", f"{BASE}/v1"]}, "invalid_target"),
        ({"resource": f"{BASE}/admin/v1", "scope": None}, "invalid_scope"),
        ({"scope": "admin"}, "invalid_scope"),
        ({"scope": ["mcp:use", "llm:use"]}, "invalid_request"),
        ({"state": "s" * 2000}, "invalid_request"),
        ({"request": "a.b.c"}, "request_not_supported"),
    ],
)
async def test_every_other_bad_request_goes_back_to_the_client_with_our_name(
    server: Server, changed: dict[str, Any], error: str
) -> None:
    with pytest.raises(RedirectError) as refusal:
        await server.server.authorizations.check(server.query(Proof.new(), **changed))
    location = refusal.value.location
    assert location.startswith(f"{CALLBACK}?")
    parameters = answered(location)
    assert (parameters["error"], parameters["iss"]) == (error, BASE)
    assert parameters.get("state") == (
        None if changed.get("state") is None and "state" in changed else parameters["state"]
    )


@pytest.mark.requirement("as:iss")
async def test_each_answer_to_an_authorization_request_names_its_issuer(server: Server) -> None:
    proof = Proof.new()
    request = await server.server.authorizations.check(server.query(proof))
    yes = answered(await server.server.authorizations.approve(request, a_user()))
    assert yes.keys() == {"code", "state", "iss"} and (yes["state"], yes["iss"]) == ("s-1", BASE)
    no = answered(server.server.authorizations.refuse(request))
    assert no == {"error": "access_denied", "state": "s-1", "iss": BASE}


@pytest.mark.requirement("as:authorize")
async def test_a_program_on_the_users_machine_may_listen_on_any_port(server: Server) -> None:
    await server.add(an_app("native", redirect_uris=("http://127.0.0.1/callback",)))
    proof, place = Proof.new(), "http://127.0.0.1:49152/callback"
    code = await server.code(proof, client_id="native", redirect_uri=place)
    status, _, _ = await server.ask(server.redemption(code, proof, client_id="native", redirect_uri=place))
    assert status == 200


@pytest.mark.requirement("as:authorize")
async def test_a_user_gives_what_they_hold_and_nothing_else(server: Server) -> None:
    request = await server.server.authorizations.check(server.query(Proof.new(), scope="mcp:use"))
    nobody = a_user("bob", roles=frozenset({"editor"}))
    assert answered(await server.server.authorizations.approve(request, nobody))["error"] == "access_denied"
    assert server.log.entries[-1].outcome == "access_denied"
    assert isinstance(request, AuthorizationRequest) and replace(request) == request


@pytest.mark.requirement("as:admin-scopes")
@pytest.mark.parametrize(
    "client",
    [
        an_app(),
        an_app(scopes=frozenset({"audit:read"}), registration="d" * 64),
        an_app(scopes=frozenset({"mcp:use"})),
    ],
    ids=["no scopes", "registered itself", "other scopes"],
)
async def test_only_a_client_that_an_administrator_chose_administers_for_a_user(tmp_path: Path, client: Any) -> None:
    async with serving(tmp_path, client, a_user(roles=frozenset({"admin"}))) as server:
        with pytest.raises(RedirectError, match="no such scope"):
            await server.server.authorizations.check(
                server.query(Proof.new(), resource=f"{BASE}/admin/v1", scope="audit:read")
            )


@pytest.mark.requirement("as:code")
async def test_a_client_without_the_refresh_grant_gets_no_refresh_token(tmp_path: Path) -> None:
    app, secret = a_confidential_app(grants=frozenset({"authorization_code"}))
    async with serving(tmp_path, app, a_user()) as server:
        proof = Proof.new()
        code = await server.code(proof)
        form = server.redemption(code, proof, client_id=None)
        answer = (await server.ask(form, ("app", secret)))[2]
        assert answer.keys() == {"access_token", "token_type", "expires_in", "scope"}
        asked = {"grant_type": "refresh_token", "refresh_token": "x"}
        assert await server.refused(asked, ("app", secret)) == (400, "unauthorized_client")


@pytest.mark.requirement("as:par")
async def test_a_request_that_was_pushed_is_the_one_that_is_asked(server: Server) -> None:
    await server.add(an_app("other"))
    proof = Proof.new()
    status, _, pushed = await server.ask(server.query(proof), at="par")
    assert (status, pushed["expires_in"]) == (201, 90)
    asked = {"client_id": "app", "request_uri": pushed["request_uri"], "scope": "llm:use"}
    request = await server.server.authorizations.check(asked)
    assert (request.scopes, request.redirect_uri) == ({"mcp:use"}, CALLBACK), "what the browser adds does not count"
    with pytest.raises(PageError):
        await server.server.authorizations.check({**asked, "client_id": "other"})
    server.clock.now += 90
    with pytest.raises(PageError):
        await server.server.authorizations.check(asked)


@pytest.mark.requirement("as:par")
async def test_nobody_fills_the_store_with_requests(server: Server) -> None:
    query = server.query(Proof.new())
    assert await server.refused({**query, "pad": "x" * MAX_BYTES}, at="par") == (413, "invalid_request")
    for _ in range(MAX_PER_MINUTE):
        assert (await server.ask(query, at="par"))[0] == 201
    assert await server.refused(query, at="par") == (429, "temporarily_unavailable")
    server.clock.now += 60
    assert (await server.ask(query, at="par"))[0] == 201


@pytest.mark.requirement("as:par")
async def test_a_bad_request_cannot_be_pushed(server: Server) -> None:
    proof = Proof.new()
    for changed, error in (
        ({"redirect_uri": "https://evil.example/"}, "invalid_request"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"scope": "admin"}, "invalid_scope"),
        ({"request_uri": "urn:x"}, "invalid_request"),
        ({"client_id": "nobody"}, "invalid_client"),
    ):
        status, found = await server.refused(server.query(proof, **changed), at="par")
        assert (status, found) == (401 if error == "invalid_client" else 400, error)
