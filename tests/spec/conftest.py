"""The reference server, and what the suite says of it without a gateway in between."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.fixtures.processes import Running, running
from tests.spec import conformance
from tests.tools import Missing

SERVER = Path(__file__).parents[1] / "fixtures" / "everything_server.py"


@pytest.fixture(scope="package")
def suite() -> conformance.Suite:
    try:
        return conformance.find()
    except Missing as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    log = tmp_path_factory.mktemp("everything") / "server.log"
    with running([sys.executable, SERVER, "--port", "0"], log=log) as ready:
        yield ready


@pytest.fixture(scope="package")
def direct(server: Running, suite: conformance.Suite) -> Callable[[str], conformance.Report]:
    """Return the report on the server itself, by revision; each is made once."""
    return cache(lambda revision: conformance.run(server.url, revision, suite))
