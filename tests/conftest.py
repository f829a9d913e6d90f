"""What every test may use."""

from __future__ import annotations

import os

import pytest

from tests.requirements import REQUIREMENTS

IN_CI = os.environ.get("CI") == "true"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test may only claim a requirement that is in the manifest."""
    for item in items:
        for marker in item.iter_markers("requirement"):
            for claimed in marker.args:
                if claimed not in REQUIREMENTS:
                    raise pytest.UsageError(
                        f"{item.nodeid.partition('[')[0]} claims `{claimed}`, which tests/requirements.py does not list"
                    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int) -> None:
    """In continuous integration nothing may be skipped: say what was."""
    skipped = terminalreporter.stats.get("skipped", [])
    if IN_CI and skipped:
        terminalreporter.write_line(f"{len(skipped)} tests were skipped, which CI does not allow", red=True)


def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if IN_CI and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
