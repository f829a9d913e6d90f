"""Kill switches over several real worker processes: what arrives at an upstream after the 200, and what proves it."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mcpgw.audit import logs, record
from mcpgw.audit.verify import verify
from mcpgw.bus import SILENT_AFTER_S
from mcpgw.domain import Phase
from tests.e2e.client import Answer, Client, Stream, through
from tests.e2e.parts import MARKED, Arrival, Witness, a_witness, lines_of, marker_of, signed_epoch, verified
from tests.fixtures.callers import Asked, Made, Spec, calling
from tests.harness import GatewayProcess, gateway, rego, until

SERVERS = ("alpha", "beta", "gamma")
TOGGLES = 20
CALLS = 5_000
CONNECTIONS = 40
PAUSE_S = 0.03  # of each connection: the machine is busy, not choked
MIX: list[Asked] = [(server, "echo", {"text": "x"}) for server in SERVERS * 3] + [("alpha", "slow", {"seconds": 0.03})]
WHILE_KILLED = 12  # calls of our own that each switch must stop


@dataclass(frozen=True)
class Caller:
    subject: str
    key_id: str
    key: str


@dataclass(frozen=True)
class Kill:
    """One switch. Times are CLOCK_MONOTONIC: its 200 had been read, its release was about to be asked for."""

    scope: str
    selector: str
    answer: Mapping[str, Any]
    in_force_at: float
    asked_at: float
    releasing_at: float = float("inf")

    @property
    def id(self) -> str:
        return str(self.answer["id"])


@pytest.fixture
def witness(tmp_path: Path) -> Iterator[Witness]:
    with a_witness(tmp_path) as found:
        yield found


def throw(at: GatewayProcess, scope: str, selector: str, mode: str = "hard") -> Kill:
    asked = time.monotonic()
    answer = at.admin.post("/kill-switches", {"scope": scope, "selector": selector, "mode": mode, "reason": "drill"})
    kill = Kill(scope, selector, answer, time.monotonic(), asked)
    assert answer["missing"] == []
    assert answer["certificate"]["id"] == kill.id
    return kill


def release(at: GatewayProcess, kill: Kill) -> Kill:
    """Release a switch; return it with the time at which that was asked for."""
    releasing = time.monotonic()
    assert at.admin.delete(f"/kill-switches/{kill.id}", {"reason": "drill"})["missing"] == []
    return Kill(kill.scope, kill.selector, kill.answer, kill.in_force_at, kill.asked_at, releasing)


def matches(kill: Kill, server: str, tool: str, who: Caller) -> bool:
    """Whether a switch forbids a call: what `contract.md` says of scopes, written down once more."""
    return (
        kill.selector
        in {
            "global": {"*"},
            "server": {server},
            "version": {f"{server}@1.0.0"},
            "tool": {f"{server}/{tool}"},
            "principal": {f"mcpgw|{who.subject}"},
            "client": {who.key_id},
        }[kill.scope]
    )


def selectors(draw: random.Random, callers: list[Caller]) -> Iterator[tuple[str, str]]:
    """Yield scopes in turn, each with something that the callers use."""
    while True:
        server, who = draw.choice(SERVERS), draw.choice(callers)
        yield "tool", f"{server}/echo"
        yield "server", draw.choice(SERVERS)
        yield "version", f"{draw.choice(SERVERS)}@1.0.0"
        yield "principal", f"mcpgw|{who.subject}"
        yield "global", "*"
        yield "client", draw.choice(callers).key_id


# K1: nothing arrives after the 200


@pytest.mark.requirement("kill:zero-after-200", "kill:certificate")
def test_after_the_200_of_a_kill_nothing_arrives_that_it_does_not_name(tmp_path: Path, witness: Witness) -> None:
    with gateway(tmp_path / "gateway", config=MARKED, policy=rego("allow_all"), workers=4) as running:
        for server in SERVERS:
            assert running.publish(server, witness.url(server)) == "1.0.0"
        callers = [Caller(f"agent-{i}", *running.new_key(f"agent-{i}")) for i in range(4)]
        keys = [who.key for who in callers]
        spec = Spec(running.base_url, keys, CONNECTIONS, MIX, "load", seed=5, pause_s=PAUSE_S)
        with calling(spec, tmp_path) as load:
            kills = _toggle(running, witness, callers)
        last = throw(running, "server", "alpha")
        until(lambda: signed_epoch(running.audit_dir) >= last.answer["epoch"], "a checkpoint over the last kill")
    arrivals = witness.arrivals()
    assert len(arrivals) >= CALLS
    assert not [a for a in arrivals if a.marker.startswith("stopped")]
    _check_arrivals(arrivals, kills, load.made, callers, _actions(running.audit_dir))
    assert all(made.ok or made.reason == "killed" for made in load.answered), load.answered
    assert sum(len(kill.answer["may_have_taken_effect"]) for kill in kills) > 0
    _check_certificates(running.audit_dir, tmp_path / "copy", [*kills, last])
    _tell_figures(tmp_path / "figures.json", kills, load.made, arrivals)


def _toggle(at: GatewayProcess, witness: Witness, callers: list[Caller]) -> list[Kill]:
    """Throw and release switches under load; while one stands, try what it forbids, and see the rest go on."""
    draw = random.Random(7)
    kills: list[Kill] = []
    for number, (scope, selector) in zip(range(TOGGLES), selectors(draw, callers), strict=False):
        witness.arrivals(CALLS * (number + 1) // TOGGLES)
        kill = throw(at, scope, selector)
        _try_forbidden(at, kill, callers)
        if scope != "global":
            witness.arrivals(len(witness.arrivals()) + 20)
        kills.append(release(at, kill))
    witness.arrivals(len(witness.arrivals()) + 100)
    return kills


def _try_forbidden(at: GatewayProcess, kill: Kill, callers: list[Caller]) -> None:
    """Each on a connection of its own, so that every worker gets some."""
    forbidden = [(s, who) for s in SERVERS for who in callers if matches(kill, s, "echo", who)]
    for number in range(WHILE_KILLED):
        server, who = forbidden[number % len(forbidden)]
        with Client(at.base_url, who.key, f"/mcp/{server}") as client:
            answer = client.call("echo", text="x", marker=f"stopped-{kill.id}-{number}")
        assert (answer.status, answer.reason) == (403, "killed"), answer


def _actions(audit_dir: Path) -> dict[str, str]:
    """Return the action of each marker that has an intent."""
    return {marker: line.action_id for line in lines_of(audit_dir) if (marker := marker_of(line)) is not None}


def _check_arrivals(
    arrivals: list[Arrival], kills: list[Kill], made: list[Made], callers: list[Caller], actions: Mapping[str, str]
) -> None:
    """Between a switch's 200 and its release nothing that it matches arrives, but for what a 200 has named."""
    who_made = {call.marker: callers[call.key] for call in made}
    named: set[str] = set()
    for kill in kills:
        named |= set(kill.answer["may_have_taken_effect"])
        late = [
            arrival
            for arrival in arrivals
            if kill.in_force_at < arrival.at < kill.releasing_at
            and matches(kill, arrival.server, arrival.tool, who_made[arrival.marker])
        ]
        assert not [a for a in late if actions[a.marker] not in named], (kill, late)


