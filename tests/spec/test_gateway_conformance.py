"""What the suite says of the reference server, it says of it through the gateway: check by check."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import pytest

from tests.fixtures.processes import Running
from tests.harness import GatewayProcess, gateway, rego
from tests.spec import conformance
from tests.spec.conformance import REVISIONS, Report, Suite

Check = tuple[str, str]

# Every check with another result through the gateway, as (scenario, check), and why that is right.
ACCEPTED: Mapping[str, Mapping[Check, str]] = {
    "2025-11-25": {
        ("server-sse-multiple-streams", "server-sse-streams-functional"): (
            "it counts how many of three concurrent tools/list are answered as streams; the gateway answers them from"
            " its pins as one JSON object each, as the transport allows, of which the suite only takes note"
        ),
    },
    "2026-07-28": {},
}


@pytest.fixture(scope="module")
def gate(server: Running, suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    directory = tmp_path_factory.mktemp("gateway")
    with gateway(directory, policy=rego("allow_all"), dev_no_auth=True, workers=2) as running:
        running.publish("everything", server.url)
        yield running


@pytest.mark.requirement("spec:through-the-gateway")
@pytest.mark.parametrize("revision", REVISIONS)
def test_each_check_has_the_same_result_through_the_gateway(
    gate: GatewayProcess, suite: Suite, direct: Callable[[str], Report], revision: str
) -> None:
    url = gate.server_url("everything").replace("127.0.0.1", "localhost")  # the suite wants a loopback name

    through = conformance.run(url, revision, suite)

    assert through.exit_code == 0, through
    assert through.scored_failures == (), through
    wanted = direct(revision).results
    other = (wanted - through.results) + (through.results - wanted)
    assert {(scenario, check) for scenario, check, _ in other} == ACCEPTED[revision].keys(), through
    assert "Traceback" not in gate.output()
