"""The client-credentials grant, without HTTP around it."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote_plus, urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import KeySet

from mcpgw.auth.metadata import Metadata
from mcpgw.auth.server.token_endpoint import TokenEndpoint
from mcpgw.domain import OAuthClient
from mcpgw.ports import World
from mcpgw.store.memory import MemoryStore
from tests.auth.parts import BASE, PEPPER, START, Identity, StoreWorlds, a_client, world

FORM = "application/x-www-form-urlencoded"
GRANT = {"grant_type": "client_credentials"}


class Server:
    """A token endpoint over a world that the test sets."""

    def __init__(self, identity: Identity, now: World) -> None:
        self.worlds = StoreWorlds(MemoryStore())
        self.worlds.current = now
        self.endpoint = TokenEndpoint(
            tokens=identity.tokens,
            endpoints=identity.endpoints,
            worlds=self.worlds,
            pepper=PEPPER,
            ttl_s=600,
            clock=identity.clock,
        )

    def ask(
        self,
        form: Mapping[str, str] | str,
        basic: tuple[str, str] | None = None,
        *,
        authorization: str | None = None,
        content_type: str | None = FORM,
        source: str = "192.0.2.1",
    ) -> tuple[int, Mapping[str, str], Mapping[str, Any]]:
        if basic is not None:
            pair = ":".join(quote_plus(part) for part in basic)
            authorization = "Basic " + base64.b64encode(pair.encode()).decode()
        body = (form if isinstance(form, str) else urlencode(form)).encode()
        answer = self.endpoint.respond(authorization=authorization, content_type=content_type, body=body, source=source)
        assert answer[1]["Cache-Control"] == "no-store"
        return answer

    def refused(self, *args: Any, **kwargs: Any) -> tuple[int, str]:
        status, _, document = self.ask(*args, **kwargs)
        assert document.keys() == {"error", "error_description"}
        assert re.fullmatch(r"[\x20\x21\x23-\x5b\x5d-\x7e]+", document["error_description"])
        return status, document["error"]


def serving(identity: Identity, **given: Any) -> tuple[Server, OAuthClient, str]:
    client, secret = a_client(**given)
    return Server(identity, world(client)), client, secret


@pytest.mark.requirement("auth:grant")
def test_a_client_gets_a_token_that_anyone_can_check_with_our_published_keys(identity: Identity) -> None:
    server, client, secret = serving(identity)
    status, headers, answer = server.ask({**GRANT, "resource": f"{BASE}/mcp/notes"}, (client.client_id, secret))
    assert (status, headers["Pragma"]) == (200, "no-cache")
    assert (answer["token_type"], answer["expires_in"], answer["scope"]) == ("Bearer", 600, "mcp:use")
    published = KeySet.import_key_set(dict(Metadata(identity.endpoints, identity.signing).jwks()))
    token = jwt.decode(answer["access_token"], published, ["ES256"])
    assert token.header == {"typ": "at+jwt", "alg": "ES256", "kid": identity.signing.kid}
    assert token.claims == {
        "iss": BASE,
        "sub": "bot",
        "aud": f"{BASE}/mcp/notes",
        "client_id": "bot-client",
        "scope": "mcp:use",
        "jti": "id-1",
        "iat": int(START),
        "exp": int(START) + 600,
    }


@pytest.mark.requirement("auth:grant")
def test_the_token_opens_what_it_was_asked_for_and_nothing_else(identity: Identity) -> None:
    server, client, secret = serving(identity)
    answer = server.ask({**GRANT, "resource": f"{BASE}/v1"}, (client.client_id, secret))[2]
    assert identity.who(answer["access_token"], "/v1", world(client)).scopes == {"llm:use"}
    identity.refused(answer["access_token"], "/mcp", world(client))


@pytest.mark.requirement("auth:grant")
def test_a_client_may_send_its_secret_in_the_form(identity: Identity) -> None:
    server, client, secret = serving(identity)
    assert server.ask({**GRANT, "client_id": client.client_id, "client_secret": secret})[0] == 200


@pytest.mark.requirement("auth:grant")
@pytest.mark.parametrize("client_id", ["a.b-c_d", "client%id", "a+b c"])
def test_an_id_with_odd_characters_survives_http_basic(identity: Identity, client_id: str) -> None:
    server, _, secret = serving(identity, client_id=client_id)
    assert server.ask(GRANT, (client_id, secret))[0] == 200
    assert server.ask({**GRANT, "client_id": client_id}, (client_id, secret))[0] == 200


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
def test_the_audience_is_the_endpoint_as_we_write_it(identity: Identity, resource: str | None, audience: str) -> None:
    server, client, secret = serving(identity)
    form = GRANT if resource is None else {**GRANT, "resource": resource}
    answer = server.ask(form, (client.client_id, secret))[2]
    claims = jwt.decode(answer["access_token"], identity.signing.current, ["ES256"]).claims
    assert claims["aud"] == audience


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
def test_a_resource_that_is_no_endpoint_of_ours_is_refused(identity: Identity, resource: str) -> None:
    server, client, secret = serving(identity)
    refusal = server.refused({**GRANT, "resource": resource}, (client.client_id, secret))
    assert refusal == (400, "invalid_target")


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
def test_scopes_are_those_asked_for_that_the_client_holds_and_the_resource_knows(
    identity: Identity, roles: set[str], resource: str, asked: str | None, granted: str | None
) -> None:
    server, client, secret = serving(identity, roles=frozenset(roles))
    form = {**GRANT, "resource": BASE + resource} | ({} if asked is None else {"scope": asked})
    status, _, answer = server.ask(form, (client.client_id, secret))
    assert answer.get("scope") == granted
    assert (status, answer.get("error")) == ((200, None) if granted else (400, "invalid_scope"))


@pytest.mark.requirement("auth:grant-errors")
def test_a_client_that_does_not_authenticate_is_refused_alike_whatever_the_reason(identity: Identity) -> None:
    server, client, secret = serving(identity)
    _, other_secret = a_client()
    wrong = [
        ("bot-client", other_secret),
        ("nobody", secret),
        ("bot-client", secret[:-1]),
        ("bot-client", client.digest),
    ]
    answers = [server.ask(GRANT, pair) for pair in wrong]
    server.worlds.current = world(replace(client, revoked_at=START))
    answers.append(server.ask(GRANT, ("bot-client", secret)))
    assert all(answer == answers[0] for answer in answers)
    status, headers, document = answers[0]
    assert (status, document["error"], headers["WWW-Authenticate"]) == (401, "invalid_client", 'Basic realm="mcpgw"')


@pytest.mark.requirement("auth:grant-errors")
def test_each_bad_request_has_its_error(identity: Identity) -> None:
    server, client, secret = serving(identity)
    us = (client.client_id, secret)
    assert server.refused({}, us) == (400, "invalid_request")
    assert server.refused({"grant_type": "password"}, us) == (400, "unsupported_grant_type")
    assert server.refused({"grant_type": "authorization_code", "code": "x"}, us) == (400, "unsupported_grant_type")
    assert server.refused("grant_type=client_credentials&grant_type=x", us) == (400, "invalid_request")
    twice = urlencode({**GRANT, "resource": f"{BASE}/mcp"}) + "&" + urlencode({"resource": f"{BASE}/v1"})
    assert server.refused(twice, us) == (400, "invalid_request")
    assert server.refused(GRANT, us, content_type="application/json") == (400, "invalid_request")
    assert server.refused(GRANT, us, content_type=None) == (400, "invalid_request")
    assert server.refused("&".join(f"a{n}=1" for n in range(40)), us) == (400, "invalid_request")
    assert server.refused("grant_type=%ff", us) == (400, "invalid_request")
    assert server.refused("grant_type=é", us) == (400, "invalid_request")
    assert server.refused({**GRANT, "client_secret": secret}, us) == (400, "invalid_request")
    assert server.refused({**GRANT, "client_id": "another"}, us) == (400, "invalid_request")
    assert server.refused(GRANT) == (401, "invalid_client")
    assert server.refused({**GRANT, "client_id": "bot-client"}) == (401, "invalid_client")
    assert server.ask(GRANT, us, content_type=f"{FORM}; charset=utf-8")[0] == 200


@pytest.mark.requirement("auth:grant-errors")
@pytest.mark.parametrize(
    "authorization", ["", "Basic", "Basic !!!", "Basic /////w==", "Basic bm9jb2xvbg==", "Bearer x", "Basic Og=="]
)
def test_an_authorization_header_that_is_not_http_basic_is_no_client(identity: Identity, authorization: str) -> None:
    server, *_ = serving(identity)
    assert server.refused(GRANT, authorization=authorization) == (401, "invalid_client")


@pytest.mark.requirement("auth:grant-errors")
@given(body=st.binary(max_size=200), authorization=st.none() | st.text(max_size=60) | st.text().map("Basic {}".format))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_rubbish_is_refused_and_never_raises(identity: Identity, body: bytes, authorization: str | None) -> None:
    server, *_ = serving(identity)
    status, _, document = server.endpoint.respond(
        authorization=authorization, content_type=FORM, body=body, source=None
    )
    assert (status, document["error"]) in {(400, "invalid_request"), (401, "invalid_client")}


@pytest.mark.requirement("auth:grant-backoff")
def test_after_five_failures_a_client_waits_and_waits_longer(identity: Identity) -> None:
    server, client, secret = serving(identity)
    wrong, right = (client.client_id, secret + "x"), (client.client_id, secret)
    for _ in range(5):
        assert server.refused(GRANT, wrong) == (401, "invalid_client")
    status, headers, _ = server.ask(GRANT, right)
    assert (status, headers["Retry-After"]) == (429, "1")
    identity.clock.now += 1
    assert server.refused(GRANT, wrong)[0] == 401
    assert server.ask(GRANT, right)[1]["Retry-After"] == "2"
    for _ in range(20):
        identity.clock.now += 60
        assert server.refused(GRANT, wrong)[0] == 401
    assert server.ask(GRANT, right)[1]["Retry-After"] == "60"
    identity.clock.now += 60
    assert server.ask(GRANT, right)[0] == 200
    assert server.refused(GRANT, wrong)[0] == 401, "a success begins the count anew"


@pytest.mark.requirement("auth:grant-backoff")
def test_a_stranger_who_fails_in_a_clients_name_does_not_lock_it_out(identity: Identity) -> None:
    server, client, secret = serving(identity)
    for _ in range(10):
        server.ask(GRANT, (client.client_id, "guess"), source="203.0.113.9")
    assert server.ask(GRANT, (client.client_id, "guess"), source="203.0.113.9")[0] == 429
    assert server.ask(GRANT, (client.client_id, secret), source="192.0.2.1")[0] == 200


@pytest.mark.requirement("auth:grant-backoff")
def test_failures_of_endless_names_take_bounded_room(identity: Identity) -> None:
    server, *_ = serving(identity)
    for n in range(5_000):
        server.ask(GRANT, (f"name-{n}", "guess"))
    assert len(server.endpoint._backoff._failures) == 4096


def test_a_gateway_that_cannot_know_its_clients_says_so(identity: Identity) -> None:
    client, secret = a_client()
    server = Server(identity, world(unavailable="the database is away"))
    status, headers, document = server.ask(GRANT, (client.client_id, secret))
    assert (status, document["error"], headers["Retry-After"]) == (503, "temporarily_unavailable", "1")
    assert "database" not in document["error_description"]
