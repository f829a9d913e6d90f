"""What the suites say of the server of both eras, they say through the gateway of each server: check by check."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import pytest

from tests import tools
from tests.e2e.wire import META, PREFIX, Wire, modern_headers, request
from tests.fixtures.processes import Running
from tests.harness import GatewayProcess, gateway, rego
from tests.spec import conformance, differences
from tests.spec.conftest import LEGACY_SERVER, SERVER, Direct, SuiteFor

OWN_ERA = [("both", "2025-11-25"), ("both", "2026-07-28"), ("legacy", "2025-11-25"), ("modern", "2026-07-28")]
OTHER_ERA = [
    ("modern", "2025-11-25"),
    ("legacy", "2026-07-28"),
    ("sse", "2026-07-28"),
    ("stdio-modern", "2025-11-25"),
    ("stdio-legacy", "2026-07-28"),
]
OTHER_TRANSPORT = [
    ("sse", "2025-11-25"),
    ("stdio-both", "2025-11-25"),
    ("stdio-both", "2026-07-28"),
    ("stdio-modern", "2026-07-28"),
    ("stdio-legacy", "2025-11-25"),
]
BEFORE = [("both", "active"), ("both", "all")]


@pytest.fixture(scope="module")
def gate(
    server: Running, modern_server: Running, legacy_server: Running, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    """One gateway. `sse` and `stdio-…` are the same servers over other transports."""
    directory = tmp_path_factory.mktemp("gateway")
    both, legacy = [sys.executable, str(SERVER), "--stdio"], [str(tools.python("sdk-1")), str(LEGACY_SERVER), "--stdio"]
    modern = [*both, "--era", "modern"]
    processes = [
        {"name": "stdio-both", "command": both, "per": "principal"},
        {"name": "stdio-modern", "command": modern, "per": "shared"},
        {"name": "stdio-legacy", "command": legacy, "per": "session", "max_processes": 40},
    ]
    urls = {
        "both": server.url,
        "modern": modern_server.url,
        "legacy": legacy_server.url,
        "sse": legacy_server.url.removesuffix("/mcp") + "/sse",
        **{str(process["name"]): None for process in processes},
    }
    config = {"registry": {"stdio": processes}}
    with gateway(directory, config=config, policy=rego("allow_all"), dev_no_auth=True, workers=2) as running:
        for slug, url in urls.items():
            running.publish(slug, url)
        start_for_who_can_be_asked(running, "stdio-legacy")
        yield running


def start_for_who_can_be_asked(gate: GatewayProcess, slug: str) -> None:
    """Have the process started that a check with 600 ms of patience calls, and that no other may have called before."""
    meta = {**META, PREFIX + "clientCapabilities": {"elicitation": {}}}
    message = request("server/discover", {"_meta": meta})
    started = Wire(gate.base_url, path=f"/mcp/{slug}").send(json.dumps(message), modern_headers("server/discover", {}))
    assert started.status == 200, started.body


def through(gate: GatewayProcess, suite_for: SuiteFor, leg: differences.Leg) -> conformance.Report:
    """Run the suite for a leg. The suites want a loopback name as host."""
    server, asked = leg
    url = gate.server_url(server).replace("127.0.0.1", "localhost")
    return conformance.run(url, asked, suite_for(asked))


def compare(report: conformance.Report, direct: Direct, leg: differences.Leg) -> None:
    """Fail unless exactly the listed checks differ: one too many fails, and one that is listed for nothing, too."""
    wanted = direct(leg[1]).results
    other = (wanted - report.results) + (report.results - wanted)
    assert {(scenario, check) for scenario, check, _ in other} == differences.of(leg).keys(), str(report)


@pytest.mark.requirement("spec:through-the-gateway")
@pytest.mark.parametrize("leg", [*OWN_ERA, *OTHER_TRANSPORT, *BEFORE], ids="-".join)
def test_each_check_has_the_same_result_through_the_gateway(
    gate: GatewayProcess, suite_for: SuiteFor, direct: Direct, leg: differences.Leg
) -> None:
    report = through(gate, suite_for, leg)

    assert report.exit_code == 0, str(report)
    assert report.scored_failures == (), str(report)
    compare(report, direct, leg)
    assert "Traceback" not in gate.output()


@pytest.mark.requirement("spec:across-eras")
@pytest.mark.parametrize("leg", OTHER_ERA, ids="-".join)
def test_a_client_of_one_era_finds_all_that_is_possible_in_a_server_of_the_other(
    gate: GatewayProcess, suite_for: SuiteFor, direct: Direct, leg: differences.Leg
) -> None:
    report = through(gate, suite_for, leg)

    impossible = differences.IMPOSSIBLE[leg].keys()
    assert [found for found in report.scored_failures if (found.scenario, found.check) not in impossible] == [], str(
        report
    )
    compare(report, direct, leg)
    assert "Traceback" not in gate.output()
