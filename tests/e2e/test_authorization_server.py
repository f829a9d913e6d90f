"""Our authorization server by HTTP, over two workers: what one gives out, the other takes, and once."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx2
import pytest

from mcpgw.cluster import socket_path
from tests.auth.authorization_server import Proof
from tests.e2e.agents import MODERN
from tests.e2e.oauth_parts import PASSWORD, new_user
from tests.harness import GatewayProcess

CALLBACK = "https://app.example/callback"
HEADERS = {
    "Accept": "application/json, text/event-stream",
    "MCP-Protocol-Version": MODERN,
    "Mcp-Method": "tools/list",
}
META = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientCapabilities": {},
}
LIST = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": META}}
_COOKIE = re.compile(r"([^=]+)=([^;]*)")
_FORM = re.compile(r'name="form" value="([^"]+)"')
_numbers = count(1)


@dataclass
class Browser:
    """A browser without a screen, at one worker. It keeps `__Host-` cookies, as those do on loopback."""

    gate: GatewayProcess
    http: httpx2.Client
    cookies: dict[str, str] = field(default_factory=dict)

    def get(self, path: str, **query: str) -> httpx2.Response:
        return self._kept(self.http.get(path, params=query or None, headers=self._headers()))

    def post(self, path: str, **fields: str) -> httpx2.Response:
        headers = {**self._headers(), "Origin": self.gate.base_url}
        return self._kept(self.http.post(path, data=fields, headers=headers))

    def allow(self, query: dict[str, str], name: str) -> dict[str, str]:
        """Sign in, say yes, and return what the client is told."""
        page = self.get("/oauth/authorize", **query)
        signed_in = self.post("/oauth/sign-in", form=form_of(page), username=name, password=PASSWORD)
        assert signed_in.status_code == 303, signed_in.text
        answer = self.get(signed_in.headers["location"])
        if answer.status_code == 200:  # otherwise the user has said so before
            answer = self.post("/oauth/consent", form=form_of(answer), decision="allow")
        assert answer.status_code == 303, answer.text
        assert answer.headers["location"].startswith(f"{CALLBACK}?")
        return dict(parse_qsl(urlsplit(answer.headers["location"]).query))

    def _headers(self) -> dict[str, str]:
        return {"Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())}

    def _kept(self, response: httpx2.Response) -> httpx2.Response:
        for line in response.headers.get_list("set-cookie"):
            match = _COOKIE.match(line)
            assert match is not None
            self.cookies[match[1]] = match[2]
        return response


def form_of(page: httpx2.Response) -> str:
    found = _FORM.search(page.text)
    assert page.status_code == 200 and found is not None, page.text
    return found[1]


@pytest.fixture
def workers(gate: GatewayProcess) -> Iterator[list[httpx2.Client]]:
    """A client of each worker by itself."""
    places = [socket_path(gate.data_dir / "run", index) for index in range(gate.workers)]
    made = [
        httpx2.Client(transport=httpx2.HTTPTransport(uds=str(place)), base_url=gate.base_url, timeout=20)
        for place in places
    ]
    yield made
    for client in made:
        client.close()


@dataclass(frozen=True)
class App:
    """A client of users and a user, both new."""

    gate: GatewayProcess
    client_id: str
    user: str
    proof: Proof

    def query(self, path: str = "/mcp/everything") -> dict[str, str]:
        return {
            "response_type": "code",
            "client_id": self.client_id,
            "redirect_uri": CALLBACK,
            "state": "s-1",
            "resource": self.gate.base_url + path,
            "code_challenge": self.proof.challenge,
            "code_challenge_method": "S256",
        }

    def redemption(self, code: str, /, **changed: str) -> dict[str, str]:
        return {
            "grant_type": "authorization_code",
            "client_id": self.client_id,
            "code": code,
            "redirect_uri": CALLBACK,
            "code_verifier": self.proof.verifier,
            **changed,
        }

    def refreshing(self, refresh_token: str) -> dict[str, str]:
        return {"grant_type": "refresh_token", "client_id": self.client_id, "refresh_token": refresh_token}

    def code(self, worker: httpx2.Client) -> str:
        answer = Browser(self.gate, worker).allow(self.query(), self.user)
        assert (answer["state"], answer["iss"]) == ("s-1", self.gate.base_url)
        return answer["code"]

    def tokens(self, worker: httpx2.Client) -> dict[str, Any]:
        answer = worker.post("/oauth/token", data=self.redemption(self.code(worker)))
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found


@pytest.fixture
def app(gate: GatewayProcess) -> App:
    number = next(_numbers)
    name, user = f"notebook-{number}", f"reader-{number}"
    gate.admin.post(
        "/clients",
        {
            "client_id": name,
            "auth_method": "none",
            "grants": ["authorization_code", "refresh_token"],
            "redirect_uris": [CALLBACK],
        },
    )
    new_user(gate, user, roles=["agent"])
    return App(gate, name, user, Proof.new())


def status(worker: httpx2.Client, token: str, path: str = "/mcp/everything") -> int:
    """Return what a list of tools is answered with."""
    headers = {**HEADERS, "Authorization": f"Bearer {token}"}
    return worker.post(path, json=LIST, headers=headers).status_code


def refused(answer: httpx2.Response) -> str:
    assert answer.status_code == 400 and answer.headers["cache-control"] == "no-store"
    error: str = answer.json()["error"]
    return error


@pytest.mark.requirement("as:workers")
def test_a_code_of_one_worker_is_redeemed_at_another_and_its_token_counts_at_both(
    app: App, workers: list[httpx2.Client]
) -> None:
    code = app.code(workers[0])
    answer = workers[1].post("/oauth/token", data=app.redemption(code))
    assert answer.status_code == 200, answer.text
    tokens = answer.json()
    assert [status(worker, tokens["access_token"]) for worker in workers] == [200, 200]
    fresh = workers[0].post("/oauth/token", data=app.refreshing(tokens["refresh_token"])).json()
    assert [status(worker, fresh["access_token"]) for worker in workers] == [200, 200]
    records = app.gate.admin.get("/audit", principal=f"mcpgw|{app.user}")["records"]
    seen = [(r["verb"], r["phase"]) for r in records if r["route"] == "auth"]
    assert {("authorize", "auth"), ("token", "auth")} <= set(seen)


@pytest.mark.requirement("as:code-once")
def test_a_code_that_is_replayed_at_another_worker_ends_the_tokens_at_every_one(
    app: App, workers: list[httpx2.Client]
) -> None:
    code = app.code(workers[0])
    tokens = workers[0].post("/oauth/token", data=app.redemption(code)).json()
    assert status(workers[0], tokens["access_token"]) == 200
    assert refused(workers[1].post("/oauth/token", data=app.redemption(code))) == "invalid_grant"
    assert [status(worker, tokens["access_token"]) for worker in workers] == [401, 401]
    again = workers[0].post("/oauth/token", data=app.refreshing(tokens["refresh_token"]))
    assert refused(again) == "invalid_grant"


@pytest.mark.requirement("as:code-once")
def test_of_many_who_redeem_a_code_at_both_workers_at_once_at_most_one_wins(
    app: App, workers: list[httpx2.Client]
) -> None:
    form = app.redemption(app.code(workers[0]))
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: workers[n % 2].post("/oauth/token", data=form), range(8)))
    won = [answer.json() for answer in answers if answer.status_code == 200]
    assert len(won) <= 1
    assert all(refused(answer) == "invalid_grant" for answer in answers if answer.status_code != 200)
    for tokens in won:
        assert [status(worker, tokens["access_token"]) for worker in workers] == [401, 401]


@pytest.mark.requirement("as:code-bound")
@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"code_verifier": "v" * 43}, "invalid_grant"),
        ({"redirect_uri": f"{CALLBACK}/"}, "invalid_grant"),
        ({"resource": "https://other.example/mcp"}, "invalid_target"),
        ({"client_id": "robot-of-others"}, "invalid_grant"),
    ],
    ids=["verifier", "redirect_uri", "resource", "client"],
)
def test_a_stolen_code_is_no_use(app: App, workers: list[httpx2.Client], changed: dict[str, str], error: str) -> None:
    others = {"client_id": "robot-of-others", "auth_method": "none", "redirect_uris": [CALLBACK]}
    if "client_id" in changed and not any(c["client_id"] == "robot-of-others" for c in clients(app.gate)):
        app.gate.admin.post("/clients", {**others, "grants": ["authorization_code"]})
    code = app.code(workers[0])
    assert refused(workers[1].post("/oauth/token", data=app.redemption(code, **changed))) == error


def clients(gate: GatewayProcess) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = gate.admin.get("/clients")["clients"]
    return found


@pytest.mark.requirement("as:refresh-reuse")
def test_a_refresh_token_that_comes_back_at_another_worker_ends_the_family_on_the_next_call(
    app: App, workers: list[httpx2.Client]
) -> None:
    first = app.tokens(workers[0])
    second = workers[1].post("/oauth/token", data=app.refreshing(first["refresh_token"])).json()
    assert status(workers[0], second["access_token"]) == 200
    thief = workers[0].post("/oauth/token", data=app.refreshing(first["refresh_token"]))
    assert refused(thief) == "invalid_grant"
    for tokens in (first, second):
        assert [status(worker, tokens["access_token"]) for worker in workers] == [401, 401]
    assert refused(workers[1].post("/oauth/token", data=app.refreshing(second["refresh_token"]))) == "invalid_grant"


@pytest.mark.requirement("as:revocation")
def test_a_token_that_is_given_back_is_dead_at_each_worker_when_the_answer_is_there(
    app: App, workers: list[httpx2.Client]
) -> None:
    tokens = app.tokens(workers[0])
    access, refresh = tokens["access_token"], tokens["refresh_token"]
    assert [status(worker, access) for worker in workers] == [200, 200]
    answer = workers[0].post("/oauth/revoke", data={"client_id": app.client_id, "token": access})
    assert (answer.status_code, answer.json()) == (200, {})
    assert [status(worker, access) for worker in workers] == [401, 401]
    fresh = workers[1].post("/oauth/token", data=app.refreshing(refresh)).json()
    workers[1].post("/oauth/revoke", data={"client_id": app.client_id, "token": fresh["refresh_token"]})
    assert [status(worker, fresh["access_token"]) for worker in workers] == [401, 401]


@pytest.mark.requirement("as:par")
def test_a_request_that_was_pushed_to_one_worker_is_asked_at_the_other(app: App, workers: list[httpx2.Client]) -> None:
    pushed = workers[0].post("/oauth/par", data=app.query())
    assert pushed.status_code == 201
    asked = {"client_id": app.client_id, "request_uri": pushed.json()["request_uri"]}
    code = Browser(app.gate, workers[1]).allow(asked, app.user)["code"]
    assert workers[0].post("/oauth/token", data=app.redemption(code)).status_code == 200


@pytest.mark.requirement("as:audit")
def test_each_refusal_is_one_record_with_its_reason(app: App, workers: list[httpx2.Client]) -> None:
    bad = app.redemption("made-up-" + app.client_id)
    assert refused(workers[0].post("/oauth/token", data=bad)) == "invalid_grant"
    records = app.gate.admin.get("/audit", outcome="invalid_grant", limit="5")["records"]
    mine = [r for r in records if r.get("client_id") == app.client_id]
    assert len(mine) == 1
    assert (mine[0]["phase"], mine[0]["verb"]) == ("refused", "token")
    assert "unknown or has expired" in mine[0]["facts"]["reason"]
    assert "made-up" not in str(mine)


@pytest.mark.requirement("as:key-rotation")
def test_a_new_signing_key_is_used_by_each_worker_and_old_tokens_go_on(app: App, workers: list[httpx2.Client]) -> None:
    before = app.tokens(workers[0])
    made = json.loads(app.gate.cli("keys", "rotate", "--signing", "--json", check=True).stdout)
    kid = made["kid"]
    for worker in workers:
        assert kid in [key["kid"] for key in worker.get("/.well-known/jwks.json").json()["keys"]]
        assert status(worker, before["access_token"]) == 200
    after = app.tokens(workers[1])
    assert [status(worker, after["access_token"]) for worker in workers] == [200, 200]
