"""Real OPA, as a library and as a server."""

from __future__ import annotations

import importlib
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.processes import free_port
from tests.policies.parts import ORACLE, Oracle
from tests.tools import TOOLS

OPA_SERVER = f"GOBIN={TOOLS} go install github.com/open-policy-agent/opa@v1.20.2"


@pytest.fixture(scope="session")
def oracle() -> Oracle:
    try:
        return Oracle(importlib.import_module("opa_bindings"))
    except ImportError:
        pytest.skip(f"OPA as a library is missing: {ORACLE}")


@pytest.fixture(scope="session")
def opa() -> Path:
    if not (TOOLS / "opa").is_file():
        pytest.skip(f"OPA is missing: {OPA_SERVER}")
    return TOOLS / "opa"


def accepts(port: int, within_s: float = 20.0) -> None:
    """Return once something accepts connections there: the server's log tells only that it is about to."""
    until = time.monotonic() + within_s
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > until:
                raise


@pytest.fixture(scope="module")
def opa_port(opa: Path) -> Iterator[int]:
    """The port of an OPA server that answers."""
    port = free_port()
    server = subprocess.Popen(
        [opa, "run", "--server", "--addr", f"127.0.0.1:{port}", "--log-format", "json"], stderr=subprocess.PIPE
    )
    assert server.stderr is not None
    try:
        for line in server.stderr:
            if b"Server initialized" in line or b"Initializing server" in line:
                break
        accepts(port)
        yield port
    finally:
        server.terminate()
        server.communicate(timeout=10)
