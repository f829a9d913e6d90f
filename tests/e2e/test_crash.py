"""`kill -9` of every gateway process under load, over and over on the same data: what the log still knows."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterable
from pathlib import Path

import pytest

from mcpgw.audit.record import Line
from mcpgw.audit.verify import verify
from mcpgw.domain import Phase
from tests.e2e.parts import MARKED, Witness, a_witness, lines_of, marker_of, verified
from tests.fixtures.callers import Asked, Made, Spec, calling
from tests.harness import GatewayProcess, gateway, kill_all, rego, until

CRASHES = 10
CALLS = 150  # in each life of the gateway
CONNECTIONS = 24
MIX: list[Asked] = [("alpha", "echo", {"text": "x"}), ("alpha", "slow", {"seconds": 0.05})]


@pytest.mark.requirement("audit:crash", "audit:write-ahead", "audit:unknown-effect")
def test_after_kill_9_the_log_has_every_arrival_every_answer_and_names_what_nobody_knows(tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"
    made: list[Made] = []
    with a_witness(tmp_path) as witness:
        life = _first_life(tmp_path / "gateway", witness)
        for number in range(CRASHES):
            with gateway(tmp_path / "gateway", config=MARKED, workers=3, resume=life) as running:
                spec = Spec(running.base_url, [running.agent_key], CONNECTIONS, MIX, f"life{number}", seed=number)
                with calling(spec, tmp_path) as load:
                    witness.arrivals(len(witness.arrivals()) + CALLS)
                    _keep_checkpoint(running, kept)
                    witness.arrivals(len(witness.arrivals()) + CALLS)
                    kill_all(running.process)
                    _none_left(running)
                made += load.made
            report = verify(life.audit_dir, checkpoint=kept)
            assert report.ok, (number, report.findings)
        with gateway(tmp_path / "gateway", config=MARKED, workers=3, resume=life) as running:
            arrivals = {arrival.marker for arrival in witness.arrivals()}
            _keep_checkpoint(running, kept)
    lines = lines_of(life.audit_dir)
    _check(lines, arrivals, made)
    told = verified(life.data_dir, "--checkpoint", str(kept))
    assert told.returncode == 0, told.stdout


def _first_life(directory: Path, witness: Witness) -> GatewayProcess:
    with gateway(directory, config=MARKED, policy=rego("allow_all"), workers=3) as running:
        running.publish("alpha", witness.url("alpha"))
    return running


def _keep_checkpoint(running: GatewayProcess, kept: Path) -> None:
    """Keep the newest checkpoint that covers a call of this life, as somebody outside would."""
    kept.write_text(json.dumps(running.admin.get("/audit/checkpoint")))


def _none_left(running: GatewayProcess) -> None:
    """Return when every process of the gateway's group is gone."""

    def gone() -> bool:
        try:
            os.killpg(running.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return True
        return False

    until(gone, "every process of the gateway has died")


def _check(lines: Iterable[Line], arrivals: set[str], made: list[Made]) -> None:
    markers: dict[str, str] = {}  # of each action
    outcomes: set[str] = set()
    unknown: set[str] = set()
    for line in lines:
        if line.phase is Phase.INTENT and (marker := marker_of(line)) is not None:
            markers[line.action_id] = marker
        elif line.phase is Phase.OUTCOME:
            outcomes.add(line.action_id)
        elif line.phase is Phase.RECOVERED:
            unknown |= set((line.facts or {}).get("unknown_effect", ()))
    intents = set(markers.values())
    finished = {markers[action] for action in outcomes if action in markers}
    answered = {call.marker for call in made if call.answered is not None}
    assert len(answered) >= CRASHES * CALLS
    assert all(call.ok for call in made if call.answered is not None)
    assert arrivals >= answered
    assert intents >= arrivals
    assert finished >= answered
    # What has an intent and no outcome may have taken effect, and is named; it is all that is named.
    assert {markers[action] for action in unknown} == intents - finished
    assert len(unknown) >= CRASHES
