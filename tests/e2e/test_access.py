"""Every route with every credential, on a running gateway: the answers are those of docs/reference/access.md."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from starlette.routing import Route

from mcpgw.config import load
from mcpgw.edge.llm import METHODS as LLM_METHODS
from mcpgw.processes import prepare
from mcpgw.wiring import Worker
from tests import access
from tests.access import EMPTY, NOBODY, NONE, OPEN, OTHER_TEAM, UNAUTHENTICATED, UNKNOWN, YES, Row
from tests.e2e.parts import Witness
from tests.e2e.wire import LEGACY, Reply, Wire
from tests.harness import GatewayProcess, gateway

CONFIG: Mapping[str, Any] = {"auth": {"server": {"registration": True}}}
POLICY = """package mcpgw.authz

default decision := {"effect": "deny", "reasons": ["not-of-the-team"]}

decision := {"effect": "allow", "reasons": ["of-the-team"]} if input.principal.team == "blue"
"""
UNKNOWN_KEY = '{"no_such_key": 1}'
MODEL = "plain"
SERVED = {"{server}": "alpha", "{version}": "1.0.0", "{toolset}": "desk", "{nobody's}": "nothing"}
EDGES = ("/mcp", *(path.decode() for path in LLM_METHODS))


@pytest.fixture(scope="module")
def running(testimony: Witness, model_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway whose policy shows everything to one team and nothing to others."""
    provider = {"name": "openai", "base_url": model_url, "models": [MODEL]}
    config = {**CONFIG, "llm": {"providers": [provider]}}
    with gateway(tmp_path_factory.mktemp("gateway"), config=config, policy={"team.rego": POLICY}) as made:
        made.publish("alpha", testimony.url("alpha"))
        made.admin.post("/toolsets", {"slug": "desk", "tools": [{"tool": "alpha/echo"}]})
        yield made
        assert "Traceback" not in made.output()


@pytest.fixture(scope="module")
def keys(running: GatewayProcess) -> Mapping[str, str | None]:
    """A key for each credential of the table."""

    def key(subject: str, role: str, team: str) -> str:
        made = running.admin.post("/keys", {"subject": subject, "roles": [role], "team": team})
        return str(made["key"])

    found: dict[str, str | None] = {NOBODY: None, OTHER_TEAM: key("stranger", "agent", "red")}
    return found | {role: key(f"of-{role}", role, "blue") for role in ("agent", "auditor", "operator", "admin")}


def asked(wire: Wire, row: Row, session: str | None) -> str:
    """Ask at a route; return what was got, in the words of the table."""
    path = filled(row.path)
    if session is not None:
        return of_session(wire, row.method, path, session)
    if path.startswith("/mcp"):
        return of_list(Wire(wire.base_url, wire.key, path).modern("tools/list"))
    if path.startswith("/v1"):
        body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "x"}]})
        return of_list(wire.send(body if row.method == "POST" else b"", method=row.method, path=path))
    if path.startswith("/admin/v1"):
        # Who may do it is told of a key that no operation takes, and nothing is done.
        query, body = ("?no_such_key=1", "") if row.method == "GET" else ("", UNKNOWN_KEY)
        return of_operation(wire.send(body, method=row.method, path=path + query))
    reply = wire.send(headers={"Content-Type": None}, method=row.method, path=path)
    assert reply.status == row.open_status, reply.body
    return NONE if row.gets[NOBODY] == NONE else OPEN


def of_operation(reply: Reply) -> str:
    if reply.status == 400:
        assert reply.error["message"] == "unknown key `no_such_key`"
        return YES
    return NONE if reply.status == 404 else refused(reply)


def of_list(reply: Reply) -> str:
    if reply.status == 200:
        found = reply.json
        listed = found.get("data", found.get("result", {}).get("tools"))
        return EMPTY if listed == [] else YES
    return refused(reply)


