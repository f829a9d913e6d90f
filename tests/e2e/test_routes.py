"""What the table of routes does not say: roles without scopes, sessions that are no credential, the log of refusals.

The table itself is tests/access.py, and tests/e2e/test_access.py asks every route of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from mcpgw.edge import admin
from mcpgw.edge.admin_routes import OPERATIONS
from tests.e2e.wire import LEGACY, Reply, Wire
from tests.harness import GatewayProcess

SESSIONS = [("GET", "/mcp"), ("DELETE", "/mcp"), ("GET", "/mcp/everything"), ("DELETE", "/mcp/everything")]
ROLES: Mapping[str, frozenset[str]] = {
    "agent": frozenset({"mcp:use", "llm:use"}),
    "auditor": frozenset({"audit:read"}),
    "operator": frozenset({"kill:write", "servers:write", "audit:read"}),
    "admin": frozenset({"audit:read"}),
    "editor": frozenset(),  # a role of policies alone
}


@pytest.fixture
def stranger(gate: GatewayProcess) -> Wire:
    return Wire(gate.base_url)


@pytest.fixture(scope="module")
def keys(gate: GatewayProcess) -> Mapping[str, str]:
    """A key of each role."""
    return {role: gate.new_key(f"{role}-of-routes", role)[1] for role in ROLES}


def speak(wire: Wire, method: str, path: str) -> Reply:
    """Ask as an agent does."""
    if path.startswith("/mcp"):
        return Wire(wire.base_url, wire.key, path).modern("tools/list")
    body = '{"model":"plain","messages":[{"role":"user","content":"x"}]}'
    return wire.send(body if method == "POST" else b"", method=method, path=path)


@pytest.mark.requirement("routes:authentication")
@pytest.mark.parametrize(("method", "path"), SESSIONS)
def test_a_session_is_no_credential(gate: GatewayProcess, stranger: Wire, method: str, path: str) -> None:
    session = Wire(gate.base_url, gate.agent_key, path).session()
    headers = {"Mcp-Session-Id": session, "MCP-Protocol-Version": LEGACY, "Accept": "text/event-stream"}
    assert stranger.send(headers=headers, method=method, path=path).status == 401
    assert Wire(gate.base_url, gate.agent_key, path).legacy(session, "ping").json["result"] == {}


@pytest.mark.requirement("routes:roles")
@pytest.mark.parametrize("row", OPERATIONS, ids=lambda row: f"{row.method} {row.path}")
def test_a_role_that_carries_no_scope_opens_no_operation(
    gate: GatewayProcess, keys: Mapping[str, str], row: Any
) -> None:
    path = admin.PREFIX + row.path.replace("{", "").replace("}", "")
    reply = Wire(gate.base_url, keys["editor"]).send(method=row.method, path=path)
    assert (reply.status, reply.error["code"]) == (403, "insufficient_scope")
    assert f'scope="{row.scope}"' in reply.headers["www-authenticate"]


@pytest.mark.requirement("routes:roles")
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("POST", "/mcp", "mcp:use"),
        ("POST", "/mcp/everything", "mcp:use"),
        ("POST", "/v1/chat/completions", "llm:use"),
        ("GET", "/v1/models", "llm:use"),
    ],
)
def test_tools_and_models_are_open_to_agents_alone(
    gate: GatewayProcess, keys: Mapping[str, str], method: str, path: str, scope: str, role: str
) -> None:
    reply = speak(Wire(gate.base_url, keys[role]), method, path)
    if scope in ROLES[role]:
        assert reply.status == 200
    else:
        assert reply.status == 403
        assert f'scope="{scope}"' in reply.headers["www-authenticate"]
    refused = gate.admin.get("/audit", principal=f"mcpgw|{role}-of-routes", limit=1)["records"][0]
    assert (refused["phase"] == "refused") == (scope not in ROLES[role])


@pytest.mark.requirement("routes:roles")
def test_nobody_is_an_agent_and_an_administrator_at_once(gate: GatewayProcess) -> None:
    admin_wire = Wire(gate.base_url, gate.admin_key)
    for role in ("admin", "operator", "auditor"):
        reply = admin_wire.send(f'{{"subject": "both", "roles": ["agent", "{role}"]}}', path="/admin/v1/keys")
        assert (reply.status, reply.error["code"]) == (400, "invalid_params")
