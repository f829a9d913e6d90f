"""What the tests of commands share: an operator at a terminal."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.cli.parts import Ran, mcpgw, served
from tests.edge.admin_parts import Gateway, running


class Operator:
    """Someone at a terminal, with a gateway and its admin key."""

    def __init__(self, gateway: Gateway, url: str, key: str, home: Path) -> None:
        self.gateway = gateway
        self.url = url
        self.key = key
        self.home = home

    async def runs(self, *arguments: str, stdin: str = "") -> Ran:
        return await mcpgw(*arguments, cwd=self.home, stdin=stdin, MCPGW_URL=self.url, MCPGW_KEY=self.key)


@pytest.fixture
async def operator(tmp_path: Path) -> AsyncIterator[Operator]:
    async with running(tmp_path / "data") as gateway, served(gateway.application()) as url:
        yield Operator(gateway, url, await gateway.key_for("admin", subject="root"), tmp_path)