def _check_certificates(audit_dir: Path, copy: Path, kills: list[Kill]) -> None:
    """Every certificate holds on a copy, without the gateway; a forged intent is found, and where."""
    shutil.copytree(audit_dir, copy)
    for kill in kills:
        report = verify(copy, kill=kill.id)
        assert report.ok, (kill, report.findings)
        assert report.kill is not None
        assert report.kill["may_have_taken_effect"] == kill.answer["may_have_taken_effect"]
    last = kills[-1]
    assert verified(copy, "--kill", last.id).returncode == 0
    forged = _forge_intent(copy, last)
    report = verify(copy, kill=last.id)
    assert [str(found) for found in report.findings if (found.log, found.index) == forged and "forbids" in found.what]
    assert verified(copy, "--kill", last.id).returncode == 1


def _forge_intent(audit_dir: Path, kill: Kill) -> tuple[str, int]:
    """Append, well chained, an intent of a call that the switch forbids; return where it stands."""
    # Which worker takes a connection is the kernel's choice: one of them has had such a call.
    for directory in sorted(logs.logs_of(audit_dir).glob("w*")):
        lines = list(logs.Tail(directory).lines())
        intents = (line for line in map(record.decode, lines) if line.phase is Phase.INTENT and line.server == "alpha")
        model = next(intents, None)
        if model is not None:
            break
    else:
        raise AssertionError("no worker has had a call")
    model.index, model.previous, model.epoch = len(lines), record.leaf_of(lines[-1]).hex(), kill.answer["epoch"]
    with logs.segment_path(directory, logs.segments(directory)[-1]).open("ab") as file:
        file.write(record.encode(model) + b"\n")
    return directory.name, model.index


