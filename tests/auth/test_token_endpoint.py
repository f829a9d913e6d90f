"""The token endpoint, without HTTP around it: who asks, the client-credentials grant, and every other refusal."""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, RSAKey

from mcpgw.auth.server.client_assertions import MAX_LIFE_S
from mcpgw.auth.server.client_authentication import ASSERTION_TYPE
from mcpgw.domain import Account, Asked, Kind
from tests.auth.authorization_server import (
    FORM,
    Proof,
    Server,
    a_confidential_app,
    a_user,
    an_app,
    an_assertion,
    public,
    serving,
)
from tests.auth.parts import BASE, START, a_client, b64, encoded, world
from tests.auth.provider import Provider
from tests.auth.provider import serving as providing

GRANT = {"grant_type": "client_credentials"}
BOT, SECRET = a_client()
US = (BOT.client_id, SECRET)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with serving(tmp_path, BOT) as made:
        yield made


@pytest.mark.requirement("auth:grant")
async def test_a_client_gets_a_token_that_anyone_can_check_with_our_published_keys(server: Server) -> None:
    status, headers, answer = await server.ask({**GRANT, "resource": f"{BASE}/mcp/notes"}, US)
    assert (status, headers["Pragma"]) == (200, "no-cache")
    assert (answer["token_type"], answer["expires_in"], answer["scope"]) == ("Bearer", 600, "mcp:use")
    assert "refresh_token" not in answer  # RFC 6749 §4.4.3
    published = KeySet.import_key_set(dict(server.server.metadata.jwks()))
    token = jwt.decode(answer["access_token"], published, ["ES256"])
    assert token.header == {"typ": "at+jwt", "alg": "ES256", "kid": server.identity.signing.kid}
    assert token.claims == {
        "iss": BASE,
        "sub": "bot",
        "aud": f"{BASE}/mcp/notes",
        "client_id": "bot-client",
        "scope": "mcp:use",
        "jti": token.claims["jti"],
        "iat": int(START),
        "exp": int(START) + 600,
    }


@pytest.mark.requirement("auth:grant")
async def test_the_token_opens_what_it_was_asked_for_and_nothing_else(server: Server) -> None:
    token = (await server.ask({**GRANT, "resource": f"{BASE}/v1"}, US))[2]["access_token"]
    assert server.who(token, "/v1").scopes == {"llm:use"}
    assert not server.counts(token, "/mcp")


@pytest.mark.requirement("auth:grant")
@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
async def test_a_client_may_send_its_secret_in_the_form_or_the_header(tmp_path: Path, method: str) -> None:
    client, secret = a_client(auth_method=method)
    async with serving(tmp_path, client) as server:
        assert (await server.ask({**GRANT, "client_id": client.client_id, "client_secret": secret}))[0] == 200
        assert (await server.ask(GRANT, (client.client_id, secret)))[0] == 200


@pytest.mark.requirement("auth:grant")
@pytest.mark.parametrize("client_id", ["a.b-c_d", "client%id", "a+b c"])
async def test_an_id_with_odd_characters_survives_http_basic(tmp_path: Path, client_id: str) -> None:
    client, secret = a_client(client_id)
    async with serving(tmp_path, client) as server:
        assert (await server.ask(GRANT, (client_id, secret)))[0] == 200
        assert (await server.ask({**GRANT, "client_id": client_id}, (client_id, secret)))[0] == 200


@pytest.mark.requirement("auth:grant")
@pytest.mark.parametrize(
    ("resource", "audience"),
    [
        (None, f"{BASE}/mcp"),
        ("", f"{BASE}/mcp"),
        (f"{BASE}/mcp", f"{BASE}/mcp"),
        (f"{BASE}/mcp/never-registered", f"{BASE}/mcp/never-registered"),
        (f"{BASE}/mcp/notes@1.2.0", f"{BASE}/mcp/notes@1.2.0"),
        ("HTTPS://GATEWAY.EXAMPLE:443/mcp", f"{BASE}/mcp"),
    ],
)
async def test_the_audience_is_the_endpoint_as_we_write_it(server: Server, resource: str | None, audience: str) -> None:
    form = GRANT if resource is None else {**GRANT, "resource": resource}
    answer = (await server.ask(form, US))[2]
    assert server.claims(answer["access_token"])["aud"] == audience


