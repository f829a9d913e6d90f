"""What the end-to-end tests share: the witness as they ask it, and the log as it stands in the files."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mcpgw.audit import checkpoint, logs, record
from mcpgw.audit.record import Line
from tests.fixtures.processes import running
from tests.harness import ROOT

MARKER = "/marker"
MARKED = {"audit": {"fields": [MARKER]}}
"""Configuration that puts each call's marker into its intent."""


@dataclass(frozen=True)
class Arrival:
    at: float
    server: str
    tool: str
    marker: str


@dataclass(frozen=True)
class Witness:
    """The upstream that testifies. Servers are at `url(name)`."""

    base_url: str

    def url(self, server: str) -> str:
        return f"{self.base_url}/{server}/mcp"

    def arrivals(self, at_least: int = 0) -> list[Arrival]:
        """Return the calls that have arrived, once there are so many."""
        return [Arrival(*held) for held in self._record(arrivals=at_least)["arrivals"]]

    def hang_ups(self, at_least: int = 0) -> dict[str, float]:
        """Return when the connection of each call that was under way was closed, once there are so many."""
        return {marker: at for at, marker in self._record(hang_ups=at_least)["hang_ups"]}

    def describe(self, server: str, description: str) -> None:
        """Change the definition of the server's tool echo."""
        self._ask("POST", f"/control/description/{server}", description)

    def _record(self, arrivals: int = 0, hang_ups: int = 0) -> dict[str, Any]:
        return self._ask("GET", f"/control/record?arrivals={arrivals}&hang_ups={hang_ups}")

    def _ask(self, method: str, path: str, body: str | None = None) -> dict[str, Any]:
        where = urlsplit(self.base_url)
        connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=30)
        try:
            connection.request(method, path, body)
            answer: dict[str, Any] = json.loads(connection.getresponse().read())
            return answer
        finally:
            connection.close()


@contextmanager
def a_witness(directory: Path) -> Iterator[Witness]:
    with running([sys.executable, "-m", "tests.fixtures.witness"], log=directory / "witness.log") as process:
        yield Witness(process.url)


def lines_of(audit_dir: Path) -> list[Line]:
    """Return every record of every log."""
    return [
        record.decode(line)
        for name in logs.names(audit_dir)
        for line in logs.Tail(logs.logs_of(audit_dir) / name).lines()
    ]


def marker_of(line: Line) -> str | None:
    marker: str | None = (line.fields or {}).get(MARKER)
    return marker


def verified(directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run `mcpgw audit verify` on a data directory or a copied log."""
    command = [sys.executable, "-m", "mcpgw", "audit", "verify", str(directory), *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def signed_epoch(audit_dir: Path) -> int:
    """Return the epoch of the newest checkpoint, 0 when nothing was signed yet."""
    line = checkpoint.newest_line(audit_dir)
    return checkpoint.decode(line).epoch if line is not None else 0