def _tell_figures(path: Path, kills: list[Kill], made: list[Made], arrivals: list[Arrival]) -> None:
    """Write what was measured. These are figures of a bench, on whatever machine runs this; nothing depends on them."""
    seen = sorted((kill.in_force_at - kill.asked_at) * 1000 for kill in kills)
    took = sorted(kill.answer["took_ms"] for kill in kills)
    figures = {
        "calls": len(made),
        "arrivals": len(arrivals),
        "toggles": len(kills),
        "ack_ms_p50": round(statistics.median(seen), 1),
        "ack_ms_max": round(seen[-1], 1),
        "took_ms_p50": statistics.median(took),
        "took_ms_max": took[-1],
        "workers_ended": sum("dead" in ack["worker"] for kill in kills for ack in kill.answer["acknowledged"]),
    }
    path.write_text(json.dumps(figures))
    print(json.dumps(figures))


# K2: what runs is cut


@pytest.mark.requirement("kill:running", "kill:in-flight")
def test_a_hard_kill_answers_every_running_call_and_hangs_up_on_the_upstream(tmp_path: Path, witness: Witness) -> None:
    running_calls = 50
    with gateway(tmp_path / "gateway", config=MARKED, policy=rego("allow_all"), workers=2) as running:
        running.publish("alpha", witness.url("alpha"))
        spec = Spec(running.base_url, [running.agent_key], running_calls, [("alpha", "slow", {"seconds": 30})], "slow")
        with calling(spec, tmp_path) as load:
            witness.arrivals(running_calls)
            kill = throw(running, "tool", "alpha/slow")
            hang_ups = witness.hang_ups(running_calls)
    cut = load.made[:running_calls]
    assert {call.reason for call in cut} == {"killed"}
    assert {call.status for call in cut} == {403}
    assert max(call.answered or float("inf") for call in cut) - kill.asked_at < 1.0
    assert hang_ups.keys() == {call.marker for call in cut}
    assert max(hang_ups.values()) - kill.asked_at < 1.0
    assert len(witness.arrivals()) == running_calls
    actions = _actions(running.audit_dir)
    assert set(kill.answer["may_have_taken_effect"]) == {actions[call.marker] for call in cut}
    assert kill.answer["cancelled"] == running_calls
    assert verify(running.audit_dir, kill=kill.id).ok


@pytest.mark.requirement("kill:drain")
def test_a_draining_kill_lets_what_runs_finish_and_names_it(tmp_path: Path, witness: Witness) -> None:
    running_calls = 12
    with gateway(tmp_path / "gateway", config=MARKED, policy=rego("allow_all"), workers=2) as running:
        running.publish("alpha", witness.url("alpha"))
        spec = Spec(running.base_url, [running.agent_key], running_calls, [("alpha", "slow", {"seconds": 1})], "slow")
        with calling(spec, tmp_path) as load:
            witness.arrivals(running_calls)
            kill = throw(running, "server", "alpha", mode="drain")
    assert all(call.ok for call in load.made[:running_calls])
    assert {call.reason for call in load.made[running_calls:]} <= {"killed"}
    assert len(witness.arrivals()) == running_calls
    assert witness.hang_ups() == {}
    assert kill.answer["cancelled"] == 0
    assert kill.answer["finished"] == running_calls
    actions = _actions(running.audit_dir)
    assert set(kill.answer["may_have_taken_effect"]) == {actions[call.marker] for call in load.made[:running_calls]}
    assert verify(running.audit_dir, kill=kill.id).ok


# K3: open streams


@pytest.mark.requirement("kill:streams")
def test_open_streams_are_told_of_a_killed_tool_and_end_with_their_server(tmp_path: Path, witness: Witness) -> None:
    changed = "notifications/tools/list_changed"
    with ExitStack() as stack:
        running = stack.enter_context(gateway(tmp_path / "gateway", policy=rego("allow_all"), workers=2))
        running.publish("alpha", witness.url("alpha"))

        def opened(path: str, legacy: bool) -> tuple[Client, Stream]:
            reading = stack.enter_context(Client(running.base_url, running.agent_key, path))
            asking = stack.enter_context(Client(running.base_url, running.agent_key, path))
            if legacy:
                asking.session = reading.session = reading.initialize()
            return asking, reading.listen()

        of_server = [opened("/mcp/alpha", legacy) for legacy in (True, False) * 4]
        of_all = [opened("/mcp", legacy) for legacy in (True, False) * 2]
        for _, stream in (*of_server[1::2], *of_all[1::2]):
            stream.wait_for("notifications/subscriptions/acknowledged")
        for legacy in (*of_server[::2], *of_all[::2]):
            assert legacy[0].tools()  # its stream was opened before

        tool = throw(running, "tool", "alpha/echo")
        assert max(stream.wait_for(changed) for _, stream in (*of_server, *of_all)) - tool.asked_at < 1.0
        assert [client.tools() for client, _ in of_server] == [["slow"]] * len(of_server)
        assert [client.tools() for client, _ in of_all] == [["alpha__slow"]] * len(of_all)
        release(running, tool)
        for _, stream in (*of_server, *of_all):
            stream.wait_for(changed, 2)

        server = throw(running, "server", "alpha")
        assert max(stream.wait_end() for _, stream in of_server) - server.asked_at < 1.0
        for _, stream in of_server:
            assert stream.events[-1][1]["error"]["data"]["switch"] == server.id
        for client, stream in of_all:
            stream.wait_for(changed, 3)
            assert client.tools() == []
            assert stream.ended_at is None


