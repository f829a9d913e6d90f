"""Who calls, over two worker processes: what ends when a key, a token, a user or a team does, and what a key opens."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

from mcpgw.auth.access_tokens import AccessTokens, NewToken
from mcpgw.auth.endpoints import Endpoints
from mcpgw.auth.signing import SigningKeys
from tests.e2e.client import Answer, Client, through
from tests.e2e.parts import MARKED, Witness, a_witness
from tests.harness import GatewayProcess, gateway, rego

WORKERS = ("w0", "w1")
CHANGED = "notifications/subscriptions/acknowledged"
AT_ONCE_S = 5.0  # the machine may be busy; a call that is not cut goes on for half a minute
OVERLAP_S = 4.0
names = count(1)


@pytest.fixture(scope="module")
def witness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Witness]:
    with a_witness(tmp_path_factory.mktemp("witness")) as found:
        yield found


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, witness: Witness) -> Iterator[GatewayProcess]:
    """Two workers with the servers `alpha` and `beta`, and a toolset of both."""
    config = {**MARKED, "auth": {"roles": {"killer": ["kill:write"]}}}
    home = tmp_path_factory.mktemp("gateway")
    with gateway(home, config=config, policy=rego("allow_all"), workers=len(WORKERS)) as running:
        for server in ("alpha", "beta"):
            running.publish(server, witness.url(server))
        running.admin.post("/toolsets", {"slug": "desk", "tools": [{"tool": "alpha/echo"}, {"tool": "beta/echo"}]})
        yield running
        assert "Traceback" not in running.output()


@contextmanager
def on_each(at: GatewayProcess, key: str, path: str = "/mcp/alpha") -> Iterator[Mapping[str, Client]]:
    """Yield a client for each worker, whose connection that worker has accepted."""
    with ExitStack() as stack:
        yield {worker: stack.enter_context(through(worker, at, key, path)) for worker in WORKERS}


# What ends, ends while it runs


@dataclass(frozen=True)
class Holder:
    """A credential, and the request that ends it."""

    credential: str
    end: Callable[[], object]


def of_a_key(at: GatewayProcess) -> Holder:
    key_id, key = at.new_key(f"bot-{next(names)}")
    return Holder(key, lambda: at.admin.delete(f"/keys/{key_id}", {"reason": "drill"}))


def of_a_key_of_an_account(at: GatewayProcess) -> Holder:
    name = f"agent-{next(names)}"
    account = at.admin.post("/principals", {"subject": name, "kind": "agent"})["id"]
    _, key = at.new_key(name)
    return Holder(key, lambda: at.admin.post(f"/principals/{account}/deactivate", {"reason": "drill"}))


def of_a_team(at: GatewayProcess) -> Holder:
    name = f"team-{next(names)}"
    key = at.admin.post("/keys", {"subject": f"of-{name}", "roles": ["agent"], "team": name})["key"]
    return Holder(key, lambda: at.admin.post(f"/teams/{name}/deactivate", {"reason": "drill"}))


def of_a_client(at: GatewayProcess) -> Holder:
    name = f"client-{next(names)}"
    secret = at.admin.post("/clients", {"client_id": name, "subject": name, "roles": ["agent"]})["client_secret"]
    token = at.cli("token", name, "--secret", secret, check=True).stdout.strip()
    return Holder(token, lambda: at.admin.delete(f"/clients/{name}", {"reason": "drill"}))


def of_a_user(at: GatewayProcess) -> Holder:
    account, token, _ = user_token(at)
    return Holder(token, lambda: at.admin.post(f"/principals/{account}/deactivate", {"reason": "drill"}))


def of_a_grant(at: GatewayProcess) -> Holder:
    _, token, grant = user_token(at)
    return Holder(token, lambda: revoke(at, "grant", grant))


def of_a_client_that_is_a_url(at: GatewayProcess) -> Holder:
    app = f"https://app.example/{next(names)}"
    _, token, _ = user_token(at, app)
    return Holder(token, lambda: revoke(at, "client", app))


def revoke(at: GatewayProcess, kind: str, selector: str) -> object:
    moment = time.time() - 0.001  # the clock of this process and of the gateway is one
    return at.admin.post("/revocations", {"kind": kind, "selector": selector, "not_before": moment, "reason": "drill"})


def user_token(
    at: GatewayProcess, app: str = "https://app.example/client.json", acting: str | None = None
) -> tuple[str, str, str]:
    """Return the id of a new user, a token of theirs as the gateway signs it (for one who acts), and its grant."""
    name = f"user-{next(names)}"
    grant = f"grant-of-{name}"
    account: str = at.admin.post("/principals", {"subject": name, "password": "correct horse battery"})["id"]
    new = NewToken(
        subject=account,
        client_id=app,
        endpoint="/mcp",
        scope="mcp:use",
        jti=f"jti-{name}",
        ttl_s=900,
        grant=grant,
        act=None if acting is None else {"iss": "mcpgw", "sub": acting},
    )
    # Issued a second ago: a token bears whole seconds, and what is older than the revocation is void.
    issued = AccessTokens(SigningKeys.load(at.data_dir), Endpoints(at.base_url)).issue(new, time.time() - 1)
    return account, issued, grant


ENDINGS = [
    of_a_key,
    of_a_key_of_an_account,
    of_a_team,
    of_a_client,
    of_a_user,
    of_a_grant,
    of_a_client_that_is_a_url,
]


@pytest.mark.requirement("principals:cut", "principals:deactivation")
@pytest.mark.parametrize("made", ENDINGS, ids=lambda made: made.__name__)
def test_running_calls_and_silent_streams_are_cut_on_every_worker_and_the_next_call_is_refused(
    shared: GatewayProcess, witness: Witness, made: Callable[[GatewayProcess], Holder]
) -> None:
    holder = made(shared)
    arrived, hung_up = len(witness.arrivals()), len(witness.hang_ups())
    key = holder.credential
    with (
        on_each(shared, key) as calling,
        on_each(shared, key) as reading,
        on_each(shared, shared.agent_key) as others,
        ThreadPoolExecutor(4) as threads,
    ):
        streams = [client.listen() for client in reading.values()]
        for stream in streams:
            stream.wait_for(CHANGED)
        marker = f"cut-{next(names)}"
        calls: list[Future[Answer]] = [
            threads.submit(client.call, "slow", seconds=30, marker=f"{marker}-{worker}")
            for worker, client in calling.items()
        ]
        kept = threads.submit(others["w1"].call, "slow", seconds=1, marker=f"{marker}-other")
        witness.arrivals(arrived + 3)
        asked = time.monotonic()
        holder.end()
        answered = time.monotonic()
        for call in calls:
            answer = call.result(10)
            assert (answer.status, answer.body["error"]["code"]) == (401, -31001), answer.body
            assert answer.at - answered < AT_ONCE_S
        for stream in streams:
            assert stream.wait_end() - asked < AT_ONCE_S
            assert "result" not in stream.events[-1][1]
        hang_ups = witness.hang_ups(hung_up + 2)
        assert {f"{marker}-{worker}" for worker in WORKERS} <= hang_ups.keys()
        assert kept.result(10).ok, "somebody else's call goes on"
        before = len(witness.arrivals())
        with on_each(shared, key) as again:
            refused = [client.call("echo", text="x", marker="never") for client in again.values()]
        assert [answer.status for answer in refused] == [401, 401]
        assert len(witness.arrivals()) == before


@pytest.mark.requirement("keys:overlap", "principals:cut")
def test_a_call_on_a_rotated_key_ends_when_the_old_key_does(shared: GatewayProcess, witness: Witness) -> None:
    key_id, key = shared.new_key("rotating")
    arrived = len(witness.arrivals())
    with on_each(shared, key) as calling, ThreadPoolExecutor(2) as threads:
        calls = [threads.submit(client.call, "slow", seconds=30, marker=w) for w, client in calling.items()]
        witness.arrivals(arrived + 2)
        asked = time.monotonic()
        fresh = shared.admin.post(f"/keys/{key_id}/rotate", {"overlap_s": OVERLAP_S})
        rotated = time.monotonic()
        with on_each(shared, key) as old, on_each(shared, fresh["key"]) as new:
            assert all(client.call("echo", text="x").ok for client in (*old.values(), *new.values()))
            for call in calls:
                answer = call.result(15)
                assert answer.status == 401, answer.body
                assert answer.at - asked > OVERLAP_S - 0.01
                assert answer.at - rotated < OVERLAP_S + 1 + AT_ONCE_S  # expiry is looked at once a second
            assert [client.call("echo", text="x").status for client in old.values()] == [401, 401]
            assert all(client.call("echo", text="x").ok for client in new.values())


@pytest.mark.requirement("principals:actors", "kill:running")
@pytest.mark.parametrize("scope", ["key", "team", "principal"])
def test_a_switch_on_a_key_a_team_or_one_who_acts_for_another_cuts_and_stands_on_every_worker(
    shared: GatewayProcess, witness: Witness, scope: str
) -> None:
    name = f"switched-{next(names)}"
    made = shared.admin.post("/keys", {"subject": name, "roles": ["agent"], "team": f"team-of-{name}"})
    key, selector = made["key"], {"key": made["id"], "team": f"team-of-{name}"}.get(scope, f"mcpgw|{name}")
    if scope == "principal":
        _, key, _ = user_token(shared, acting=name)
    arrived = len(witness.arrivals())
    with on_each(shared, key) as calling, on_each(shared, key) as asking, ThreadPoolExecutor(2) as threads:
        calls = [threads.submit(client.call, "slow", seconds=30, marker=name) for client in calling.values()]
        witness.arrivals(arrived + 2)
        kill = {"scope": scope, "selector": selector, "reason": "drill"}
        thrown = shared.admin.post("/kill-switches", kill)
        assert thrown["cancelled"] == 2
        assert {call.result(10).reason for call in calls} == {"killed"}
        assert {client.call("echo", text="x").reason for client in asking.values()} == {"killed"}
        shared.admin.delete(f"/kill-switches/{thrown['id']}", {"reason": "drill"})
        assert all(client.call("echo", text="x").ok for client in asking.values())


# What a key opens


@pytest.mark.requirement("keys:servers")
def test_to_a_key_for_one_server_the_other_one_does_not_exist_anywhere(shared: GatewayProcess) -> None:
    wanted = {"subject": "narrow", "roles": ["agent"], "servers": ["alpha"]}
    key = shared.admin.post("/keys", wanted)["key"]
    with on_each(shared, key, "/mcp") as over_all, on_each(shared, key, "/mcp/desk") as desk:
        for client in over_all.values():
            assert client.tools() == ["alpha__echo", "alpha__slow"]
            hidden, nobody = (client.call(name, text="x") for name in ("beta__echo", "gamma__echo"))
            assert hidden.status == nobody.status == 400
            assert _told(hidden, "beta") == _told(nobody, "gamma")
            assert client.call("alpha__echo", text="x").ok
        for client in desk.values():
            assert client.tools() == ["alpha__echo"]
            assert _told(client.call("beta__echo", text="x"), "beta") == _told(
                client.call("gamma__echo", text="x"), "gamma"
            )
    for method, params in (("tools/list", {}), ("tools/call", {"name": "echo", "arguments": {"text": "x"}})):
        answers = []
        for slug in ("beta", "gamma", "beta@1.0.0", "gamma@1.0.0"):
            with Client(shared.base_url, key, f"/mcp/{slug}") as client:
                answers.append(_told(client.ask(method, params, name=params.get("name")), slug.partition("@")[0]))
        assert all(answer == answers[0] for answer in answers), answers
    with Client(shared.base_url, key, "/mcp/alpha") as client:
        assert client.tools() == ["echo", "slow"]


def _told(answer: Answer, server: str) -> tuple[int, object, str, set[str]]:
    error = answer.body["error"]
    return answer.status, error["code"], error["message"].replace(server, "SERVER"), set(answer.headers)


@pytest.mark.requirement("keys:limits")
def test_a_key_with_a_rate_is_told_when_it_may_call_again_and_others_are_not_held_up(shared: GatewayProcess) -> None:
    wanted = {"subject": "rated", "roles": ["agent"], "calls_per_minute": 3}
    key = shared.admin.post("/keys", wanted)["key"]
    with on_each(shared, key) as clients, on_each(shared, shared.agent_key) as others:
        for worker, client in clients.items():  # each worker counts by itself
            assert client.tools() == ["echo", "slow"]
            assert all(client.call("echo", text="x").ok for _ in range(3))
            refused = client.call("echo", text="x")
            assert (refused.status, refused.body["error"]["code"]) == (429, -31129)
            assert 1 <= int(refused.headers["retry-after"]) <= 60
            assert client.tools() == ["echo", "slow"], "lists are not calls"
            assert others[worker].call("echo", text="x").ok


@pytest.mark.requirement("keys:limits")
def test_a_key_for_one_call_at_a_time_waits_for_its_own(shared: GatewayProcess, witness: Witness) -> None:
    key = shared.admin.post("/keys", {"subject": "single", "roles": ["agent"], "concurrent": 1})["key"]
    arrived = len(witness.arrivals())
    with (
        through("w0", shared, key, "/mcp/alpha") as first,
        through("w0", shared, key, "/mcp/alpha") as second,
        through("w0", shared, key, "/mcp/alpha") as reading,
        ThreadPoolExecutor(1) as threads,
    ):
        reading.listen().wait_for(CHANGED)
        running = threads.submit(first.call, "slow", seconds=1.5, marker="single")
        witness.arrivals(arrived + 1)
        refused = second.call("echo", text="x")
        assert (refused.status, refused.headers["retry-after"]) == (429, "1")
        assert running.result(10).ok
        assert second.call("echo", text="x").ok


# Roles, and the command line


@pytest.mark.requirement("principals:roles")
def test_a_role_of_the_operators_own_does_what_it_says_and_nothing_else(shared: GatewayProcess) -> None:
    _, key = shared.new_key("guard", "killer")
    thrown = shared.cli("kill", "server", "nowhere", "--reason", "drill", "--json", key=key)
    assert thrown.returncode == 0, thrown.stdout
    for command in (("keys", "list"), ("release", "kill-x", "--reason", "x"), ("status",)):
        refused = shared.cli(*command, "--json", key=key)
        assert (refused.returncode, '"insufficient_scope"' in refused.stdout) == (1, True), refused.stdout
    with Client(shared.base_url, key, "/mcp/alpha") as client:
        assert client.call("echo", text="x").status == 403


@pytest.mark.requirement("principals:clients")
def test_a_token_is_had_with_a_clients_secret_for_one_endpoint(shared: GatewayProcess, tmp_path: Path) -> None:
    secret = shared.admin.post("/clients", {"client_id": "ci", "subject": "ci", "roles": ["agent"]})["client_secret"]
    token = shared.cli("token", "ci", "--secret", secret, "--resource", "/mcp/alpha", check=True).stdout.strip()
    for path, status in (("/mcp/alpha", 200), ("/mcp/beta", 401), ("/mcp", 401)):
        with Client(shared.base_url, token, path) as client:
            assert client.ask("tools/list", {}).status == status
    wrong = shared.cli("token", "ci", "--secret", secret + "x")
    assert (wrong.returncode, wrong.stdout, "invalid_client" in wrong.stderr) == (1, "", True)
    nowhere = shared.cli("token", "ci", "--secret", secret, "--resource", "/nowhere")
    assert (nowhere.returncode, "no endpoint" in nowhere.stderr) == (2, True)
