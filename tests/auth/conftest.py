"""One gateway's identity parts for each test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.auth.parts import Identity


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def identity(tmp_path: Path) -> Identity:
    return Identity.at(tmp_path)