@pytest.mark.requirement("auth:grant")
@pytest.mark.parametrize(
    "resource",
    [
        "https://other.example/mcp",
        f"{BASE}.evil.example/mcp",
        f"{BASE}@evil.example/mcp",
        "https://user@gateway.example/mcp",
        "http://gateway.example/mcp",
        f"{BASE}:8443/mcp",
        f"{BASE}:port/mcp",
        f"{BASE}/mcp#fragment",
        f"{BASE}/mcp#",
        f"{BASE}/mcp?x=1",
        f"{BASE}/mcp/",
        f"{BASE}/mcp/a/b",
        f"{BASE}/mcp/../admin/v1",
        f"{BASE}/v1/chat/completions",
        f"{BASE}/MCP",
        BASE,
        "/mcp",
        "https://[",
        "mcp",
    ],
)
async def test_a_resource_that_is_no_endpoint_of_ours_is_refused(server: Server, resource: str) -> None:
    assert await server.refused({**GRANT, "resource": resource}, US) == (400, "invalid_target")


@pytest.mark.requirement("auth:grant")
@pytest.mark.parametrize(
    ("roles", "resource", "asked", "granted"),
    [
        ({"agent"}, "/mcp", None, "mcp:use"),
        ({"agent"}, "/v1", None, "llm:use"),
        ({"agent"}, "/mcp", "mcp:use admin offline_access", "mcp:use"),
        ({"operator"}, "/admin/v1", None, "audit:read kill:write servers:write"),
        ({"operator"}, "/admin/v1", "kill:write keys:write", "kill:write"),
        ({"agent"}, "/admin/v1", None, None),
        ({"agent"}, "/admin/v1", "admin", None),
        ({"agent"}, "/mcp", "llm:use", None),
        ({"admin"}, "/mcp", None, None),
        ({"editor"}, "/mcp", None, None),
    ],
)
async def test_scopes_are_those_asked_for_that_the_client_holds_and_the_resource_knows(
    tmp_path: Path, roles: set[str], resource: str, asked: str | None, granted: str | None
) -> None:
    client, secret = a_client(roles=frozenset(roles))
    form = {**GRANT, "resource": BASE + resource} | ({} if asked is None else {"scope": asked})
    async with serving(tmp_path, client) as server:
        status, _, answer = await server.ask(form, (client.client_id, secret))
    assert answer.get("scope") == granted
    assert (status, answer.get("error")) == ((200, None) if granted else (400, "invalid_scope"))


@pytest.mark.requirement("auth:grant-errors")
async def test_a_client_that_does_not_authenticate_is_refused_alike_whatever_the_reason(server: Server) -> None:
    _, other_secret = a_client()
    app, app_secret = a_confidential_app("keyed", auth_method="private_key_jwt", jwks={"keys": []})
    await server.add(an_app(), app)
    answers = [
        await server.ask(GRANT, pair)
        for pair in (
            ("bot-client", other_secret),
            ("nobody", SECRET),
            ("bot-client", SECRET[:-1]),
            ("bot-client", BOT.digest),
            ("app", SECRET),
            ("keyed", app_secret),
        )
    ]
    await server.add(replace(BOT, revoked_at=START))
    answers.append(await server.ask(GRANT, US))
    answers += [await server.ask({**GRANT, "client_id": name}) for name in ("nobody", "bot-client", "keyed")]
    assert all(answer == answers[0] for answer in answers)
    status, headers, document = answers[0]
    assert (status, document["error"], headers["WWW-Authenticate"]) == (401, "invalid_client", 'Basic realm="mcpgw"')


@pytest.mark.requirement("auth:grant-errors")
async def test_each_bad_request_has_its_error(server: Server) -> None:
    assert await server.refused({}, US) == (400, "invalid_request")
    assert await server.refused({"grant_type": "password"}, US) == (400, "unsupported_grant_type")
    assert await server.refused({"grant_type": "authorization_code", "code": "x"}, US) == (400, "unauthorized_client")
    assert await server.refused("grant_type=client_credentials&grant_type=x", US) == (400, "invalid_request")
    twice = urlencode({**GRANT, "resource": f"{BASE}/mcp"}) + "&" + urlencode({"resource": f"{BASE}/v1"})
    assert await server.refused(twice, US) == (400, "invalid_target")
    assert await server.refused(GRANT, US, content_type="application/json") == (400, "invalid_request")
    assert await server.refused(GRANT, US, content_type=None) == (400, "invalid_request")
    assert await server.refused("&".join(f"a{n}=1" for n in range(40)), US) == (400, "invalid_request")
    assert await server.refused("grant_type=%ff", US) == (400, "invalid_request")
    assert await server.refused("grant_type=é", US) == (400, "invalid_request")
    assert await server.refused({**GRANT, "client_secret": SECRET}, US) == (400, "invalid_request")
    assert await server.refused({**GRANT, "client_id": "another"}, US) == (400, "invalid_request")
    assert await server.refused(GRANT) == (401, "invalid_client")
    assert await server.refused({**GRANT, "client_id": "bot-client"}) == (401, "invalid_client")
    assert (await server.ask(GRANT, US, content_type=f"{FORM}; charset=utf-8"))[0] == 200


