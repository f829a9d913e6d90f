"""Every route asks who is there, and what they may do: generated from the routes of the application itself."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any, cast

import pytest
from starlette.routing import Route

from mcpgw.edge import admin, console, oauth
from mcpgw.edge.admin_routes import OPERATIONS
from mcpgw.edge.llm import METHODS as LLM_METHODS
from mcpgw.wiring import worker
from tests.e2e.wire import LEGACY, Reply, Wire
from tests.harness import GatewayProcess

# What strangers may ask, and the status of the answer: liveness, descriptions, and the way to get a token.
OPEN: Mapping[tuple[str, str], int] = {
    ("GET", "/healthz"): 200,
    ("GET", "/readyz"): 200,
    ("GET", "/admin/openapi.json"): 200,
    ("GET", "/console"): 200,
    ("GET", "/console/"): 200,
    ("GET", "/.well-known/oauth-protected-resource"): 200,
    ("GET", "/.well-known/oauth-protected-resource/{path:path}"): 404,  # no endpoint is called `nothing`
    ("GET", "/.well-known/oauth-authorization-server"): 200,
    ("GET", "/.well-known/jwks.json"): 200,
    ("POST", "/oauth/token"): 400,
    ("GET", "/oauth/authorize"): 400,
    ("POST", "/oauth/authorize"): 400,
}
EDGES = [("POST", "/mcp"), ("POST", "/mcp/everything"), ("POST", "/mcp/nothing"), ("POST", "/mcp/everything@1.0.0")]
SESSIONS = [("GET", "/mcp"), ("DELETE", "/mcp"), ("GET", "/mcp/everything"), ("DELETE", "/mcp/everything")]
ROLES: Mapping[str, frozenset[str]] = {
    "agent": frozenset({"mcp:use", "llm:use"}),
    "auditor": frozenset({"audit:read"}),
    "operator": frozenset({"kill:write", "servers:write", "audit:read"}),
    "admin": frozenset(
        {"audit:read", "kill:write", "kill:release", "servers:write", "servers:approve", "policy:write", "keys:write"}
    ),
    "editor": frozenset(),  # a role of policies alone
}
# What each change needs, by the beginning of "METHOD path"; reading is audit:read.
NEEDED = {
    r"POST /servers/\{slug\}/versions/\{version\}/approve": "servers:approve",
    r"(POST|PUT|DELETE) /(servers|toolsets)": "servers:write",
    r"POST /policies/explain": "audit:read",
    r"POST /policies": "policy:write",
    r"POST /kill-switches": "kill:write",
    r"DELETE /kill-switches": "kill:release",
    r"(POST|DELETE) /(keys|clients|revocations)": "keys:write",
    r"GET /": "audit:read",
}
UNKNOWN_KEY = '{"no_such_key": 1}'


def application_routes() -> Iterator[tuple[str, str]]:
    """Yield (method, path) of all that the application serves behind the router."""
    nothing = cast(Any, None)  # what the handlers would use, had they to answer
    door = admin.Door(authenticate=nothing, challenge=nothing, refused=nothing)
    for route in (*oauth.routes(nothing, nothing), *admin.routes(nothing, door), *console.routes()):
        assert isinstance(route, Route)
        operations = [row for row in OPERATIONS if admin.PREFIX + row.path == route.path]
        for method in [row.method for row in operations] or sorted((route.methods or {"GET"}) - {"HEAD"}):
            yield method, route.path


ROUTES = [*application_routes(), *((method, path.decode()) for path, method in LLM_METHODS.items()), *EDGES]


def filled(path: str) -> str:
    return re.sub(r"\{[^}]*\}", "nothing", path)


def needed(method: str, path: str) -> str:
    """Return the scope that an operation of the admin API needs."""
    return next(scope for start, scope in NEEDED.items() if re.match(start, f"{method} {path}"))


@pytest.fixture
def stranger(gate: GatewayProcess) -> Wire:
    return Wire(gate.base_url)


@pytest.fixture(scope="module")
def keys(gate: GatewayProcess) -> Mapping[str, str]:
    """A key of each role."""
    return {role: gate.new_key(f"{role}-of-routes", role)[1] for role in ROLES}


def ask(wire: Wire, method: str, path: str) -> Reply:
    """Ask with a body, or a query, that no operation takes: who may do it is told so, and nothing is done."""
    if method == "GET":
        return wire.send(method=method, path=filled(path) + "?no_such_key=1", headers={"Content-Type": None})
    return wire.send(UNKNOWN_KEY, method=method, path=filled(path))


def test_the_routes_found_are_all_that_there_are(stranger: Wire) -> None:
    """Those of the modules that the composition root asks for routes, and in them those that the API describes."""
    (composed,) = [
        keyword.value
        for call in ast.walk(ast.parse(inspect.getsource(worker)))
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "create_app"
        for keyword in call.keywords
        if keyword.arg == "routes"
    ]
    sources = {ast.unparse(node.func) for node in ast.walk(composed) if isinstance(node, ast.Call)}
    assert {source for source in sources if source.endswith(".routes")} == {
        "oauth.routes",
        "admin.routes",
        "console.routes",
    }
    described = stranger.send(method="GET", path="/admin/openapi.json").json
    prefix = described["servers"][0]["url"] if described.get("servers") else ""
    listed = {(method.upper(), prefix + path) for path, rows in described["paths"].items() for method in rows}
    assert listed == {(row.method, admin.PREFIX + row.path) for row in OPERATIONS}
    assert len(ROUTES) == len(set(ROUTES)) > 40
    assert OPEN.keys() <= set(ROUTES)


@pytest.mark.requirement("routes:authentication")
@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_no_route_answers_a_stranger_but_the_listed_ones(stranger: Wire, method: str, path: str) -> None:
    if (method, path) in OPEN:
        assert ask(stranger, method, path).status == OPEN[method, path]
        return
    for wire in (stranger, Wire(stranger.base_url, "mcpgw_nobody"), Wire(stranger.base_url, "a.b.c")):
        reply = ask(wire, method, path) if path.startswith("/admin") else speak(wire, method, path)
        assert reply.status == 401, reply.body
        assert reply.headers["www-authenticate"].startswith("Bearer ")
        assert f'resource_metadata="{stranger.base_url}/.well-known/' in reply.headers["www-authenticate"]
        assert reply.error["message"]


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


@pytest.mark.requirement("routes:authentication")
@pytest.mark.parametrize("path", sorted({path for _, path in ROUTES if path.startswith("/admin/v1")}))
def test_a_stranger_does_not_learn_which_operations_there_are(stranger: Wire, path: str) -> None:
    for method in ("PUT", "PATCH", "OPTIONS"):
        assert stranger.send(method=method, path=filled(path)).status == 401
    assert stranger.send(method="GET", path=filled(path) + "/there/is/no/such/path").status == 401


@pytest.mark.requirement("routes:roles")
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("row", OPERATIONS, ids=lambda row: f"{row.method} {row.path}")
def test_each_operation_is_open_to_the_roles_that_have_its_scope(
    gate: GatewayProcess, keys: Mapping[str, str], row: Any, role: str
) -> None:
    scope = needed(row.method, row.path)
    reply = ask(Wire(gate.base_url, keys[role]), row.method, admin.PREFIX + row.path)
    if scope in ROLES[role]:
        assert (reply.status, reply.error["message"]) == (400, "unknown key `no_such_key`")
    else:
        assert (reply.status, reply.error["code"]) == (403, "insufficient_scope")
        assert f'scope="{scope}"' in reply.headers["www-authenticate"]


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
