"""What the suite wants of clients, it finds in the gateway towards the servers behind it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.harness import GatewayProcess, gateway, rego
from tests.spec import client_conformance, differences
from tests.spec.client_conformance import DOCUMENT
from tests.spec.conftest import SuiteFor


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    config = {"auth": {"upstream": {"client_metadata_url": DOCUMENT}}}
    directory = tmp_path_factory.mktemp("gateway")
    with gateway(directory, config=config, policy=rego("allow_all"), dev_no_auth=True) as running:
        yield running


@pytest.mark.requirement("connect:conformance")
def test_the_gateway_does_as_a_client_what_the_suite_requires(gate: GatewayProcess, suite_for: SuiteFor) -> None:
    report = client_conformance.run(gate.base_url, suite_for(client_conformance.REVISION))

    failed = {(failure.scenario, failure.check) for failure in report.failures}
    warned = {
        (scenario.name, check)
        for scenario in report.scenarios
        if scenario.is_scored
        for check, status in scenario.checks
        if status == "WARNING"
    }
    assert failed == differences.AS_A_CLIENT.keys(), f"{report}\n{report.output}"
    assert warned == set(), f"{report}\n{report.output}"
    scored = [failure for failure in report.scored_failures if failure.scenario.startswith("auth/")]
    assert scored == [], str(report)
    assert "Traceback" not in gate.output()
