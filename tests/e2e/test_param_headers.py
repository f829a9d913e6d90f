"""`Mcp-Param-*` headers, end to end: compared at the gateway, whatever server is behind it, and written anew for it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.wire import Reply, Wire
from tests.fixtures.processes import running
from tests.harness import ROOT, GatewayProcess, gateway

SERVER = ROOT / "tests" / "fixtures" / "everything_server.py"
TOOL = "test_x_mcp_header"
POLICY = """package mcpgw.authz

default decision := {"effect": "deny", "reasons": ["default-deny"]}

decision := {"effect": "allow", "reasons": ["all"]} if {
	not hidden
	not guarded
}

decision := {
	"effect": "allow",
	"reasons": ["without-region"],
	"obligations": [{"type": "redact_arguments", "pointers": ["/region"]}],
} if {
	not hidden
	guarded
}

hidden if {
	input.tool.name == "test_x_mcp_header"
	"blind" in input.principal.roles
}

guarded if {
	input.phase == "call"
	input.tool.name == "test_x_mcp_header"
	"guest" in input.principal.roles
}
"""


@pytest.fixture(scope="module")
def gate(everything_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway before a server of both eras, and one of the handshake era, which knows no such headers."""
    directory = tmp_path_factory.mktemp("params")
    legacy: list[str | Path] = [sys.executable, SERVER, "--port", "0", "--era", "legacy"]
    with (
        running(legacy, log=directory / "legacy.log") as behind,
        gateway(directory, policy={"params.rego": POLICY}, workers=2) as made,
    ):
        made.publish("both", everything_url)
        made.publish("legacy", behind.url)
        yield made
        assert "Traceback" not in made.output()


def called(wire: Wire, arguments: Any, tool: str = TOOL, **headers: str | None) -> Reply:
    """Call the tool with further headers; `region` is Mcp-Param-Region."""
    given = {f"Mcp-Param-{name.capitalize()}": value for name, value in headers.items()}
    return wire.modern("tools/call", {"name": tool, "arguments": arguments}, given)


def at(gate: GatewayProcess, path: str, *roles: str) -> Wire:
    key = gate.new_key("caller", "agent", *roles)[1] if roles else gate.agent_key
    return Wire(gate.base_url, key, path)


@pytest.mark.requirement("params:compared")
@pytest.mark.parametrize("path", ["/mcp/both", "/mcp/legacy", "/mcp"])
def test_a_call_goes_on_only_when_header_and_argument_agree(gate: GatewayProcess, path: str) -> None:
    wire, tool = at(gate, path), "both__" + TOOL if path == "/mcp" else TOOL
    agreeing = called(wire, {"region": "eu"}, tool, region="eu")
    assert agreeing.json["result"]["content"][0]["text"] == "Region: eu"
    assert called(wire, {"region": "é"}, tool, region="=?base64?w6k=?=").json["result"]["isError"] is False
    refused = {
        "another": called(wire, {"region": "eu"}, tool, region="us"),
        "missing": called(wire, {"region": "eu"}, tool),
        "no base64": called(wire, {"region": "eu"}, tool, region="=?base64?ZXU?="),
        "not ASCII": called(wire, {"region": "é"}, tool, region="é"),
        "no argument": called(wire, {}, tool, region="eu"),
        "a null": called(wire, {"region": None}, tool, region="null"),
    }
    assert {why: (reply.status, reply.code) for why, reply in refused.items()} == dict.fromkeys(refused, (400, -32020))


@pytest.mark.requirement("params:compared")
@pytest.mark.parametrize("path", ["/mcp/both", "/mcp/legacy"])
def test_who_may_not_see_a_tool_is_not_told_what_its_headers_are(gate: GatewayProcess, path: str) -> None:
    blind = at(gate, path, "blind")

    def told(reply: Reply, tool: str) -> tuple[int, Any]:
        body = json.loads(reply.body.replace(tool.encode(), b"TOOL"))
        del body["error"]["data"]
        return reply.status, body

    unknown = told(called(blind, {"region": "eu"}, "no_such_tool", region="us"), "no_such_tool")
    assert unknown[1]["error"]["code"] == -32602
    for headers in ({"region": "us"}, {"region": "eu"}, {}):
        assert told(called(blind, {"region": "eu"}, **headers), TOOL) == unknown


@pytest.mark.requirement("params:compared")
def test_a_header_given_twice_or_too_long_is_refused_unread(gate: GatewayProcess) -> None:
    wire = at(gate, "/mcp/both")
    long = called(wire, {"region": "a" * 9000}, region="=?base64?" + "YWFh" * 3000 + "?=")
    assert long.status == 413
    message = {"name": TOOL, "arguments": {"region": "eu"}}
    twice = wire.modern("tools/call", message, {"Mcp-Param-Region": "eu", "mcp-param-region": "eu"})
    assert (twice.status, twice.code) == (400, -32020)


@pytest.mark.requirement("params:unknown")
def test_a_header_that_repeats_nothing_hinders_nothing(gate: GatewayProcess) -> None:
    reply = called(at(gate, "/mcp/both"), {"region": "eu"}, region="eu", tenant="=?base64?!?=")
    assert reply.json["result"]["content"][0]["text"] == "Region: eu"


@pytest.mark.requirement("params:anew")
@pytest.mark.parametrize("path", ["/mcp/both", "/mcp/legacy"])
def test_a_server_gets_the_header_of_what_is_left_of_an_argument(gate: GatewayProcess, path: str) -> None:
    """The server of both eras compares, too: the client's own header would have it refuse the call."""
    reply = called(at(gate, path, "guest"), {"region": "eu-secret"}, region="eu-secret")
    assert reply.json["result"]["content"][0]["text"] == "Region: [redacted]"
    assert called(at(gate, path, "guest"), {"region": "eu-secret"}, region="[redacted]").code == -32020


@pytest.mark.requirement("params:anew")
def test_a_client_of_the_handshake_era_needs_no_such_headers(gate: GatewayProcess) -> None:
    wire = at(gate, "/mcp/both")
    reply = wire.legacy(wire.session(), "tools/call", {"name": TOOL, "arguments": {"region": "eu"}})
    assert reply.json["result"]["content"][0]["text"] == "Region: eu"
