"""The client scenarios of the official MCP conformance suite, played by a gateway in front of the suite's servers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import yaml

from tests.harness import ROOT
from tests.spec.conformance import Report, Scenario, Suite, SuiteBroke, results
from tests.spec.upstream_client import GATEWAY

REVISION = "2026-07-28"
RUN_TIMEOUT_S = 300
DOCUMENT = "https://conformance-test.local/client-metadata.json"
"""The client metadata document that the suite's authorization servers know; they do not fetch it."""
_FOLDER = re.compile(r"(?P<scenario>.+)-\d{4}-\d\d-\d\dT[\d-]+Z")
_AUTH = "auth"


def run(base_url: str, suite: Suite) -> Report:
    """Run the client scenarios of 2026-07-28, also those that do not count, against a gateway on loopback."""
    scored = frozenset(yaml.safe_load((suite.package / "requirements" / f"{REVISION}.yaml").read_text())["client"])
    with tempfile.TemporaryDirectory(prefix="mcp-conformance-") as folder:
        command = [str(suite.node), str(suite.package / "dist" / "index.js"), "client"]
        command += ["--command", f"{sys.executable} -m tests.spec.upstream_client", "--requirements", REVISION]
        command += ["--timeout", str(RUN_TIMEOUT_S * 1000), "-o", folder]
        ended = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, GATEWAY: base_url, "TMPDIR": folder},
            capture_output=True,
            text=True,
            timeout=RUN_TIMEOUT_S,
            check=False,
        )
        of_auth = results(Path(folder) / _AUTH, "*/checks.json", _FOLDER, None)
        rest = results(Path(folder), "*/checks.json", _FOLDER, None)
        said = "\n".join(path.read_text() for path in sorted(Path(folder).rglob("stderr.txt")))
    found = [*rest, *(_under_auth(scenario) for scenario in of_auth)]
    scenarios = tuple(replace(scenario, is_scored=scenario.name in scored) for scenario in found)
    missing = scored - {scenario.name for scenario in scenarios}
    if missing:
        raise SuiteBroke(f"exit {ended.returncode}, no result for {sorted(missing)}:\n{ended.stdout[-2000:]}")
    return Report(REVISION, ended.returncode, scenarios, f"{said}\n{ended.stdout}{ended.stderr}")


def _under_auth(scenario: Scenario) -> Scenario:
    name = f"{_AUTH}/{scenario.name}"
    return replace(scenario, name=name, failures=tuple(replace(one, scenario=name) for one in scenario.failures))
