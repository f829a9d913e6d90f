"""A registry over a real database, with servers whose tools a test sets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mcpgw.store.migrations import upgrade
from mcpgw.store.sql import SqlStore
from tests.registry.parts import Registry


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[Registry]:
    url = f"sqlite+aiosqlite:///{tmp_path / 'state.db'}"
    upgrade(url)
    store = SqlStore(url)
    yield Registry(store)
    await store.close()
