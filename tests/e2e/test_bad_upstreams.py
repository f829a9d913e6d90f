"""Upstreams that cannot be reached, die, or answer rubbish: each costs the call that met it, and no other."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from mcpgw.errors import GatewayError, UpstreamFailed, UpstreamUnreachable
from tests.e2e.wire import Reply, Wire
from tests.fixtures.fickle_server import ANSWERS, STREAMS
from tests.fixtures.processes import Running, free_port, running
from tests.harness import ROOT, GatewayProcess, gateway, rego

FAILED, UNREACHABLE, TIMED_OUT = (502, -31106), (502, -31105), (504, -31107)
ENDINGS: Mapping[str, tuple[int, int]] = {
    **dict.fromkeys((*ANSWERS, *STREAMS, "resets"), FAILED),
    **dict.fromkeys(STREAMS, (200, FAILED[1])),  # told at the end of a stream that has begun
    "hangs": TIMED_OUT,
}
FIRST_BYTE_S = 1.0


@contextmanager
def fickle(directory: Path, *options: str) -> Iterator[Running]:
    command = [sys.executable, "-m", "tests.fixtures.fickle_server", *options]
    with running(command, log=directory / "fickle.log", cwd=ROOT) as server:
        yield server


@pytest.fixture(scope="module")
def guarded(everything_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway with a server that works and one that does not. Its log has no traceback, whatever came."""
    limits = {"first_byte_s": FIRST_BYTE_S}
    directory = tmp_path_factory.mktemp("guarded")
    with (
        fickle(directory) as server,
        gateway(directory, policy=rego("allow_all"), config={"limits": limits}) as gate,
    ):
        gate.publish("everything", everything_url)
        gate.publish("fickle", server.url)
        yield gate
        assert "Traceback" not in gate.output()


def wire_to(gate: GatewayProcess, slug: str) -> Wire:
    return Wire(gate.base_url, gate.agent_key, f"/mcp/{slug}")


def others(gate: GatewayProcess, pool: ThreadPoolExecutor) -> list[Future[Reply]]:
    """Begin calls of the server that works, which take a tenth of a second."""
    wire = wire_to(gate, "everything")
    return [pool.submit(wire.modern, "tools/call", {"name": "test_tool_with_progress"}) for _ in range(4)]


def check_told(reply: Reply, status: int, code: int) -> None:
    """Check that an answer is one clear error with a fix, and shows nothing of what the upstream said."""
    assert (reply.status, reply.code) == (status, code), reply.body
    assert reply.error["message"]
    # Who refuses a credential has not carried out the call; of the others nobody knows.
    word = "did not carry out" if reply.error["data"].get("cause") == "credential" else "may have taken effect"
    assert word in reply.error["data"]["fix"], reply.error
    assert reply.error["data"]["receipt"]["log"] == "w0"
    for word in (b"Traceback", b"hunter2", b"<html>"):
        assert word not in reply.body


@pytest.mark.requirement("bad-upstream:own-call")
@pytest.mark.parametrize("tool", ENDINGS)
def test_an_upstream_that_misbehaves_costs_its_own_call_while_others_go_on(guarded: GatewayProcess, tool: str) -> None:
    wire = wire_to(guarded, "fickle")
    with ThreadPoolExecutor(5) as pool:
        running_calls = others(guarded, pool)
        check_told(wire.modern("tools/call", {"name": tool}), *ENDINGS[tool])
        for call in running_calls:
            assert call.result().json["result"]["content"]
    assert wire.modern("tools/call", {"name": "echo"}).json["result"]["content"][0]["text"] == "fine"


@pytest.mark.requirement("bad-upstream:own-call")
def test_an_upstream_that_dies_costs_the_calls_that_were_under_way(guarded: GatewayProcess, tmp_path: Path) -> None:
    with fickle(tmp_path) as mortal, ThreadPoolExecutor(5) as pool:
        guarded.publish("mortal", mortal.url)
        wire = wire_to(guarded, "mortal")
        running_calls = others(guarded, pool)
        died = wire.modern("tools/call", {"name": "dies"})
        mortal.process.wait(5)
        gone = wire.modern("tools/call", {"name": "echo"})
        for call in running_calls:
            assert call.result().json["result"]["content"]
    assert (died.status, died.code) == FAILED
    assert "may have taken effect" in died.error["data"]["fix"]
    assert (gone.status, gone.code) == UNREACHABLE
    assert gone.error["data"]["fix"]
    records = guarded.admin.get("/audit", server="mortal", outcome="upstream_unreachable")["records"]
    assert records[0]["facts"]["sent"] is False
    records = guarded.admin.get("/audit", server="mortal", outcome="upstream_failed")["records"]
    assert records[0]["facts"]["sent"] is True


@pytest.mark.requirement("bad-upstream:registration")
def test_what_is_no_mcp_server_cannot_be_registered(guarded: GatewayProcess, tmp_path: Path) -> None:
    with fickle(tmp_path, "--html") as pages:
        refused = refusal_of(guarded, pages.url)
        assert isinstance(refused, UpstreamFailed)
        assert "text/html" in refused.message
    nobody = refusal_of(guarded, f"http://127.0.0.1:{free_port()}/mcp")
    assert isinstance(nobody, UpstreamUnreachable)
    for error in (refused, nobody):
        assert error.message and error.fix
    assert "pages" not in {server["slug"] for server in guarded.admin.get("/servers")["servers"]}


def refusal_of(gate: GatewayProcess, url: str) -> GatewayError:
    with pytest.raises(GatewayError) as refused:
        gate.admin.post("/servers", {"slug": "pages", "url": url})
    return refused.value