# K4: a worker that does not answer


@pytest.mark.requirement("kill:silent-worker")
def test_a_worker_that_stays_silent_is_proven_dead_before_the_200(tmp_path: Path, witness: Witness) -> None:
    with gateway(tmp_path / "gateway", config=MARKED, policy=rego("allow_all"), workers=3) as running:
        running.publish("alpha", witness.url("alpha"))
        stopped = running.pids()[1]
        held = Spec(running.base_url, [running.agent_key], 12, [("alpha", "slow", {"seconds": 30})], "held")
        busy = Spec(running.base_url, [running.agent_key], 8, [("alpha", "echo", {"text": "x"})], "busy")
        with calling(held, tmp_path), calling(busy, tmp_path):
            witness.arrivals(12 + 200)
            os.kill(stopped, signal.SIGSTOP)
            kill = throw(running, "server", "alpha")
            until(lambda: _is_gone(stopped), "the supervisor has reaped the worker")
            with pytest.raises(ProcessLookupError):
                os.kill(stopped, signal.SIGCONT)
            until(lambda: len(running.pids()) == 3 and running.pids()[1] != stopped, "a new worker")
            assert _call_through("w1", running, "late").reason == "killed"
            arrivals = witness.arrivals()
            release(running, kill)
            assert _call_through("w1", running, "again").ok
    assert kill.in_force_at - kill.asked_at < SILENT_AFTER_S + 1.0  # security K4: the lease and a second
    assert sorted(ack["worker"] for ack in kill.answer["acknowledged"]) == ["w0", "w1 (dead)", "w2"]
    actions = _actions(running.audit_dir)
    named = set(kill.answer["may_have_taken_effect"])
    assert not [a for a in arrivals if a.at > kill.in_force_at and actions[a.marker] not in named]
    # Those that the dead worker had handed over are named as well: nobody can know what became of them.
    assert named >= {actions[a.marker] for a in arrivals if a.tool == "slow"}
    report = verify(running.audit_dir, kill=kill.id)
    assert report.ok, report.findings


def _is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def _call_through(worker: str, at: GatewayProcess, marker: str) -> Answer:
    with through(worker, at, at.agent_key, "/mcp/alpha") as client:
        return client.call("echo", text="x", marker=marker)


# K6: a start without the state, or with an older one


@pytest.mark.requirement("kill:fail-closed-start")
def test_a_gateway_whose_state_was_lost_or_rolled_back_starts_closed(tmp_path: Path, witness: Witness) -> None:
    home = tmp_path / "gateway"
    with gateway(home, policy=rego("allow_all"), workers=2) as first:
        first.publish("alpha", witness.url("alpha"))
    older = _copied(first.data_dir)
    with gateway(home, workers=2, resume=first) as second:
        throw(second, "server", "alpha")
    newest = _copied(first.data_dir)
    for damaged in ({}, older):
        _put_back(first.data_dir, damaged)
        with gateway(home, workers=2, resume=first, closed=True) as closed:
            for _ in range(8):
                with Client(closed.base_url, first.agent_key, "/mcp/alpha") as client:
                    assert client.call("echo", text="x").status == 503
                    assert client.get("/readyz").status == 503
    _put_back(first.data_dir, {"state.db": newest["state.db"][:4096] + bytes(8192)})
    with pytest.raises(RuntimeError, match="the state database did not answer"), gateway(home, resume=first):
        pytest.fail("it started")
    _put_back(first.data_dir, newest)
    with (
        gateway(home, workers=2, resume=first) as whole,
        Client(whole.base_url, first.agent_key, "/mcp/alpha") as client,
    ):
        assert client.call("echo", text="x").reason == "killed"
    assert witness.arrivals() == []


def _copied(data_dir: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in data_dir.glob("state.db*")}


def _put_back(data_dir: Path, files: Mapping[str, bytes]) -> None:
    for path in data_dir.glob("state.db*"):
        path.unlink()
    for name, content in files.items():
        (data_dir / name).write_bytes(content)
