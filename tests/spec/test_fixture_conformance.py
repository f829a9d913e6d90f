"""The suite and our fixture agree, so that a failure through the gateway is the gateway's."""

from __future__ import annotations

from collections.abc import Callable

from tests.spec.conformance import Report


def test_the_fixture_passes_every_check_of_2025_11_25(direct: Callable[[str], Report]) -> None:
    report = direct("2025-11-25")

    assert report.failures == (), report
    assert (report.exit_code, report.passed) == (0, 84), report


def test_the_fixture_fails_only_the_unscored_tasks_of_2026_07_28(direct: Callable[[str], Report]) -> None:
    report = direct("2026-07-28")

    assert report.scored_failures == (), report
    assert {failure.scenario.partition("-")[0] for failure in report.failures} == {"tasks"}, report
    assert (report.exit_code, report.passed, report.failed) == (0, 169, 25), report