@pytest.mark.requirement("auth:grant-errors")
@pytest.mark.parametrize(
    "authorization", ["", "Basic", "Basic !!!", "Basic /////w==", "Basic bm9jb2xvbg==", "Bearer x", "Basic Og=="]
)
async def test_an_authorization_header_that_is_not_http_basic_is_no_client(server: Server, authorization: str) -> None:
    assert await server.refused(GRANT, authorization=authorization) == (401, "invalid_client")


@pytest.mark.requirement("auth:grant-errors")
@given(body=st.binary(max_size=200), authorization=st.none() | st.text(max_size=60) | st.text().map("Basic {}".format))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_rubbish_is_refused_and_never_raises(tmp_path: Path, body: bytes, authorization: str | None) -> None:
    async def asked() -> None:
        async with serving(tmp_path, BOT) as server:
            for endpoint in (server.forms.token, server.forms.revoke, server.forms.introspect, server.forms.par):
                given = Asked(endpoint="/oauth/x", body=body, content_type=FORM, authorization=authorization)
                status, _, document = await endpoint.respond(given)
                refused = {(400, "invalid_request"), (401, "invalid_client"), (401, "invalid_token")}
                assert (status, document["error"]) in refused

    anyio.run(asked)


@pytest.mark.requirement("auth:grant-backoff")
async def test_after_five_failures_a_client_waits_and_waits_longer(server: Server) -> None:
    wrong = (BOT.client_id, SECRET + "x")
    for _ in range(5):
        assert await server.refused(GRANT, wrong) == (401, "invalid_client")
    status, headers, _ = await server.ask(GRANT, US)
    assert (status, headers["Retry-After"]) == (429, "1")
    server.clock.now += 1
    assert (await server.refused(GRANT, wrong))[0] == 401
    assert (await server.ask(GRANT, US))[1]["Retry-After"] == "2"
    for _ in range(20):
        server.clock.now += 60
        assert (await server.refused(GRANT, wrong))[0] == 401
    assert (await server.ask(GRANT, US))[1]["Retry-After"] == "60"
    server.clock.now += 60
    assert (await server.ask(GRANT, US))[0] == 200
    assert (await server.refused(GRANT, wrong))[0] == 401, "a success begins the count anew"


@pytest.mark.requirement("auth:grant-backoff")
async def test_a_stranger_who_fails_in_a_clients_name_does_not_lock_it_out(server: Server) -> None:
    for _ in range(10):
        await server.ask(GRANT, (BOT.client_id, "guess"), source="203.0.113.9")
    assert (await server.ask(GRANT, (BOT.client_id, "guess"), source="203.0.113.9"))[0] == 429
    assert (await server.ask(GRANT, US, source="192.0.2.1"))[0] == 200


@pytest.mark.requirement("auth:grant-backoff")
async def test_failures_of_endless_names_take_bounded_room(server: Server) -> None:
    for n in range(5_000):
        await server.ask(GRANT, (f"name-{n}", "guess"))
    assert len(server.server._authentication._backoff._failures) == 4096


async def test_a_gateway_that_cannot_know_its_clients_says_so(server: Server) -> None:
    server.worlds.current = world(unavailable="the database is away")
    status, headers, document = await server.ask(GRANT, US)
    assert (status, document["error"], headers["Retry-After"]) == (503, "temporarily_unavailable", "1")
    assert "database" not in document["error_description"]


@pytest.mark.requirement("as:grant-ends")
async def test_a_client_whose_agent_is_deactivated_gets_no_token(server: Server) -> None:
    agent = Account(
        id="a-1",
        issuer="mcpgw",
        subject="bot",
        kind=Kind.AGENT,
        roles=frozenset({"agent"}),
        created_by="x",
        created_at=START,
        deactivated_at=START,
    )
    await server.add(agent)
    assert await server.refused(GRANT, US) == (401, "invalid_client")


