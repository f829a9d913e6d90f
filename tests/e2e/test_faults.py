"""What a fault costs those who have no part in it, at a small scale; `tests/bench/faults.py` has the large one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.faults import Figures, drill

# Connections are dropped on purpose here.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.mark.requirement("faults:hung-upstream")
async def test_a_hung_upstream_costs_its_own_callers_a_moment_and_others_nothing(tmp_path: Path) -> None:
    found: Figures = await drill("r1", tmp_path, 0.25)
    assert found["others: calls"] > 100 and found["others: errors"] == 0
    assert found["hung: longest answer s (deadline 1)"] < 5  # a second; five on a machine that stands still
    assert found["left alone after s"] < 5
    assert found["back after s"] < 10


@pytest.mark.requirement("faults:slow-clients")
async def test_slow_clients_are_let_go_and_others_are_served_meanwhile(tmp_path: Path) -> None:
    found: Figures = await drill("r12", tmp_path, 0.1)
    many, closed = found["slow clients, closed"]
    assert many == closed
    assert found["others: errors"] == 0
    assert found["all closed after s"] < 15
    assert found["descriptors back to base after s"] < 5


@pytest.mark.requirement("faults:cancelled-calls")
async def test_nothing_is_left_of_calls_whose_clients_went_away(tmp_path: Path) -> None:
    found: Figures = await drill("r13", tmp_path, 0.1)
    assert found["running calls gone after s"] < 5
    assert found["descriptors back to base after s"] < 5


@pytest.mark.requirement("faults:rubbish")
async def test_rubbish_is_refused_and_does_no_harm(tmp_path: Path) -> None:
    found: Figures = await drill("r15", tmp_path, 0.1)
    assert (found["5xx"], found["worker exits"], found["tracebacks in the log"]) == (0, 0, 0)
    assert found["statuses"]["400"] > 100


@pytest.mark.requirement("faults:heavy-requests")
async def test_those_who_ask_for_little_are_served_beside_those_who_ask_for_much(tmp_path: Path) -> None:
    found: Figures = await drill("r18", tmp_path, 0.1)
    assert found["big calls"] > 0 and found["others: errors"] == 0
