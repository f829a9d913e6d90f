"""The suites and our fixtures agree, so that a failure through the gateway is the gateway's."""

from __future__ import annotations

import pytest

from tests.fixtures.processes import Running
from tests.spec import conformance
from tests.spec.conftest import Direct, SuiteFor


def test_the_fixture_passes_every_check_of_2025_11_25(direct: Direct) -> None:
    report = direct("2025-11-25")

    assert report.failures == (), str(report)
    assert (report.exit_code, report.passed) == (0, 84), str(report)


def test_the_fixture_passes_every_check_of_2026_07_28_and_of_its_tasks(direct: Direct) -> None:
    report = direct("2026-07-28")

    assert report.failures == (), str(report)
    assert (report.exit_code, report.passed) == (0, 196), str(report)


@pytest.mark.parametrize(("selection", "passed"), [("active", 40), ("all", 44)])
def test_the_fixture_passes_every_check_of_the_suite_before(direct: Direct, selection: str, passed: int) -> None:
    report = direct(selection)

    assert report.failures == (), str(report)
    assert (report.exit_code, report.passed) == (0, passed), str(report)


def test_the_fixture_on_the_sdk_of_the_handshake_era_passes_every_check_of_2025_11_25(
    legacy_server: Running, suite_for: SuiteFor
) -> None:
    report = conformance.run(legacy_server.url, "2025-11-25", suite_for("2025-11-25"))

    assert report.failures == (), str(report)
    assert (report.exit_code, report.passed) == (0, 84), str(report)
