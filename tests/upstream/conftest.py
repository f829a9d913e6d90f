"""Servers and upstreams that the tests of the MCP adapters share."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from mcpgw.upstream.http import HttpClient
from mcpgw.upstream.mcp_http import McpHttpUpstream
from tests.fixtures.processes import running
from tests.upstream.calls import LIMITS, HandClock, mcp_http

EVERYTHING = Path(__file__).parents[1] / "fixtures" / "everything_server.py"


def everything(era: str, directory: Path) -> Iterator[str]:
    command = [sys.executable, str(EVERYTHING), "--port", "0", "--era", era]
    with running(command, log=directory / f"{era}.log") as server:
        yield server.url


@pytest.fixture(scope="package")
def dual_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real server of both generations, made with the MCP SDK."""
    yield from everything("dual", tmp_path_factory.mktemp("dual"))


@pytest.fixture(scope="package")
def modern_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    yield from everything("modern", tmp_path_factory.mktemp("modern"))


@pytest.fixture(scope="package")
def legacy_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    yield from everything("legacy", tmp_path_factory.mktemp("legacy"))


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def changed() -> list[tuple[str, str]]:
    """What the upstream was told of changed lists."""
    return []


@pytest.fixture
async def upstream(clock: HandClock, changed: list[tuple[str, str]]) -> AsyncIterator[McpHttpUpstream]:
    http = HttpClient(LIMITS, lambda address: True)
    made = mcp_http(http, clock, on_list_changed=lambda server, kind: changed.append((server, kind)))
    yield made
    await made.aclose()
    await http.aclose()
