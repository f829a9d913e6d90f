"""The official MCP conformance suites, run against a server, their result as values.

As a command: `python -m tests.spec.conformance --url http://localhost:8080/mcp/x --requirements 2026-07-28`.
A suite sends no credentials, and it fails `dns-rebinding-protection` unless the host of the URL is a loopback name.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import yaml

from tests.tools import Missing, node, npm_package

PACKAGE = "@modelcontextprotocol/conformance"
NOTED = "INFO"  # the status of what passed over the wire
REVISIONS = ("2025-11-25", "2026-07-28")
SELECTIONS = ("active", "all")  # what the suite of before these revisions is asked for instead
RUN_TIMEOUT_S = 600
RESULT_FOLDER = re.compile(r"server-(?P<scenario>.+)-\d{4}-\d\d-\d\dT[\d-]+Z")


class SuiteBroke(Exception):
    """The suite ended without a result: a URL it cannot parse, a time limit, a crash."""


@dataclass(frozen=True, slots=True)
class Suite:
    """An installed suite, ready to run. `node` is the program that runs it."""

    node: Path
    package: Path

    def scored(self, asked: str) -> frozenset[str] | None:
        """Return the scenarios that a server must pass to conform to a revision; the suite runs others, too.

        None for a selection: there, all count.
        """
        if asked in SELECTIONS:
            return None
        requirements = yaml.safe_load((self.package / "requirements" / f"{asked}.yaml").read_text())
        return frozenset(requirements["server"])


@dataclass(frozen=True, slots=True)
class Failure:
    """One check that failed. `words` are the suite's."""

    scenario: str
    check: str
    words: str


@dataclass(frozen=True, slots=True)
class Scenario:
    """What became of one scenario. `checks` are (id, status), also of what counts neither as passed nor as failed."""

    name: str
    is_scored: bool
    checks: tuple[tuple[str, str], ...]
    failures: tuple[Failure, ...]

    @property
    def passed(self) -> int:
        return sum(status == "SUCCESS" for _, status in self.checks)

    @property
    def failed(self) -> int:
        return len(self.failures)


@dataclass(frozen=True)
class Report:
    """One run of a suite. `asked` is a revision or a selection; `exit_code` is 0 if every scored scenario passed."""

    asked: str
    exit_code: int
    scenarios: tuple[Scenario, ...]
    output: str

    @cached_property
    def passed(self) -> int:
        return sum(scenario.passed for scenario in self.scenarios)

    @cached_property
    def failed(self) -> int:
        return sum(scenario.failed for scenario in self.scenarios)

    @cached_property
    def failures(self) -> tuple[Failure, ...]:
        return tuple(failure for scenario in self.scenarios for failure in scenario.failures)

    @cached_property
    def scored_failures(self) -> tuple[Failure, ...]:
        """The failures that keep the server from conforming."""
        return tuple(failure for scenario in self.scenarios if scenario.is_scored for failure in scenario.failures)

    @cached_property
    def results(self) -> Counter[tuple[str, str, str]]:
        """How often each (scenario, check, status) came up; without what the suite only takes note of."""
        made = ((scenario.name, *check) for scenario in self.scenarios for check in scenario.checks)
        return Counter(result for result in made if result[2] != NOTED)

    def __str__(self) -> str:
        lines = [
            f"{'  ' if scenario.is_scored else 'u '}{scenario.name}: {scenario.passed} passed, {scenario.failed} failed"
            for scenario in self.scenarios
        ]
        lines += [f"FAILED {failure.scenario}/{failure.check}: {failure.words}" for failure in self.failures]
        lines += [f"{self.asked}: {self.passed} passed, {self.failed} failed, exit {self.exit_code} (u: unscored)"]
        return "\n".join(lines)


def find() -> Suite:
    """Return the installed suite of both eras, which is asked for a revision. Raises tools.Missing."""
    return Suite(node(), npm_package("node", PACKAGE))


def find_old() -> Suite:
    """Return the last suite of the handshake era alone, which is asked for a selection. Raises tools.Missing."""
    return Suite(node(), npm_package("conformance-0.1", PACKAGE))


def run(url: str, asked: str, suite: Suite) -> Report:
    """Run the server scenarios of a revision, also its unscored ones, or of a selection against an MCP endpoint."""
    option = "--suite" if asked in SELECTIONS else "--requirements"
    scored = suite.scored(asked)
    with tempfile.TemporaryDirectory(prefix="mcp-conformance-") as folder:
        script = suite.package / "dist" / "index.js"
        command = [str(suite.node), str(script), "server", "--url", url, option, asked, "-o", folder]
        try:
            ended = subprocess.run(command, capture_output=True, text=True, timeout=RUN_TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired as cause:
            raise SuiteBroke(f"the suite did not end within {RUN_TIMEOUT_S} s against {url}") from cause
        scenarios = results(Path(folder), "server-*/checks.json", RESULT_FOLDER, scored)
    output = ended.stdout + ended.stderr
    missing = (scored or frozenset()) - {scenario.name for scenario in scenarios}
    if missing or not scenarios:
        raise SuiteBroke(f"exit {ended.returncode}, no result for {len(missing) or 'all'} scenarios:\n{output[:1000]}")
    return Report(asked, ended.returncode, scenarios, output)


def results(folder: Path, files: str, named: re.Pattern[str], scored: frozenset[str] | None) -> tuple[Scenario, ...]:
    """Read the checks that the suite left, one folder a scenario, in order of their names; `named` finds the name."""
    scenarios = []
    for path in sorted(folder.glob(files)):
        match = named.fullmatch(path.parent.name)
        if match is None:
            raise SuiteBroke(f"cannot tell which scenario left {path.parent.name}")
        name = match["scenario"]
        checks = json.loads(path.read_text())
        made = tuple((check["id"], check["status"]) for check in checks)
        failures = tuple(
            Failure(name, check["id"], check.get("errorMessage") or check.get("description", ""))
            for check in checks
            if check["status"] == "FAILURE"
        )
        scenarios.append(Scenario(name, scored is None or name in scored, made, failures))
    return tuple(scenarios)


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the official MCP conformance suite against a server.")
    parser.add_argument("--url", required=True, help="the MCP endpoint; its host must be a loopback name")
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--requirements", choices=REVISIONS)
    asked.add_argument("--suite", choices=SELECTIONS, help="a selection of the suite before 2026")
    options = parser.parse_args()
    try:
        if options.requirements:
            report = run(options.url, options.requirements, find())
        else:
            report = run(options.url, options.suite, find_old())
    except (Missing, SuiteBroke) as problem:
        print(problem, file=sys.stderr)
        return 2
    print(report)
    return report.exit_code


if __name__ == "__main__":
    sys.exit(main())
