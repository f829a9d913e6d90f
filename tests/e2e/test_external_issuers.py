"""Tokens of npm's `oidc-provider`: whom it signs in calls through the gateway, as its claims say, until it says no."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import httpx2
import pytest

from tests import tools
from tests.e2e.client import Answer, Client
from tests.e2e.oauth_parts import shown
from tests.fixtures.oidc_provider import OidcProvider, Resource, Settings, a_client, oidc_provider
from tests.fixtures.processes import Running, running
from tests.harness import ROOT, GatewayProcess, gateway, until

SECRET = "a-secret-of-the-robot-at-the-provider"
CACHE_S = 2
WORKERS = 2
SETTINGS = Settings(
    clients=[a_client("app"), a_client("robot", secret=SECRET), a_client("mcpgw", secret=SECRET)],
    users={
        "ada": {"groups": ["engineering", "incidents"]},
        "eve": {"groups": ["sales"]},
    },
    client_claims={"robot": {"groups": ["robots"]}},
    token_claims=["groups"],
)
POLICY = """\
package mcpgw.authz

default decision := {"effect": "deny", "reasons": ["default-deny"]}

decision := {"effect": "allow", "reasons": ["seen"]} if input.phase == "list"

decision := {"effect": "allow", "reasons": ["engineers"]} if {
	input.phase == "call"
	input.principal.team == "engineering"
}

decision := {"effect": "allow", "reasons": ["robots"]} if {
	input.phase == "call"
	"robot" in input.principal.roles
}
"""


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    log = tmp_path_factory.mktemp("echo") / "server.log"
    with running([sys.executable, "-m", "tests.fixtures.echo_server"], log=log, cwd=ROOT) as server:
        yield server


@contextmanager
def a_provider(log: Path) -> Iterator[OidcProvider]:
    """Run a provider. Skips where npm's packages are missing."""
    try:
        with oidc_provider(SETTINGS, log=log) as made:
            yield made
    except tools.Missing as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OidcProvider]:
    with a_provider(tmp_path_factory.mktemp("provider") / "provider.log") as made:
        yield made


def an_issuer(provider: OidcProvider, **more: Any) -> dict[str, Any]:
    """Return the configuration of the provider as the guide has it."""
    *_, jwts, _ = shown(provider.issuer)
    (section,) = jwts["issuers"]
    return {**section, "key_refetch_s": 1, **more}


def introspected(provider: OidcProvider) -> dict[str, Any]:
    """Return the same for opaque tokens."""
    *_, opaque = shown(provider.issuer)
    (section,) = opaque["issuers"]
    endpoint = f"{provider.issuer}/token/introspection"
    return an_issuer(provider, introspection={**section["introspection"], "endpoint": endpoint, "cache_s": CACHE_S})


@contextmanager
def gated(directory: Path, echo: Running, *issuers: dict[str, Any]) -> Iterator[GatewayProcess]:
    config = {"auth": {"issuers": list(issuers)}}
    with gateway(directory, config=config, policy={"teams.rego": POLICY}, workers=WORKERS) as made:
        for slug in ("echo", "other"):
            made.publish(slug, f"{echo.url}/modern/mcp")
        yield made
        assert "Traceback" not in made.output()