def of_session(wire: Wire, method: str, path: str, session: str) -> str:
    """Ask for the stream of a session, or its end, and read the head of the answer alone: a stream stays open."""
    where = urlsplit(wire.base_url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=20)
    headers = {"Mcp-Session-Id": session, "MCP-Protocol-Version": LEGACY, "Accept": "text/event-stream"}
    if wire.key is not None:
        headers["Authorization"] = f"Bearer {wire.key}"
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        if response.status in (200, 202, 204):
            return YES
        found = {name.lower(): value for name, value in response.getheaders()}
        return refused(Reply(response.status, found, response.read()))
    finally:
        connection.close()


def refused(reply: Reply) -> str:
    message = reply.error["message"]
    if reply.status in (401, 403):
        challenge = reply.headers["www-authenticate"]
        assert challenge.startswith("Bearer ")
        assert "/.well-known/oauth-protected-resource/" in challenge
        assert "scope=" in challenge
        return str(reply.status)
    assert re.search(r"^(Unknown (server|model)|no such session)|does not exist", message), (reply.status, message)
    return UNKNOWN


def filled(path: str) -> str:
    for name, value in SERVED.items():
        path = path.replace(name, value)
    return re.sub(r"\{[^}]*\}", "nothing", path)


@pytest.mark.requirement("routes:matrix", "routes:roles")
@pytest.mark.parametrize("row", list(access.rows()), ids=lambda row: f"{row.method} {row.path}")
def test_every_credential_gets_at_a_route_what_the_page_says(
    running: GatewayProcess, keys: Mapping[str, str | None], row: Row
) -> None:
    agent = Wire(running.base_url, keys["agent"], filled(row.path))
    session = agent.session() if "session" in row.needs and row.path.startswith("/mcp") else None
    # The agent comes last: it may end what the others try to get at.
    for credential in sorted(access.CREDENTIALS, key=lambda name: name == "agent"):
        got = asked(Wire(running.base_url, keys[credential]), row, session)
        assert got == row.gets[credential], credential


@pytest.mark.requirement("routes:matrix", "routes:authentication")
@pytest.mark.parametrize("row", list(access.rows()), ids=lambda row: f"{row.method} {row.path}")
def test_a_credential_that_is_none_is_as_good_as_no_credential(running: GatewayProcess, row: Row) -> None:
    session = "made-up" if "session" in row.needs and row.path.startswith("/mcp") else None
    for nonsense in ("mcpgw_nobody", "a.b.c", "x"):
        assert asked(Wire(running.base_url, nonsense), row, session) == row.gets[NOBODY]
    if row.gets[NOBODY] == UNAUTHENTICATED and row.path.startswith("/admin/v1"):
        # Which operations there are is not told, either.
        for method in ("PUT", "PATCH", "OPTIONS"):
            assert Wire(running.base_url).send(method=method, path=filled(row.path)).status == 401


@pytest.mark.requirement("routes:matrix")
def test_the_page_has_every_route_of_the_application_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "mcpgw.yaml"
    path.write_text(yaml.safe_dump({**CONFIG, "data_dir": str(tmp_path / "data")}))
    served = asyncio.run(_served(path))
    described = [(row.method, row.path) for row in access.rows() if "{anything else}" not in row.path]
    assert len(described) == len(set(described))
    behind = {(method, path) for method, path in described if not path.startswith(EDGES)}
    assert behind == served


async def _served(config: Path) -> set[tuple[str, str]]:
    """Return the method and path of every route that the composed application has beside the two edges."""
    settings = load(config, environ={})
    prepare(settings)
    worker = Worker(settings, 0)
    found: set[tuple[str, str]] = set()
    try:
        operations = [(row.method, row.path) for row in access.ADMINISTERING]
        for route in worker.routes():
            assert isinstance(route, Route)
            described = [method for method, path in operations if path == route.path]
            # One that takes every method tells by its table which of them it knows.
            methods = route.methods if route.methods is not None else described
            found |= {(method, route.path) for method in methods if method not in {"HEAD", "OPTIONS"}}
    finally:
        worker.slot.close()
        worker.journal.close()
    return {(method, path) for method, path in found if not path.endswith("/{rest:path}")}
