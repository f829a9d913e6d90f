"""Requests that our authorization server must refuse, as data: each has the right error object, and one record."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import count
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from joserfc.jwk import ECKey

from mcpgw.audit.record import Line
from mcpgw.auth.server.client_authentication import ASSERTION_TYPE
from mcpgw.auth.server.exchange import TOKEN_EXCHANGE
from mcpgw.auth.server.granting import ACCESS_TOKEN
from mcpgw.domain import CLIENT_CREDENTIALS
from tests.auth.authorization_server import Proof, an_assertion, answered, public
from tests.e2e.parts import lines_of
from tests.harness import GatewayProcess

CALLBACK = "https://bad.example/callback"
CODE, REFRESH = "authorization_code", "refresh_token"
KEY, OTHER = ECKey.generate_key("P-256"), ECKey.generate_key("P-256")
FORM = "application/x-www-form-urlencoded"
_numbers = count(1)


@dataclass(frozen=True)
class Scene:
    """A gateway with three clients: `robot` with a secret, `keyed` with a key, and `app` of users."""

    gate: GatewayProcess
    secret: str
    token: str
    number: int

    @property
    def base(self) -> str:
        return self.gate.base_url

    def named(self, client: str) -> str:
        return f"bad-{client}-{self.number}"

    def assertion(self, key: ECKey = KEY, /, header: Mapping[str, Any] | None = None, **changed: Any) -> dict[str, str]:
        """A request of `keyed`; a claim changed to None is left out of its assertion."""
        now = int(time.time())
        good = {
            "iss": self.named("keyed"),
            "sub": self.named("keyed"),
            "aud": self.base,
            "jti": f"jti-{next(_numbers)}",
            "iat": now,
            "exp": now + 60,
            **{name: now + value if isinstance(value, float) else value for name, value in changed.items()},
        }
        claims = {name: value for name, value in good.items() if value is not None}
        return {
            "grant_type": CLIENT_CREDENTIALS,
            "client_assertion_type": ASSERTION_TYPE,
            "client_assertion": an_assertion(key, claims, **(header or {})),
        }

    def exchange(self, **changed: str) -> dict[str, str]:
        good = {"grant_type": TOKEN_EXCHANGE, "subject_token": self.token, "subject_token_type": ACCESS_TOKEN}
        return {**good, **changed}

    def app(self, **given: str) -> dict[str, str]:
        return {"client_id": self.named("app"), **given}

    def redeem(self, **changed: str) -> dict[str, str]:
        good = {"grant_type": CODE, "code": "c" * 43, "code_verifier": "v" * 43, "redirect_uri": CALLBACK}
        return self.app(**{**good, **changed})

    def question(self, **changed: str | None) -> dict[str, str]:
        good: dict[str, str | None] = {
            "response_type": "code",
            "client_id": self.named("app"),
            "redirect_uri": CALLBACK,
            "state": "s",
            "code_challenge": Proof.new().challenge,
            "code_challenge_method": "S256",
            **changed,
        }
        return {name: value for name, value in good.items() if value is not None}


Sent = str | Mapping[str, str]


@dataclass(frozen=True)
class Bad:
    """A row. `client` authenticates with its secret; `at` is below `/oauth/`."""

    name: str
    sent: Callable[[Scene], Sent]
    error: str
    status: int = 400
    at: str = "token"
    client: str | None = "robot"
    headers: Mapping[str, str] = field(default_factory=dict)


def fields(**given: str) -> Callable[[Scene], Sent]:
    return lambda scene: given


OWN = {"grant_type": CLIENT_CREDENTIALS}
AUTHENTICATION = [
    Bad("no client", fields(**OWN), "invalid_client", 401, client=None),
    Bad("a client nobody has", fields(**OWN), "invalid_client", 401, client="nobody"),
    Bad("a wrong secret", fields(**OWN), "invalid_client", 401, client="wrong"),
    Bad("a secret of a client that has none", fields(**OWN), "invalid_client", 401, client="app"),
    Bad("a secret of a client with a key", fields(**OWN), "invalid_client", 401, client="keyed"),
    Bad("the id alone", lambda s: {**OWN, "client_id": s.named("robot")}, "invalid_client", 401, client=None),
    Bad("two ways at once", fields(**OWN, client_secret="x"), "invalid_request"),
    Bad("two clients at once", fields(**OWN, client_id="other"), "invalid_request"),
    Bad(
        "a header that is not Basic",
        fields(**OWN),
        "invalid_client",
        401,
        client=None,
        headers={"Authorization": "Bearer x"},
    ),
    Bad(
        "a Basic header that is not base64",
        fields(**OWN),
        "invalid_client",
        401,
        client=None,
        headers={"Authorization": "Basic !!!"},
    ),
]
ASSERTIONS = [
    Bad(name, sent, "invalid_client", 401, client=None)
    for name, sent in {
        "an assertion by another key": lambda s: s.assertion(OTHER),
        "an assertion with its own key": lambda s: s.assertion(OTHER, {"jwk": public(OTHER)}),
        "an assertion of an unknown key": lambda s: s.assertion(KEY, {"kid": "other"}),
        "an assertion of another type": lambda s: s.assertion(KEY, {"typ": "at+jwt"}),
        "an assertion for another server": lambda s: s.assertion(aud="https://other.example"),
        "an assertion for two servers": lambda s: s.assertion(aud=[s.base, "https://other.example"]),
        "an assertion for nobody": lambda s: s.assertion(aud=None),
        "an assertion that has expired": lambda s: s.assertion(exp=-60.0),
        "an assertion for an hour": lambda s: s.assertion(exp=3600.0),
        "an assertion for ever": lambda s: s.assertion(exp=None),
        "an assertion from the future": lambda s: s.assertion(nbf=300.0),
        "an assertion without a number": lambda s: s.assertion(jti=None),
        "an assertion of another client": lambda s: s.assertion(iss=s.named("robot"), sub=s.named("robot")),
        "an assertion by one about another": lambda s: s.assertion(sub=s.named("robot")),
        "an assertion without a signature": lambda s: {
            **s.assertion(),
            "client_assertion": s.assertion()["client_assertion"].rpartition(".")[0] + ".",
        },
    }.items()
]
TOKENS = [
    Bad("no grant type", fields(), "invalid_request"),
    Bad("a grant nobody has", fields(grant_type="password"), "unsupported_grant_type"),
    Bad("a grant that is not the client's", fields(grant_type=REFRESH, refresh_token="x"), "unauthorized_client"),
    Bad("another media type", lambda s: "{}", "invalid_request", headers={"Content-Type": "application/json"}),
    Bad("a parameter twice", lambda s: "grant_type=a&grant_type=b", "invalid_request"),
    Bad("two resources", lambda s: f"grant_type={CLIENT_CREDENTIALS}&resource=a&resource=b", "invalid_target"),
    Bad("bytes that are no text", lambda s: "grant_type=%ff", "invalid_request"),
    Bad("forty parameters", lambda s: "&".join(f"a{n}=1" for n in range(40)), "invalid_request"),
    Bad("a resource elsewhere", fields(**OWN, resource="https://other.example/mcp"), "invalid_target"),
    Bad("a resource with a fragment", lambda s: {**OWN, "resource": f"{s.base}/mcp#x"}, "invalid_target"),
    Bad("a scope nobody has", fields(**OWN, scope="root"), "invalid_scope"),
    Bad("an administrator's scope", fields(**OWN, scope="admin"), "invalid_scope"),
    Bad("an administrator's resource", lambda s: {**OWN, "resource": f"{s.base}/admin/v1"}, "invalid_scope"),
    Bad("a code nobody gave", lambda s: s.redeem(), "invalid_grant", client=None),
    Bad("a code without a verifier", lambda s: s.redeem(code_verifier=""), "invalid_request", client=None),
    Bad("no code", lambda s: s.redeem(code=""), "invalid_request", client=None),
    Bad("a code of a client without the grant", fields(grant_type=CODE, code="c"), "unauthorized_client"),
    Bad(
        "a refresh token nobody gave",
        lambda s: s.app(grant_type=REFRESH, refresh_token=f"0190-x.1.{'m' * 43}"),
        "invalid_grant",
        client=None,
    ),
    Bad(
        "a refresh token that is none",
        lambda s: s.app(grant_type=REFRESH, refresh_token="x"),
        "invalid_grant",
        client=None,
    ),
    Bad("an app for itself", lambda s: s.app(**OWN), "unauthorized_client", client=None),
]
EXCHANGES = [
    Bad("an exchange of rubbish", lambda s: s.exchange(subject_token="a.b.c"), "invalid_request"),
    Bad("an exchange of a key", lambda s: s.exchange(subject_token=s.gate.agent_key), "invalid_request"),
    Bad("an exchange of a token of nobody", lambda s: s.exchange(), "invalid_request"),
    Bad("an exchange without a type", lambda s: s.exchange(subject_token_type=""), "invalid_request"),
    Bad("an exchange to elsewhere", lambda s: s.exchange(resource="https://other.example"), "invalid_target"),
    Bad("an exchange to administer", lambda s: s.exchange(resource=f"{s.base}/admin/v1"), "invalid_target"),
    Bad("an exchange with half an actor", lambda s: s.exchange(actor_token=s.token), "invalid_request"),
    Bad(
        "an ID-JAG where none counts",
        fields(grant_type="urn:ietf:params:oauth:grant-type:jwt-bearer"),
        "unsupported_grant_type",
    ),
]
OTHERS = [
    Bad("a revocation by nobody", lambda s: {"token": s.token}, "invalid_client", 401, "revoke", None),
    Bad("a revocation of nothing", fields(), "invalid_request", at="revoke"),
    Bad("a question by nobody", lambda s: {"token": s.token}, "invalid_client", 401, "introspect", None),
    Bad("a question by an app", lambda s: s.app(token=s.token), "unauthorized_client", 400, "introspect", None),
    Bad(
        "a question with an agent's key",
        lambda s: {"token": s.token},
        "invalid_token",
        401,
        "introspect",
        None,
        {"Authorization": "Bearer mcpgw_x"},
    ),
    Bad("a push by nobody", lambda s: s.question(client_id="nobody"), "invalid_client", 401, "par", None),
    Bad("a push by a robot", lambda s: s.question(client_id=None), "unauthorized_client", 400, "par"),
    Bad("a push without PKCE", lambda s: s.question(code_challenge=None), "invalid_request", 400, "par", None),
    Bad(
        "a push to another place",
        lambda s: s.question(redirect_uri="https://evil.example/"),
        "invalid_request",
        400,
        "par",
        None,
    ),
]
QUESTIONS: dict[str, tuple[dict[str, str | None], str | None]] = {
    "no client": ({"client_id": None}, None),
    "a client nobody has": ({"client_id": "nobody"}, None),
    "no place": ({"redirect_uri": "https://evil.example/callback"}, None),
    "a place that is almost right": ({"redirect_uri": f"{CALLBACK}/"}, None),
    "a place with a query": ({"redirect_uri": f"{CALLBACK}?x=y"}, None),
    "a script for a place": ({"redirect_uri": "javascript:alert(1)"}, None),
    "a request that was not pushed": ({"request_uri": "urn:ietf:params:oauth:request_uri:x"}, None),
    "a token at once": ({"response_type": "token"}, "unsupported_response_type"),
    "no challenge": ({"code_challenge": None}, "invalid_request"),
    "a plain challenge": ({"code_challenge_method": "plain"}, "invalid_request"),
    "a resource elsewhere": ({"resource": "https://other.example/mcp"}, "invalid_target"),
    "an administrator's scope": ({"scope": "admin"}, "invalid_scope"),
}
ROWS = [*AUTHENTICATION, *ASSERTIONS, *TOKENS, *EXCHANGES, *OTHERS]


@pytest.fixture(scope="module")
def scenes(gate: GatewayProcess) -> Callable[[int], Scene]:
    """Clients of their own for every four rows, so that none waits for the failures of others."""
    return cache(lambda group: made(gate))


def made(gate: GatewayProcess) -> Scene:
    scene = Scene(gate, "", "", next(_numbers))
    agent = {"subject": scene.named("agent"), "roles": ["agent"]}
    robot = {"client_id": scene.named("robot"), **agent, "grants": [CLIENT_CREDENTIALS, TOKEN_EXCHANGE]}
    keyed = {"client_id": scene.named("keyed"), **agent, "jwks": {"keys": [public(KEY, kid="k")]}}
    app = {"client_id": scene.named("app"), "grants": [CODE, REFRESH], "redirect_uris": [CALLBACK]}
    secret = gate.admin.post("/clients", robot)["client_secret"]
    gate.admin.post("/clients", {**keyed, "auth_method": "private_key_jwt"})
    gate.admin.post("/clients", {**app, "auth_method": "none"})
    answer = httpx2.post(f"{gate.base_url}/oauth/token", data=OWN, auth=(scene.named("robot"), secret), trust_env=False)
    return replace(scene, secret=secret, token=answer.json()["access_token"])


def refusals(gate: GatewayProcess) -> dict[tuple[str, int], Line]:
    """Return the records of refusals, by their places."""
    lines = lines_of(gate.audit_dir)
    return {(line.log, line.index): line for line in lines if line.route == "auth" and line.outcome != "ok"}


def since(gate: GatewayProcess, before: Mapping[tuple[str, int], Line]) -> list[Line]:
    return [line for place, line in refusals(gate).items() if place not in before]


@pytest.mark.requirement("as:audit")
@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_a_bad_request_has_its_error_and_one_record(scenes: Callable[[int], Scene], row: Bad) -> None:
    scene = scenes(ROWS.index(row) // 4)
    before = refusals(scene.gate)
    sent = row.sent(scene)
    secret = scene.secret + "x" if row.client == "wrong" else scene.secret
    known = {"wrong": "robot"}.get(row.client or "", row.client or "")
    with httpx2.Client(trust_env=False, base_url=scene.base) as client:
        headers = {"Content-Type": FORM, **row.headers}
        body: dict[str, Any] = {"content": sent.encode()} if isinstance(sent, str) else {"data": dict(sent)}
        auth = None if row.client is None else (scene.named(known), secret)
        answer = client.post(f"/oauth/{row.at}", headers=headers, auth=auth, **body)
    assert (answer.status_code, answer.json()["error"]) == (row.status, row.error), answer.text
    assert answer.json().keys() == {"error", "error_description"}
    assert answer.headers["cache-control"] == "no-store"
    assert ("www-authenticate" in answer.headers) == (row.status == 401)
    found = since(scene.gate, before)
    assert [(line.verb, line.outcome) for line in found] == [(row.at, row.error)]
    facts = found[0].facts or {}
    assert facts["reason"] and scene.secret not in str(facts) and scene.token not in str(facts)


@pytest.mark.requirement("as:audit")
@pytest.mark.parametrize("name", QUESTIONS)
def test_a_bad_question_to_a_user_is_never_put_and_leaves_one_record(scenes: Callable[[int], Scene], name: str) -> None:
    scene = scenes(0)
    changed, error = QUESTIONS[name]
    before = refusals(scene.gate)
    with httpx2.Client(trust_env=False, base_url=scene.base) as client:
        answer = client.get("/oauth/authorize", params=scene.question(**changed))
    location = answer.headers.get("location", "")
    if error is None:
        assert answer.status_code == 400 and not location
        assert "https://evil.example" not in answer.text
    elif location:
        assert location.startswith(f"{CALLBACK}?")
        assert (answered(location)["error"], answered(location)["iss"]) == (error, scene.base)
    else:
        assert answer.status_code == 400
    found = since(scene.gate, before)
    assert [line.verb for line in found] == ["authorize"]
    assert error in {None, found[0].outcome}


@pytest.mark.requirement("faults:rubbish")
@pytest.mark.parametrize("path", ["/oauth/token", "/oauth/par", "/oauth/sign-in", "/oauth/consent"])
def test_who_goes_away_before_their_form_is_complete_leaves_nothing_behind(gate: GatewayProcess, path: str) -> None:
    """No traceback either: the fixture looks for one."""
    place = urlsplit(gate.base_url)
    head = f"POST {path} HTTP/1.1\r\nHost: {place.netloc}\r\nOrigin: {gate.base_url}\r\nContent-Type: {FORM}\r\n"
    with socket.create_connection((place.hostname, place.port), timeout=20) as client:
        client.sendall(f"{head}Content-Length: 100\r\n\r\ngrant_type".encode())
    answer = httpx2.post(f"{gate.base_url}{path}", content=b"", trust_env=False)
    assert answer.status_code in {400, 401, 403}


@pytest.mark.requirement("as:audit")
def test_the_table_is_as_long_as_it_should_be() -> None:
    assert len(ROWS) + len(QUESTIONS) >= 60
    assert len({row.name for row in ROWS}) == len(ROWS)
