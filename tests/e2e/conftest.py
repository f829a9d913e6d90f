"""One gateway of two workers with real servers behind it, for the tests in which no process is killed."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from playwright.async_api import BrowserContext

from tests.e2e import browser
from tests.e2e.oauth_parts import Callback, callback
from tests.e2e.parts import Witness, a_witness
from tests.fixtures.processes import free_port, running
from tests.harness import ROOT, GatewayProcess, gateway

SERVER = ROOT / "tests" / "fixtures" / "everything_server.py"
DRIFT_CHECK_S = 1.0


@pytest.fixture(scope="session")
def everything_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of both generations with everything in it."""
    log = tmp_path_factory.mktemp("everything") / "server.log"
    with running([sys.executable, SERVER, "--port", "0"], log=log) as server:
        yield server.url


@pytest.fixture(scope="session")
def testimony(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Witness]:
    """Servers that tell what arrived, and who hung up."""
    with a_witness(tmp_path_factory.mktemp("witness")) as witness:
        yield witness


@pytest.fixture(scope="session")
def model_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A model provider with OpenAI's API."""
    log = tmp_path_factory.mktemp("provider") / "provider.log"
    with running([sys.executable, "-m", "tests.fixtures.llm_provider"], log=log, cwd=ROOT) as provider:
        yield provider.url


@pytest.fixture(scope="session")
def gate(
    everything_url: str, testimony: Witness, model_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    """The gateway, with house.rego as its policy. No test may leave a traceback in its log."""
    config = {
        "registry": {"drift_check_s": DRIFT_CHECK_S},
        "llm": {
            "providers": [
                {
                    "name": "openai",
                    "base_url": model_url,
                    "models": ["gpt-4o-mini", "plain", "tools", "secret", "frozen", "never-done", "limited", "cuts"],
                },
                {"name": "down", "base_url": f"http://127.0.0.1:{free_port()}/v1", "models": ["plain"]},
            ]
        },
    }
    policy = {"house.rego": Path(__file__).with_name("house.rego").read_text(encoding="utf-8")}
    with gateway(tmp_path_factory.mktemp("gateway"), config=config, policy=policy, workers=2) as made:
        for slug in ("everything", "other", "vault"):
            made.publish(slug, everything_url)
        for slug in ("slowpoke", "changing"):
            made.publish(slug, testimony.url(slug))
        yield made
        assert "Traceback" not in made.output()


@pytest.fixture
async def context() -> AsyncIterator[BrowserContext]:
    """A browser of somebody who has not been here before."""
    try:
        browser.find()
    except browser.NoBrowser as missing:
        pytest.skip(str(missing))
    async with browser.async_browser() as made:
        yield made


@pytest.fixture
def back() -> Iterator[Callback]:
    """Where a client waits for the answer of an authorization server."""
    with callback() as made:
        yield made
