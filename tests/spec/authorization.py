"""The suite's scenarios for authorization servers: somebody has to open the URL that it prints, sign in and agree."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.fixtures.processes import free_port
from tests.spec.conformance import Report, Suite, SuiteBroke, results

REVISION = "2026-07-28"
SCENARIOS = frozenset({"authorization-server-metadata-endpoint", "authorization-code-grant"})
_FOLDER = re.compile(r"authorization-server-(?P<scenario>.+)-\d{4}-\d\d-\d\dT[\d-]+Z")


def callback_port() -> int:
    """Return a port for the suite's redirect URI, which is `http://127.0.0.1:{port}/callback`."""
    return free_port()


def run(suite: Suite, issuer: str, client_id: str, resource: str, port: int, agree: Callable[[str], None]) -> Report:
    """Run all scenarios against an authorization server. `client_id` is a public client of it.

    `agree` is given the URL of the authorization request, and returns when the browser has been sent back.
    """
    script = suite.package / "dist" / "index.js"
    with tempfile.TemporaryDirectory(prefix="mcp-conformance-") as folder:
        command = [str(suite.node), str(script), "authorization", "--url", issuer, "--client-id", client_id]
        command += ["--resource", resource, "--port", str(port), "-o", folder, "--spec-version", REVISION]
        lines = []
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    lines.append(line)
                    if line.startswith(issuer):
                        agree(line.strip())
                status = process.wait()
            finally:
                process.kill()
        scenarios = results(Path(folder), "authorization-server-*/checks.json", _FOLDER, None)
    output = "".join(lines)
    if {scenario.name for scenario in scenarios} != SCENARIOS:
        raise SuiteBroke(f"exit {status}, not the scenarios that were asked for:\n{output[-2000:]}")
    return Report(REVISION, status, scenarios, output)
