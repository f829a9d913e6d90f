"""URLs that others name to a running gateway: those that lead elsewhere are refused before anything is sent."""

from __future__ import annotations

import json

import pytest

from mcpgw.auth.fetch import Fetcher
from mcpgw.errors import FetchRefused
from tests.auth.urls import DENIED
from tests.e2e.wire import Wire
from tests.harness import GatewayProcess


def refused(url: str) -> bool:
    """Whether the URL alone says that it leads elsewhere, where loopback is allowed as it is for this gateway."""
    try:
        Fetcher((), allow_loopback=True).check(url)
    except FetchRefused:
        return True
    return False


URLS = [url for url, answer in DENIED if not answer and refused(url)]


@pytest.mark.requirement("fetch:denied")
def test_no_server_is_registered_at_a_url_that_leads_elsewhere(gate: GatewayProcess) -> None:
    wire = Wire(gate.base_url, gate.admin_key)
    assert len(URLS) > 80
    before = gate.admin.get("/servers")
    for url in URLS:
        reply = wire.send(json.dumps({"slug": "elsewhere", "url": url}), path="/admin/v1/servers")
        assert reply.status == 400, (url, reply.body)
    assert gate.admin.get("/servers") == before
