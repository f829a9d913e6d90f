"""Calls that fail and are made once more, behind a gateway of two workers."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import pytest

from tests.e2e.wire import Reply, Wire
from tests.fixtures.processes import running
from tests.harness import ROOT, GatewayProcess, gateway, rego

FICKLE = [sys.executable, "-m", "tests.fixtures.fickle_server"]


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    directory = tmp_path_factory.mktemp("retries")
    with running(FICKLE, log=directory / "fickle.log", cwd=ROOT) as server:
        declared = {"name": "marked", "url": server.url, "idempotent": ["recovers", "begins"]}
        config = {"registry": {"http": [declared]}, "limits": {"retries": 2, "retries_per_s": 1000.0}}
        with gateway(directory, policy=rego("allow_all"), config=config, workers=2) as made:
            made.publish("marked")
            made.publish("unmarked", server.url)
            yield made
            assert "Traceback" not in made.output()


def call(gate: GatewayProcess, slug: str, tool: str, key: str, times: int) -> Reply:
    wire = Wire(gate.base_url, gate.agent_key, f"/mcp/{slug}")
    return wire.modern("tools/call", {"name": tool, "arguments": {"key": key, "times": times}})


@pytest.mark.requirement("retries:marked")
def test_a_marked_tool_that_fails_twice_answers_at_the_third_attempt(gate: GatewayProcess) -> None:
    reply = call(gate, "marked", "recovers", "twice", 2)
    assert reply.json["result"]["content"][0]["text"] == "3"
    of_call = gate.admin.get("/audit", server="marked", tool="recovers")["records"]
    parents = {r["parent"] for r in of_call if r.get("parent")}
    assert len(parents) == 1
    attempts = {r["action_id"] for r in of_call}
    assert len(attempts) == 3
    assert parents < attempts
    intents = [r for r in of_call if r["phase"] == "intent"]
    outcomes = [r for r in of_call if r["phase"] == "outcome"]
    assert (len(intents), len(outcomes)) == (3, 3)


@pytest.mark.requirement("retries:budget")
def test_a_marked_tool_that_goes_on_failing_has_failed(gate: GatewayProcess) -> None:
    assert call(gate, "marked", "recovers", "always", 1000).code == -31106
    assert call(gate, "unmarked", "recovers", "always", 3).json["result"]["content"][0]["text"] == "4"


@pytest.mark.requirement("retries:marked")
def test_a_tool_without_the_mark_is_sent_once(gate: GatewayProcess) -> None:
    assert call(gate, "unmarked", "recovers", "once", 1).code == -31106
    assert call(gate, "unmarked", "recovers", "once", 1).json["result"]["content"][0]["text"] == "2"


@pytest.mark.requirement("retries:marked")
def test_an_administrator_marks_a_tool_and_takes_the_mark_back(gate: GatewayProcess) -> None:
    gate.cli("servers", "mark", "unmarked", "--idempotent", "recovers", check=True)
    assert call(gate, "unmarked", "recovers", "now marked", 1).json["result"]["content"][0]["text"] == "2"
    gate.cli("servers", "mark", "unmarked", check=True)
    assert call(gate, "unmarked", "recovers", "no more", 1).code == -31106
    declared = gate.cli("servers", "mark", "marked", "--idempotent", "echo")
    assert (declared.returncode, "configuration" in declared.stderr) == (1, True)


@pytest.mark.requirement("retries:first-byte")
def test_nothing_is_repeated_after_a_part_of_its_answer_has_left(gate: GatewayProcess) -> None:
    reply = call(gate, "marked", "begins", "begun", 1)
    assert (reply.status, reply.code) == (200, -31106)
    assert json.loads(call(gate, "marked", "begins", "begun", 1).json["result"]["content"][0]["text"]) == 2
