"""How the SDK's client proves who it is: by API key, or by a token that it gets from the gateway itself."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import httpx2
import pytest
from mcp import MCPError

from mcpgw.auth.endpoints import ADMIN
from tests.e2e.agents import MODERN, MODES, Tokens, Wire, agent, client_credentials, text_of
from tests.harness import GatewayProcess

RESOURCE = "/.well-known/oauth-protected-resource"
_numbers = count(1)


@pytest.fixture
def client(gate: GatewayProcess) -> Iterator[dict[str, str]]:
    """An OAuth client for an agent, as an administrator makes one."""
    name = f"robot-{next(_numbers)}"
    made: dict[str, str] = gate.admin.post("/clients", {"client_id": name, "subject": name, "roles": ["agent"]})
    yield made
    gate.admin.delete(f"/clients/{name}", {"reason": "the test is over"})


def token(gate: GatewayProcess, client: dict[str, str], path: str, **form: str) -> Any:
    """Ask the token endpoint as RFC 6749 §4.4.2 has it."""
    given = {"grant_type": "client_credentials", "resource": gate.base_url + path, **form}
    secret = (client["client_id"], client["client_secret"])
    answer = httpx2.post(f"{gate.base_url}/oauth/token", data=given, auth=secret, trust_env=False)
    return answer.json()


@pytest.mark.requirement("sdk:oauth")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", ["/mcp", "/mcp/everything"])
async def test_a_client_finds_the_token_endpoint_by_itself_and_calls_with_a_token(
    gate: GatewayProcess, client: dict[str, str], path: str, mode: str
) -> None:
    url, wire, kept = gate.base_url + path, Wire(), Tokens()
    tool = "everything__greet" if path == "/mcp" else "greet"
    auth = client_credentials(gate, url, client, kept)
    async with agent(url, mode=mode, auth=auth, wire=wire) as connected:
        result = await connected.call_tool(tool, {"name": "robot"})
    assert text_of(result) == "Hello, robot!"
    assert kept.tokens is not None and kept.tokens.scope == "mcp:use"
    assert wire.seen[:4] == [
        ("POST", path, 401),
        ("GET", RESOURCE + path, 200),
        ("GET", "/.well-known/oauth-authorization-server", 200),
        ("POST", "/oauth/token", 200),
    ]
    assert all(status < 400 for _, _, status in wire.seen[4:])
    records = gate.admin.get("/audit", principal=f"mcpgw|{client['client_id']}", tool="greet")["records"]
    by_phase = {record["phase"]: record for record in records}
    assert (by_phase["intent"]["client_id"], by_phase["outcome"]["outcome"]) == (client["client_id"], "ok")


@pytest.mark.requirement("sdk:audience")
async def test_a_token_opens_the_endpoint_that_it_is_for_and_no_other(
    gate: GatewayProcess, client: dict[str, str]
) -> None:
    for_one = token(gate, client, "/mcp/everything")["access_token"]
    for_all = token(gate, client, "/mcp")["access_token"]
    for key, path, tool in (
        (for_one, "/mcp/everything", "greet"),
        (for_all, "/mcp", "everything__greet"),
        (for_all, "/mcp/other", "greet"),
    ):
        async with agent(gate.base_url + path, key) as connected:
            assert text_of(await connected.call_tool(tool, {"name": "you"})) == "Hello, you!"
    for key, path in ((for_one, "/mcp/other"), (for_one, "/mcp"), (for_one, "/v1/models"), (for_all, "/v1/models")):
        refused = httpx2.get(gate.base_url + path, headers={"Authorization": f"Bearer {key}"}, trust_env=False)
        if not path.startswith("/v1"):
            refused = httpx2.post(
                gate.base_url + path, json=PING, headers={**HEADERS, "Authorization": f"Bearer {key}"}, trust_env=False
            )
        assert refused.status_code == 401, path
        assert 'error="invalid_token"' in refused.headers["www-authenticate"]
        assert "for another audience" in refused.text


PING = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
HEADERS = {"Accept": "application/json, text/event-stream"}


@pytest.mark.requirement("sdk:audience")
async def test_the_sdk_refuses_to_go_on_when_its_token_is_for_another_server(
    gate: GatewayProcess, client: dict[str, str]
) -> None:
    for_one = token(gate, client, "/mcp/everything")["access_token"]
    async with agent(gate.server_url("other"), for_one) as connected:
        with pytest.raises(MCPError):
            await connected.list_tools()


@pytest.mark.requirement("sdk:scope")
def test_an_administrators_key_is_told_which_scope_it_lacks(gate: GatewayProcess) -> None:
    """RFC 6750 §3.1: a credential that is valid and not enough."""
    headers = {**HEADERS, "Authorization": f"Bearer {gate.admin_key}"}
    modern = {"MCP-Protocol-Version": MODERN, "Mcp-Method": "tools/list"}
    for path in ("/mcp", "/mcp/everything"):
        body = {**PING, "params": {"_meta": META}}
        refused = httpx2.post(gate.base_url + path, json=body, headers={**headers, **modern}, trust_env=False)
        assert refused.status_code == 403
        challenge = refused.headers["www-authenticate"]
        assert challenge.startswith('Bearer error="insufficient_scope"')
        assert 'scope="mcp:use"' in challenge
        assert f'resource_metadata="{gate.base_url}{RESOURCE}{path}"' in challenge
        assert refused.json()["error"]["code"] == -31002


META = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientCapabilities": {},
}


@pytest.mark.requirement("sdk:scope")
def test_an_agents_token_is_no_use_for_administration(gate: GatewayProcess, client: dict[str, str]) -> None:
    assert token(gate, client, ADMIN)["error"] == "invalid_scope"
    assert token(gate, client, "/mcp", scope="admin kill:write")["error"] == "invalid_scope"
    assert token(gate, client, "/mcp", scope="mcp:use admin")["scope"] == "mcp:use"
    for path in ("/mcp", "/v1"):
        key = token(gate, client, path)["access_token"]
        refused = httpx2.get(
            f"{gate.base_url}/admin/v1/status", headers={"Authorization": f"Bearer {key}"}, trust_env=False
        )
        assert refused.status_code == 401


@pytest.mark.requirement("sdk:revocation")
async def test_a_revoked_client_is_refused_on_its_next_call(gate: GatewayProcess) -> None:
    made = gate.admin.post("/clients", {"client_id": "brief", "subject": "brief", "roles": ["agent"]})
    key = token(gate, made, "/mcp/everything")["access_token"]
    async with agent(gate.server_url("everything"), key) as connected:
        assert text_of(await connected.call_tool("greet", {"name": "you"})) == "Hello, you!"
        gate.admin.delete("/clients/brief", {"reason": "test"})
        with pytest.raises(MCPError):
            await connected.call_tool("greet", {"name": "you"})
    assert token(gate, made, "/mcp/everything")["error"] == "invalid_client"
    records = gate.admin.get("/audit", server="everything", outcome="unauthenticated")["records"]
    assert records[0]["name"] == "greet"
