"""The suite's scenarios for authorization servers, against ours: a real browser signs in and agrees."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import anyio.from_thread
import anyio.to_thread
import pytest

from tests.e2e import browser
from tests.e2e.oauth_parts import local_user, new_user
from tests.fixtures.processes import Running
from tests.harness import GatewayProcess, gateway, rego
from tests.spec import authorization
from tests.spec.conftest import SuiteFor

# What the suite checks: the metadata, its word on client metadata documents, and the flow as a whole.
CHECKS = {
    ("authorization-server-metadata-endpoint", "authorization-server-metadata"),
    ("authorization-server-metadata-endpoint", "authorization-server-metadata-cimd"),
    ("authorization-code-grant", "authorization-code-grant"),
}


@pytest.fixture(scope="module")
def gate(server: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with gateway(tmp_path_factory.mktemp("gateway"), policy=rego("allow_all"), workers=2) as made:
        made.publish("both", server.url)
        yield made
        assert "Traceback" not in made.output()


@pytest.mark.requirement("spec:authorization")
@pytest.mark.parametrize("path", ["/mcp", "/mcp/both"])
async def test_our_authorization_server_passes_every_check_of_the_suite(
    gate: GatewayProcess, suite_for: SuiteFor, path: str
) -> None:
    port, name = authorization.callback_port(), "suite" + path.replace("/", "-")
    new_user(gate, name)
    gate.admin.post(
        "/clients",
        {
            "client_id": name,
            "grants": ["authorization_code"],
            "auth_method": "none",
            "redirect_uris": [f"http://127.0.0.1:{port}/callback"],
        },
    )
    try:
        browser.find()
    except browser.NoBrowser as missing:
        pytest.skip(str(missing))
    async with browser.async_browser() as context:
        person = local_user(context, name)
        report = await anyio.to_thread.run_sync(
            partial(
                authorization.run,
                suite_for(authorization.REVISION),
                gate.base_url,
                client_id=name,
                resource=gate.base_url + path,
                port=port,
                agree=lambda url: anyio.from_thread.run(person, url),
            )
        )

    assert report.exit_code == 0, str(report)
    assert {(scenario, check) for scenario, check, _ in report.results} == CHECKS, str(report)
    assert (report.passed, report.failed) == (len(CHECKS), 0), str(report)