@pytest.fixture(scope="module")
def gate(provider: OidcProvider, echo: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with gated(tmp_path_factory.mktemp("gateway"), echo, an_issuer(provider)) as made:
        yield made


def a_token(provider: OidcProvider, login: str, resource: str) -> str:
    """Return an access token for a user who has signed in and agreed."""
    token: str = provider.user_token(login, "app", resource=resource, scope="openid mcp:use")["access_token"]
    return token


def ask(gate: GatewayProcess, token: str, path: str = "/mcp/echo") -> Answer:
    """Call the tool once, on a connection of its own: whichever worker takes it."""
    with Client(gate.base_url, token, path) as client:
        return client.call("echo" if path != "/mcp" else "echo__echo", marker="m")


def at_every_worker(gate: GatewayProcess, token: str) -> dict[str, Answer]:
    """Return an answer of each worker."""
    answers: dict[str, Answer] = {}

    def all_of_them() -> bool:
        answer = ask(gate, token)
        answers[answer.worker] = answer
        return len(answers) == WORKERS

    until(all_of_them, "an answer of each worker")
    return answers


def decision_of(gate: GatewayProcess, principal: str) -> dict[str, Any]:
    """Return the newest record of a decision about a principal's call."""
    records = gate.admin.get("/audit", principal=principal, server="echo")["records"]
    found: dict[str, Any] = next(record for record in records if record["phase"] in {"intent", "refused"})
    return found


@pytest.mark.requirement("issuers:jwt")
@pytest.mark.parametrize("alg", ["RS256", "ES256"])
def test_a_user_whom_the_provider_signed_in_calls_with_its_token(
    provider: OidcProvider, gate: GatewayProcess, alg: Literal["RS256", "ES256"]
) -> None:
    provider.change(resources={"*": Resource(alg=alg)})

    answer = ask(gate, a_token(provider, "ada", gate.server_url("echo")))

    assert answer.ok, answer.body
    assert decision_of(gate, f"{provider.issuer}|ada")["client_id"] == "app"


@pytest.mark.requirement("issuers:jwt")
def test_a_token_opens_the_endpoint_that_it_is_for_and_no_other(provider: OidcProvider, gate: GatewayProcess) -> None:
    for_one, for_all = (a_token(provider, "ada", url) for url in (gate.server_url("echo"), gate.mcp_url))
    elsewhere = a_token(provider, "ada", "https://other.example/mcp")

    opened = [ask(gate, for_one), ask(gate, for_all), ask(gate, for_all, "/mcp")]
    refused = [ask(gate, for_one, "/mcp"), ask(gate, for_one, "/mcp/other"), ask(gate, elsewhere)]

    assert [answer.ok for answer in opened] == [True, True, True]
    assert [answer.status for answer in refused] == [401, 401, 401]
    for answer in refused:
        assert 'error="invalid_token"' in answer.headers["www-authenticate"]
        assert "another audience" in answer.body["error"]["message"]


@pytest.mark.requirement("issuers:jwt")
def test_a_provider_that_is_not_configured_opens_nothing(
    gate: GatewayProcess, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with a_provider(tmp_path_factory.mktemp("stranger") / "provider.log") as stranger:
        answer = ask(gate, a_token(stranger, "ada", gate.server_url("echo")))
        asked = stranger.seen()

    assert (answer.status, answer.body["error"]["code"]) == (401, -31001)
    assert "GET /jwks" not in asked


@pytest.mark.requirement("issuers:jwt")
def test_an_id_token_is_no_access_token(provider: OidcProvider, gate: GatewayProcess) -> None:
    url = gate.server_url("echo")
    id_token = provider.user_token("ada", "app", resource=url, scope="openid mcp:use")["id_token"]

    assert ask(gate, id_token).status == 401


@pytest.mark.requirement("issuers:claims")
def test_claims_of_the_provider_decide_team_roles_and_kind(provider: OidcProvider, gate: GatewayProcess) -> None:
    url = gate.server_url("echo")
    ada, eve = a_token(provider, "ada", url), a_token(provider, "eve", url)
    robot = provider.client_token("robot", SECRET, resource=url, scope="mcp:use")["access_token"]

    answers = {name: ask(gate, token) for name, token in (("ada", ada), ("eve", eve), ("robot", robot))}

    decided = {name: decision_of(gate, f"{provider.issuer}|{name}") for name in answers}
    assert {name: (record.get("team"), *record["reasons"]) for name, record in decided.items()} == {
        "ada": ("engineering", "engineers"),
        "eve": (None, "default-deny"),
        "robot": (None, "robots"),
    }
    assert {name: answer.ok for name, answer in answers.items()} == {"ada": True, "eve": False, "robot": True}


@pytest.mark.requirement("issuers:claims")
def test_a_role_of_the_provider_opens_the_admin_api_with_a_token_for_it_alone(
    provider: OidcProvider, gate: GatewayProcess
) -> None:
    provider.change(resources={"*": Resource(scope="mcp:use audit:read kill:write")})
    url = f"{gate.base_url}/admin/v1"

    def status(login: str, resource: str, scope: str) -> int:
        token = provider.user_token(login, "app", resource=resource, scope=f"openid {scope}")["access_token"]
        headers = {"Authorization": f"Bearer {token}"}
        return httpx2.get(f"{url}/status", headers=headers, trust_env=False).status_code

    assert status("ada", url, "audit:read") == 200
    assert status("ada", url, "kill:write") == 403
    assert status("eve", url, "audit:read") == 403
    assert status("ada", gate.mcp_url, "mcp:use") == 401


@pytest.mark.requirement("issuers:rotation")
def test_calls_go_on_while_the_provider_rotates_its_keys(provider: OidcProvider, gate: GatewayProcess) -> None:
    url = gate.server_url("echo")
    tokens = [a_token(provider, "ada", url)]
    ended, failed, made = threading.Event(), [], Counter[str]()
    before = provider.seen().count("GET /jwks")

    def go_on() -> None:
        while not ended.is_set():
            token = tokens[-1]
            answer = ask(gate, token)
            made[token] += answer.ok
            if not answer.ok:
                failed.append(answer)

    callers = [threading.Thread(target=go_on) for _ in range(4)]
    for caller in callers:
        caller.start()
    until(lambda: made[tokens[0]] >= 20, "calls with the first key", 30)
    provider.rotate()
    tokens.append(a_token(provider, "ada", url))
    until(lambda: made[tokens[1]] >= 20, "calls with the second key", 30)
    ended.set()
    for caller in callers:
        caller.join()

    assert [answer.body for answer in failed] == []
    assert all(answer.ok for answer in at_every_worker(gate, tokens[0]).values())
    assert 1 <= provider.seen().count("GET /jwks") - before <= 2 * WORKERS


@pytest.mark.requirement("issuers:rotation")
def test_what_a_withdrawn_key_has_signed_is_refused_once_that_is_known(
    provider: OidcProvider, gate: GatewayProcess
) -> None:
    url = gate.server_url("echo")
    old = a_token(provider, "ada", url)
    assert all(answer.ok for answer in at_every_worker(gate, old).values())
    provider.rotate(keep=False)
    new = a_token(provider, "ada", url)

    def known_everywhere() -> bool:
        # A worker looks for a key that it does not know once in `key_refetch_s`.
        return all(answer.ok for answer in at_every_worker(gate, new).values())

    until(known_everywhere, "the new key is known to each worker", 30)

    assert {answer.status for answer in at_every_worker(gate, old).values()} == {401}


@pytest.mark.requirement("issuers:opaque")
def test_an_opaque_token_is_dead_within_the_cache_time_of_its_revocation(
    provider: OidcProvider, echo: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INTROSPECTION_SECRET", SECRET)
    with gated(tmp_path, echo, introspected(provider)) as gate:
        provider.change(resources={"*": Resource(format="opaque")})
        url = gate.server_url("echo")
        try:
            token, other = a_token(provider, "ada", url), a_token(provider, "ada", gate.server_url("other"))
            robot = provider.client_token("robot", SECRET, resource=url, scope="mcp:use")["access_token"]
        finally:
            provider.change(resources={"*": Resource()})
        assert "." not in token
        before, began_at = provider.seen().count("POST /token/introspection"), time.monotonic()
        answers = [ask(gate, token) for _ in range(20)]
        asked = provider.seen().count("POST /token/introspection") - before
        cached = 2 + (time.monotonic() - began_at) // CACHE_S
        elsewhere, by_robot = ask(gate, other), ask(gate, robot)
        provider.revoke(token, "app")
        until(
            lambda: {a.status for a in at_every_worker(gate, token).values()} == {401},
            "refused by each worker",
            CACHE_S + 10,
        )

    assert [answer.body for answer in (*answers, by_robot) if not answer.ok] == []
    assert elsewhere.status == 401
    assert asked <= WORKERS * cached


@pytest.mark.requirement("issuers:revoked-here")
def test_a_principal_of_the_provider_who_is_revoked_here_is_refused_on_the_next_call(
    provider: OidcProvider, gate: GatewayProcess
) -> None:
    url = gate.server_url("echo")
    ada, robot = a_token(provider, "ada", url), provider.client_token("robot", SECRET, resource=url, scope="mcp:use")
    assert all(answer.ok for answer in at_every_worker(gate, ada).values())

    gate.admin.post(
        "/revocations",
        {"kind": "principal", "selector": f"{provider.issuer}|ada", "not_before": time.time(), "reason": "test"},
    )

    assert {answer.status for answer in at_every_worker(gate, ada).values()} == {401}
    assert ask(gate, robot["access_token"]).ok