KEY, OTHER_KEY = ECKey.generate_key("P-256"), ECKey.generate_key("P-256")
RSA = RSAKey.generate_key(2048)
KEYED = replace(
    BOT,
    client_id="keyed",
    digest="",
    auth_method="private_key_jwt",
    jwks={"keys": [public(KEY, kid="k1"), {**RSA.as_dict(private=False), "kid": "k2"}]},
)


def good(**changed: Any) -> dict[str, Any]:
    """The claims of a good assertion; a claim changed to None is left out."""
    now = int(START)
    claims = {"iss": "keyed", "sub": "keyed", "aud": BASE, "jti": "j-1", "iat": now, "exp": now + 60, **changed}
    return {name: value for name, value in claims.items() if value is not None}


def asserting(assertion: str, **given: str) -> dict[str, str]:
    return {**GRANT, "client_assertion_type": ASSERTION_TYPE, "client_assertion": assertion, **given}


@pytest.mark.requirement("as:client-assertion")
@pytest.mark.parametrize(
    "audience", [BASE, f"{BASE}/oauth/token", [BASE]], ids=["issuer", "token endpoint", "a list of one"]
)
async def test_a_client_proves_itself_with_its_key_once(tmp_path: Path, audience: Any) -> None:
    async with serving(tmp_path, KEYED) as server:
        form = asserting(an_assertion(KEY, good(aud=audience), kid="k1"))
        status, _, answer = await server.ask(form)
        assert status == 200 and server.who(answer["access_token"]).client_id == "keyed"
        assert await server.refused(form) == (401, "invalid_client")
        assert "used before" in server.log.entries[-1].detail["reason"]
        another = asserting(an_assertion(KEY, good(jti="j-2")), client_id="keyed")
        assert (await server.ask(another))[0] == 200


@pytest.mark.requirement("as:client-assertion")
async def test_of_many_who_send_one_assertion_at_once_one_is_heard(tmp_path: Path) -> None:
    async with serving(tmp_path, KEYED) as server:
        form, statuses = asserting(an_assertion(KEY, good())), []

        async def send() -> None:
            statuses.append((await server.ask(form))[0])

        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(send)
        assert statuses.count(200) == 1


def _signed_with_the_public_key() -> str:
    message = f"{encoded({'alg': 'HS256', 'kid': 'k1'})}.{encoded(good())}"
    return f"{message}.{b64(hmac.digest(KEY.as_pem(private=False), message.encode(), 'sha256'))}"


LIES = {
    "our public key as a secret": _signed_with_the_public_key,
    "another key": lambda: an_assertion(OTHER_KEY, good(), kid="k1"),
    "a key id that is not the client's": lambda: an_assertion(KEY, good(), kid="k9"),
    "another type": lambda: an_assertion(KEY, good(), typ="at+jwt"),
    "a key in the header": lambda: an_assertion(OTHER_KEY, good(), jwk=public(OTHER_KEY)),
    "a key's address in the header": lambda: an_assertion(KEY, good(), jku="https://evil.example/keys"),
    "another audience": lambda: an_assertion(KEY, good(aud="https://other.example")),
    "our audience with a slash": lambda: an_assertion(KEY, good(aud=f"{BASE}/")),
    "two audiences": lambda: an_assertion(KEY, good(aud=[BASE, "https://other.example"])),
    "no audience": lambda: an_assertion(KEY, good(aud=None)),
    "another issuer": lambda: an_assertion(KEY, good(iss="bot-client")),
    "another subject": lambda: an_assertion(KEY, good(sub="bot-client")),
    "expired": lambda: an_assertion(KEY, good(exp=int(START) - 31)),
    "good for too long": lambda: an_assertion(KEY, good(exp=int(START) + MAX_LIFE_S + 31)),
    "no expiry": lambda: an_assertion(KEY, good(exp=None)),
    "an expiry that is a text": lambda: an_assertion(KEY, good(exp="9999999999")),
    "not valid yet": lambda: an_assertion(KEY, good(nbf=int(START) + 31)),
    "issued in the future": lambda: an_assertion(KEY, good(iat=int(START) + 31)),
    "no number": lambda: an_assertion(KEY, good(jti=None)),
    "a number that is none": lambda: an_assertion(KEY, good(jti=7)),
    "cut short": lambda: an_assertion(KEY, good())[:-4],
    "rubbish": lambda: "a.b.c",
}


