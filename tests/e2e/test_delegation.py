"""Agents that act for people, over two workers: exchanged tokens, what a provider grants, keys of clients."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import httpx2
import pytest
from joserfc.jwk import ECKey

from mcpgw.auth.server.client_authentication import ASSERTION_TYPE
from mcpgw.auth.server.exchange import TOKEN_EXCHANGE
from mcpgw.auth.server.granting import ACCESS_TOKEN
from mcpgw.auth.server.id_jag import JWT_BEARER
from mcpgw.cluster import socket_path
from mcpgw.domain import CLIENT_CREDENTIALS
from tests.auth.authorization_server import an_assertion, public
from tests.auth.provider import Provider, serving
from tests.e2e.agents import agent, text_of
from tests.harness import GatewayProcess, gateway, rego

WORKERS = 2
KEY = ECKey.generate_key("P-256")
_numbers = count(1)


@dataclass
class Office:
    """A gateway that lets a provider grant access to alice, with the agents `one` and `two`, and the client `app`."""

    gate: GatewayProcess
    provider: Provider
    workers: list[httpx2.Client]
    secrets: dict[str, str] = field(default_factory=dict)

    def ask(self, worker: int, client: str, form: dict[str, str]) -> httpx2.Response:
        """Ask the token endpoint of one worker as a client with a secret."""
        return self.workers[worker].post("/oauth/token", data=form, auth=(client, self.secrets[client]))

    def id_jag(self, **changed: Any) -> dict[str, str]:
        """Return the form of a grant of the provider that has not been used."""
        good = {"jti": f"jag-{next(_numbers)}", "resource": f"{self.gate.base_url}/mcp", **changed}
        claims = self.provider.claims(good.pop("aud", self.gate.base_url), time.time(), **good)
        return {"grant_type": JWT_BEARER, "assertion": self.provider.token(claims, typ="oauth-id-jag+jwt")}

    def exchange(self, worker: int, client: str, token: str, **changed: str) -> httpx2.Response:
        form = {"grant_type": TOKEN_EXCHANGE, "subject_token": token, "subject_token_type": ACCESS_TOKEN, **changed}
        return self.ask(worker, client, form)


@pytest.fixture(scope="module")
def office(everything_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    with serving(Provider()) as provider:
        config = {"auth": {"issuers": [{"issuer": provider.issuer, "id_jag": True}]}}
        home = tmp_path_factory.mktemp("delegation")
        with gateway(home, config=config, policy=rego("allow_all"), workers=WORKERS) as gate:
            gate.publish("everything", everything_url)
            places = [str(socket_path(gate.data_dir / "run", index)) for index in range(WORKERS)]
            transports = [httpx2.HTTPTransport(uds=place) for place in places]
            workers = [httpx2.Client(transport=made, base_url=gate.base_url, timeout=20) for made in transports]
            office = Office(gate, provider, workers)
            gate.admin.post("/principals", {"issuer": provider.issuer, "subject": "alice", "roles": ["agent"]})
            for name in ("one", "two"):
                given = {"client_id": name, "subject": name, "roles": ["agent"], "grants": [TOKEN_EXCHANGE]}
                office.secrets[name] = gate.admin.post("/clients", given)["client_secret"]
            given = {"client_id": "app", "grants": [JWT_BEARER]}
            office.secrets["app"] = gate.admin.post("/clients", given)["client_secret"]
            keyed = {"client_id": "keyed", "subject": "keyed", "roles": ["agent"], "auth_method": "private_key_jwt"}
            gate.admin.post("/clients", {**keyed, "jwks": {"keys": [public(KEY, kid="k")]}})
            yield office
            for worker in workers:
                worker.close()
            assert "Traceback" not in gate.output()


@pytest.mark.requirement("as:exchange")
async def test_the_log_of_a_call_names_the_user_and_each_agent_in_between(office: Office) -> None:
    user = office.ask(0, "app", office.id_jag()).json()["access_token"]
    first = office.exchange(1, "one", user).json()["access_token"]
    second = office.exchange(0, "two", first, resource=office.gate.server_url("everything")).json()["access_token"]
    async with agent(office.gate.server_url("everything"), second) as connected:
        assert text_of(await connected.call_tool("greet", {"name": "you"})) == "Hello, you!"
    records = office.gate.admin.get("/audit", principal=f"{office.provider.issuer}|alice", tool="greet")["records"]
    intent = next(record for record in records if record["phase"] == "intent")
    assert (intent["client_id"], intent["facts"]["actors"]) == ("two", ["mcpgw|two", "mcpgw|one"])


@pytest.mark.requirement("as:exchange")
def test_a_token_of_the_provider_itself_is_exchanged_too_and_never_for_more(office: Office) -> None:
    claims = office.provider.claims(office.gate.server_url("everything"), time.time(), may_act={"sub": "one"})
    token = office.provider.token(claims)
    endpoint = office.gate.server_url("everything")
    good = office.exchange(0, "one", token, resource=endpoint)
    assert good.status_code == 200, good.text
    assert good.json()["issued_token_type"] == ACCESS_TOKEN
    for client, resource in (("two", endpoint), ("one", f"{office.gate.base_url}/mcp")):
        refused = office.exchange(1, client, token, resource=resource)
        assert (refused.status_code, refused.json()["error"]) == (400, "invalid_request")


@pytest.mark.requirement("as:id-jag")
def test_what_a_provider_granted_counts_once_over_all_workers(office: Office) -> None:
    form = office.id_jag()
    answers = [office.ask(worker, "app", form) for worker in (0, 1, 0)]
    assert [answer.status_code for answer in answers] == [200, 400, 400]
    assert {answer.json()["error"] for answer in answers[1:]} == {"invalid_grant"}


@pytest.mark.requirement("as:id-jag")
@pytest.mark.parametrize(
    "changed",
    [
        {"aud": "https://other.example"},
        {"client_id": "one"},
        {"resource": "https://other.example/mcp"},
        {"sub": "mallory"},
        {"exp": 1},
        {"jti": None},
    ],
    ids=["audience", "client", "resource", "user", "expired", "number"],
)
def test_a_provider_grants_nothing_with_a_lie(office: Office, changed: dict[str, Any]) -> None:
    refused = office.ask(0, "app", office.id_jag(**changed))
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_grant")
    records = office.gate.admin.get("/audit", outcome="invalid_grant", limit="1")["records"]
    assert (records[0]["client_id"], records[0]["facts"]["grant_type"]) == ("app", JWT_BEARER)


@pytest.mark.requirement("as:client-assertion")
def test_an_assertion_that_one_worker_has_heard_is_no_use_at_another(office: Office) -> None:
    now = int(time.time())
    claims = {"iss": "keyed", "sub": "keyed", "aud": office.gate.base_url, "jti": "once", "iat": now, "exp": now + 60}
    proof = {"client_assertion_type": ASSERTION_TYPE, "client_assertion": an_assertion(KEY, claims, kid="k")}
    form = {"grant_type": CLIENT_CREDENTIALS, **proof}
    answers = [worker.post("/oauth/token", data=form) for worker in office.workers]
    assert [answer.status_code for answer in answers] == [200, 401]
    assert answers[1].json()["error"] == "invalid_client"


@pytest.mark.requirement("as:grant-ends")
def test_deactivating_an_agent_ends_what_it_holds_for_others_at_each_worker(office: Office) -> None:
    made = office.gate.admin.post("/principals", {"subject": "three", "kind": "agent", "roles": ["agent"]})
    given = {"client_id": "three", "subject": "three", "roles": ["agent"], "grants": [TOKEN_EXCHANGE]}
    office.secrets["three"] = office.gate.admin.post("/clients", given)["client_secret"]
    user = office.ask(0, "app", office.id_jag()).json()["access_token"]
    token = office.exchange(1, "three", user).json()["access_token"]
    headers = {"Authorization": f"Bearer {token}", "Accept": "application/json, text/event-stream"}
    ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    before = [worker.post("/mcp", json=ping, headers=headers).status_code for worker in office.workers]
    assert 401 not in before
    office.gate.admin.post(f"/principals/{made['id']}/deactivate", {"reason": "drill"})
    after = [worker.post("/mcp", json=ping, headers=headers).status_code for worker in office.workers]
    assert after == [401, 401]
    assert office.exchange(0, "three", user).json()["error"] == "invalid_request"
