"""Several workers, one gateway: what one of them was told, or holds, counts on all of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import pytest

from tests.e2e.client import Answer, Client, through
from tests.e2e.parts import Witness, a_witness
from tests.harness import GatewayProcess, gateway, rego, until

WORKERS = ("w0", "w1")
NO_ECHO = """package mcpgw.authz

default decision := {"effect": "allow", "reasons": ["the-rest"]}

decision := {"effect": "deny", "reasons": ["no-echo"], "message": "Not this one."} if {
	input.phase == "call"
	input.tool.name == "echo"
}
"""


@pytest.fixture(scope="module")
def witness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Witness]:
    with a_witness(tmp_path_factory.mktemp("witness")) as found:
        yield found


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, witness: Witness) -> Iterator[GatewayProcess]:
    """Two workers, an HTTP server `alpha`, and the example server `notes`, which one of them runs as a process."""
    notes = {"name": "notes", "command": [sys.executable, "-m", "mcpgw.example.notes"]}
    config = {"registry": {"stdio": [notes], "drift_check_s": 0.5}}
    home = tmp_path_factory.mktemp("gateway")
    with gateway(home, config=config, policy=rego("allow_all"), workers=len(WORKERS)) as running:
        running.publish("alpha", witness.url("alpha"))
        running.publish("notes")
        yield running


@contextmanager
def on_each(at: GatewayProcess, path: str, key: str | None = None) -> Iterator[Mapping[str, Client]]:
    """Yield a client for each worker, whose connection that worker has accepted."""
    clients = {worker: through(worker, at, key or at.agent_key, path) for worker in WORKERS}
    try:
        yield clients
    finally:
        for client in clients.values():
            client.close()


def called(clients: Mapping[str, Client], tool: str, arguments: Mapping[str, object]) -> list[Answer]:
    """Return the answer of one call through each worker."""
    return [client.call(tool, **arguments) for client in clients.values()]


# What one worker holds


@pytest.mark.requirement("workers:stdio")
def test_any_worker_serves_a_server_that_is_a_process_of_one(shared: GatewayProcess) -> None:
    with on_each(shared, "/mcp/notes") as clients:
        for worker, client in clients.items():
            written = client.call("write_note", note_id=f"by-{worker}", text="hello")
            assert written.ok, written
            assert written.worker == "w0"
        for client in clients.values():
            listed = client.call("list_notes").body["result"]["content"][0]["text"]
            assert all(f"by-{worker}" in listed for worker in WORKERS)
    with on_each(shared, "/mcp") as clients:
        assert all(client.call("notes__read_note", note_id="by-w1").ok for client in clients.values())


@pytest.mark.requirement("workers:sessions")
def test_a_session_lives_on_when_its_requests_reach_another_worker(shared: GatewayProcess) -> None:
    with on_each(shared, "/mcp/alpha") as opening, on_each(shared, "/mcp/alpha") as using:
        for holder, opener in opening.items():
            session = opener.initialize()
            for client in using.values():
                client.session = session
                answer = client.call("echo", text="x")
                assert answer.ok, answer
                assert answer.worker == holder
                assert client.tools() == ["echo", "slow"]


@pytest.mark.requirement("workers:sessions")
def test_a_session_is_its_owners_on_every_worker(shared: GatewayProcess) -> None:
    _, foreign = shared.new_key("somebody-else")
    with Client(shared.base_url, shared.agent_key, "/mcp/alpha") as opener, on_each(shared, "/mcp/alpha") as clients:
        session = opener.initialize()
        for client in clients.values():
            client.use(foreign)
            client.session = session
            stolen = client.call("echo", text="x")
            client.session = session[:-4] + "AAAA"
            unknown = client.call("echo", text="x")
            assert (stolen.status, stolen.body["error"]["code"]) == (unknown.status, unknown.body["error"]["code"])
            assert stolen.body["error"]["message"] == unknown.body["error"]["message"]
            assert stolen.status == 404


# What one worker is told


@pytest.mark.requirement("workers:revocation")
def test_a_revoked_key_is_refused_on_the_next_call_on_every_worker(shared: GatewayProcess) -> None:
    key_id, key = shared.new_key("soon-revoked")
    with on_each(shared, "/mcp/alpha", key) as clients:
        assert all(answer.ok for answer in called(clients, "echo", {"text": "x"}))
        shared.admin.delete(f"/keys/{key_id}", {"reason": "drill"})
        assert [answer.status for answer in called(clients, "echo", {"text": "x"})] == [401, 401]


@pytest.mark.requirement("workers:activation")
def test_a_policy_is_in_force_on_every_worker_when_its_activation_is_answered(shared: GatewayProcess) -> None:
    with on_each(shared, "/mcp/alpha") as clients:
        for _ in range(5):
            assert all(answer.ok for answer in called(clients, "echo", {"text": "x"}))
            shared.admin.post("/policies", {"files": {"no_echo.rego": NO_ECHO}, "activate": True})
            for answer in called(clients, "echo", {"text": "x"}):
                assert answer.body["result"]["isError"]
                assert answer.body["result"]["_meta"]["io.mcpgw/decision"]["rule"] == "no-echo"
            assert all(answer.ok for answer in called(clients, "slow", {"seconds": 0}))
            shared.admin.post("/policies/rollback")


@pytest.mark.requirement("workers:activation")
def test_a_version_is_used_by_every_worker_when_its_activation_is_answered(
    shared: GatewayProcess, witness: Witness
) -> None:
    def arrived() -> list[str]:
        before = len(witness.arrivals())
        assert all(answer.ok for answer in called(clients, "echo", {"text": "x"}))
        return [arrival.server for arrival in witness.arrivals()[before:]]

    shared.publish("moving", witness.url("first"))
    draft = shared.admin.post("/servers/moving/versions", {"url": witness.url("second")})["version"]
    with on_each(shared, "/mcp/moving") as clients:
        assert arrived() == ["first", "first"]
        shared.admin.post(f"/servers/moving/versions/{draft}/approve")
        assert arrived() == ["first", "first"]
        shared.admin.post(f"/servers/moving/versions/{draft}/activate")
        assert arrived() == ["second", "second"]
        shared.admin.post("/servers/moving/rollback")
        assert arrived() == ["first", "first"]


@pytest.mark.requirement("workers:quarantine")
def test_a_tool_that_changed_upstream_is_refused_everywhere_until_a_version_with_it_is_active(
    shared: GatewayProcess, witness: Witness
) -> None:
    shared.publish("drifting", witness.url("drifting"))
    with on_each(shared, "/mcp/drifting") as clients:

        def all_are(wanted: Callable[[Answer], bool]) -> bool:
            return all(wanted(answer) for answer in called(clients, "echo", {"text": "x"}))

        assert all_are(lambda answer: answer.ok)
        witness.describe("drifting", "Now does something else.")
        until(lambda: all_are(lambda answer: not answer.ok), "the quarantine")
        before = len(witness.arrivals())
        for answer in called(clients, "echo", {"text": "x"}):
            assert answer.status == 403
            assert "changed" in answer.body["error"]["message"]
        assert len(witness.arrivals()) == before
        assert all(answer.ok for answer in called(clients, "slow", {"seconds": 0}))
        fresh = shared.publish("drifting")
        assert fresh != "1.0.0"
        assert all_are(lambda answer: answer.ok)
        [echo, _] = clients["w1"].ask("tools/list", {}).body["result"]["tools"]
        assert echo["description"] == "Now does something else."