@pytest.mark.requirement("as:client-assertion")
@pytest.mark.parametrize("lie", LIES)
async def test_an_assertion_with_a_lie_is_no_client(tmp_path: Path, lie: str) -> None:
    async with serving(tmp_path, KEYED) as server:
        assert await server.refused(asserting(LIES[lie]())) == (401, "invalid_client")


@pytest.mark.requirement("as:client-assertion")
async def test_keys_that_a_client_publishes_are_fetched_and_followed(tmp_path: Path) -> None:
    with providing(Provider()) as site:
        client = replace(KEYED, jwks=None, jwks_uri=f"{site.base}/jwks")
        async with serving(tmp_path, client) as server:
            for number in range(3):
                form = asserting(site.token(good(jti=str(number)), typ=None))
                assert (await server.ask(form))[0] == 200
            assert site.asked["/jwks"] == 1
            nameless = asserting(site.token(good(jti="a"), typ=None, kid=None))
            assert await server.refused(nameless) == (401, "invalid_client")
            site.rotate("key-2", number=1)
            server.clock.now += 31
            fresh = asserting(site.token(good(jti="b"), typ=None))
            assert (await server.ask(fresh))[0] == 200
            assert site.asked["/jwks"] == 2


@pytest.mark.requirement("as:client-assertion")
async def test_an_assertion_may_name_the_endpoint_that_it_is_sent_to(tmp_path: Path) -> None:
    async with serving(tmp_path, KEYED) as server:
        for endpoint, audience, status in (("revoke", "revoke", 200), ("introspect", "token", 200), ("par", "x", 401)):
            proof = an_assertion(KEY, good(aud=f"{BASE}/oauth/{audience}", jti=endpoint), kid="k1")
            form = {"client_assertion_type": ASSERTION_TYPE, "client_assertion": proof, "token": "x"}
            assert (await server.ask(form, at=endpoint))[0] == status


@pytest.mark.requirement("as:client-assertion")
async def test_no_secret_stands_in_for_a_key_and_no_key_for_a_secret(tmp_path: Path) -> None:
    async with serving(tmp_path, KEYED, BOT) as server:
        assert await server.refused(GRANT, ("keyed", "")) == (401, "invalid_client")
        assert await server.refused({**GRANT, "client_id": "keyed"}) == (401, "invalid_client")
        mine = an_assertion(KEY, good(iss="bot-client", sub="bot-client"))
        assert await server.refused(asserting(mine)) == (401, "invalid_client")
        assert await server.refused(asserting(an_assertion(KEY, good())), US) == (400, "invalid_request")
        both = asserting(an_assertion(KEY, good()), client_secret="x")
        assert await server.refused(both) == (400, "invalid_request")
        other = asserting(an_assertion(KEY, good()), client_id="bot-client")
        assert await server.refused(other) == (400, "invalid_request")
        unknown = {**asserting(an_assertion(KEY, good())), "client_assertion_type": "urn:other"}
        assert await server.refused(unknown) == (400, "invalid_request")


@pytest.mark.requirement("as:client-authentication")
async def test_a_public_client_gets_nothing_for_itself(tmp_path: Path) -> None:
    public_bot = replace(BOT, client_id="open", digest="", auth_method="none")
    async with serving(tmp_path, public_bot) as server:
        assert await server.refused({**GRANT, "client_id": "open"}) == (400, "unauthorized_client")


@pytest.mark.requirement("as:client-authentication")
async def test_a_confidential_client_redeems_no_code_without_its_proof(tmp_path: Path) -> None:
    app, secret = a_confidential_app()
    async with serving(tmp_path, app, a_user()) as server:
        proof = Proof.new()
        code = await server.code(proof)
        assert await server.refused(server.redemption(code, proof)) == (401, "invalid_client")
        form = server.redemption(code, proof, client_id=None)
        assert (await server.ask(form, ("app", secret)))[0] == 200, "whoever proved nothing spent nothing"


@pytest.mark.requirement("as:audit")
async def test_a_token_that_cannot_be_recorded_is_not_issued(server: Server) -> None:
    server.log.full = True
    status, headers, document = await server.ask(GRANT, US)
    assert (status, document["error"], headers["Retry-After"]) == (503, "temporarily_unavailable", "1")
