"""The reference servers, and what the suites say of them without a gateway in between."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from tests import tools
from tests.fixtures.processes import Running, running
from tests.spec import conformance
from tests.spec.conformance import SELECTIONS, Report, Suite

FIXTURES = Path(__file__).parents[1] / "fixtures"
SERVER = FIXTURES / "everything_server.py"
LEGACY_SERVER = FIXTURES / "legacy_everything_server.py"

SuiteFor = Callable[[str], Suite]
Direct = Callable[[str], Report]


@pytest.fixture(scope="package")
def suite_for() -> SuiteFor:
    """Return the suite that is asked for a revision or for a selection."""
    try:
        new, old = conformance.find(), conformance.find_old()
    except tools.Missing as reason:
        pytest.skip(str(reason))
    return lambda asked: old if asked in SELECTIONS else new


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The server of both eras."""
    log = tmp_path_factory.mktemp("everything") / "server.log"
    with running([sys.executable, SERVER, "--port", "0"], log=log) as ready:
        yield ready


@pytest.fixture(scope="package")
def modern_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The same, for 2026-07-28 alone."""
    log = tmp_path_factory.mktemp("modern") / "server.log"
    with running([sys.executable, SERVER, "--port", "0", "--era", "modern"], log=log) as ready:
        yield ready


@pytest.fixture(scope="package")
def legacy_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server that ends with 2025-11-25, on the SDK of its time."""
    try:
        python = tools.python("sdk-1")
    except tools.Missing as reason:
        pytest.skip(str(reason))
    log = tmp_path_factory.mktemp("legacy") / "server.log"
    with running([python, LEGACY_SERVER, "--port", "0"], log=log) as ready:
        yield ready


@pytest.fixture(scope="package")
def direct(server: Running, suite_for: SuiteFor) -> Direct:
    """Return the report on the server of both eras itself, by what was asked; each is made once."""
    return cache(lambda asked: conformance.run(server.url, asked, suite_for(asked)))
