"""The admin API in front of real parts: store, worlds, bus, kill switches, keys and credentials."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import msgspec
import pytest

from mcpgw.auth.scopes import ROLES
from mcpgw.cluster import Slot
from mcpgw.domain import Principal
from mcpgw.edge.admin import PREFIX
from mcpgw.edge.admin_openapi import document
from mcpgw.edge.admin_routes import OPERATIONS, Operation
from tests.edge.admin_parts import MAX_BODY, Gateway, running


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    async with running(tmp_path) as made:
        yield made


@pytest.fixture
async def admin(gateway: Gateway) -> AsyncIterator[httpx2.AsyncClient]:
    async with gateway.client(await gateway.key_for("admin", subject="root")) as client:
        yield client


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def path_of(operation: Operation) -> str:
    return PREFIX + re.sub(r"{\w+}", "some-name", operation.path)


def described(operation: Operation) -> str:
    return f"{operation.method} {operation.path}"


@pytest.mark.requirement("admin:authenticated")
@pytest.mark.parametrize("operation", OPERATIONS, ids=described)
async def test_no_route_answers_without_a_credential(gateway: Gateway, operation: Operation) -> None:
    async with gateway.client() as nobody:
        answer = await nobody.request(operation.method, path_of(operation))
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "unauthenticated"
    assert answer.headers["www-authenticate"].startswith("Bearer resource_metadata=")
    assert gateway.refusals == [(path_of(operation), None, "unauthenticated")]


@pytest.mark.requirement("admin:scopes")
@pytest.mark.parametrize("role", ROLES)
async def test_a_route_answers_exactly_those_whose_role_has_its_scope(gateway: Gateway, role: str) -> None:
    key = await gateway.key_for(role)
    async with gateway.client(key) as caller:
        for operation in OPERATIONS:
            answer = await caller.request(operation.method, path_of(operation))
            refused = operation.scope not in ROLES[role]
            assert (answer.status_code == 403) == refused, described(operation)
            if refused:
                assert answer.json()["error"]["data"] == {"scope": operation.scope}
                assert f'scope="{operation.scope}"' in answer.headers["www-authenticate"]
                assert gateway.refusals.pop() == (path_of(operation), "someone", "insufficient_scope")
    assert gateway.refusals == []


@pytest.mark.requirement("admin:scopes")
def test_what_changes_state_needs_the_scope_that_the_contract_names() -> None:
    needed = {(o.method, o.path): o.scope for o in OPERATIONS if o.method != "GET" and o.path != "/policies/explain"}
    assert needed.pop(("POST", "/kill-switches")) == "kill:write"
    assert needed.pop(("DELETE", "/kill-switches/{id}")) == "kill:release"
    assert needed.pop(("POST", "/servers/{slug}/versions/{version}/approve")) == "servers:approve"
    assert needed.pop(("POST", "/servers/{slug}/mark")) == "servers:approve"
    owners = {"servers": "servers:write", "toolsets": "servers:write", "policies": "policy:write"}
    owners |= {"secrets": "servers:write", "vault": "keys:write", "signing-key": "keys:write"}
    owners |= dict.fromkeys(
        ("keys", "clients", "connections", "revocations", "teams", "principals", "grants"), "keys:write"
    )
    assert {scope == owners[path.split("/")[1]] for (_, path), scope in needed.items()} == {True}


@pytest.mark.requirement("admin:revoked-key")
async def test_a_revoked_key_is_refused_on_the_next_request(gateway: Gateway, admin: httpx2.AsyncClient) -> None:
    made = (await admin.post("/admin/v1/keys", json={"subject": "eve", "roles": ["auditor"]})).json()
    async with gateway.client(made["key"]) as eve:
        assert (await eve.get("/admin/v1/keys")).status_code == 200
        ended = await admin.delete(f"/admin/v1/keys/{made['id']}", params={"reason": "left"})
        assert ended.status_code == 200
        assert (await eve.get("/admin/v1/keys")).status_code == 401


async def test_a_key_is_shown_once_and_its_list_never_holds_a_secret(admin: httpx2.AsyncClient) -> None:
    made = await admin.post("/admin/v1/keys", json={"subject": "bob", "roles": ["agent"], "team": "blue"})
    assert made.status_code == 201
    assert made.headers["cache-control"] == "no-store"
    listed = await admin.get("/admin/v1/keys")
    assert made.json()["id"] in listed.text
    assert made.json()["key"].rpartition("_")[2] not in listed.text
    rotated = await admin.post(f"/admin/v1/keys/{made.json()['id']}/rotate")
    assert rotated.status_code == 201
    assert rotated.json()["key"] != made.json()["key"]


async def test_a_client_is_created_listed_and_revoked(admin: httpx2.AsyncClient) -> None:
    new = {"client_id": "ci", "subject": "ci", "roles": ["agent"]}
    made = await admin.post("/admin/v1/clients", json=new)
    assert made.status_code == 201
    assert (await admin.post("/admin/v1/clients", json=new)).status_code == 409
    assert (await admin.request("DELETE", "/admin/v1/clients/ci", json={"reason": "leaked"})).status_code == 200
    listed = (await admin.get("/admin/v1/clients")).json()["clients"]
    assert [(c["client_id"], c["revoked_at"] is not None) for c in listed] == [("ci", True)]
    assert made.json()["client_secret"] not in json.dumps(listed)


@pytest.mark.requirement("admin:kill")
async def test_a_kill_is_answered_when_applied_and_a_release_needs_a_reason(
    gateway: Gateway, admin: httpx2.AsyncClient
) -> None:
    thrown = await admin.post(
        "/admin/v1/kill-switches", json={"scope": "tool", "selector": "notes/read_note", "reason": "drill"}
    )
    assert thrown.status_code == 200
    kill = thrown.json()
    assert kill["acknowledged"] == [{"worker": "w0", "log": "w0", "position": 7}]
    assert kill["certificate"]["switch"] == kill["id"]
    assert gateway.worlds.current.epoch == kill["epoch"]
    assert [s.id for s in gateway.worlds.current.switches.standing] == [kill["id"]]
    assert (await admin.delete(f"/admin/v1/kill-switches/{kill['id']}")).status_code == 400
    released = await admin.delete(f"/admin/v1/kill-switches/{kill['id']}", params={"reason": "over"})
    assert released.status_code == 200
    assert (await admin.get("/admin/v1/kill-switches")).json() == {"kill_switches": []}
    everything = await admin.get("/admin/v1/kill-switches", params={"include_released": "true"})
    assert [k["release_reason"] for k in everything.json()["kill_switches"]] == ["over"]


@pytest.mark.requirement("admin:kill-missing")
async def test_a_kill_that_a_worker_has_not_applied_is_202_with_its_name(
    gateway: Gateway, admin: httpx2.AsyncClient, tmp_path: Path
) -> None:
    # A second worker that holds its slot, answers nothing, and whose recorded process cannot be proven dead.
    silent = Slot(tmp_path / "run", 1, gateway.epochs)
    gateway.epochs.occupy(1, 2**22 + 1)
    try:
        thrown = await admin.post(
            "/admin/v1/kill-switches", json={"scope": "global", "selector": "*", "reason": "drill"}
        )
    finally:
        silent.close()
    assert thrown.status_code == 202
    assert thrown.json()["missing"] == ["w1"]
    assert thrown.json()["certificate"] is None


async def test_a_dry_run_changes_nothing(gateway: Gateway, admin: httpx2.AsyncClient) -> None:
    before = gateway.worlds.current.epoch
    answer = await admin.post(
        "/admin/v1/kill-switches", json={"scope": "server", "selector": "notes", "reason": "drill", "dry_run": True}
    )
    assert (answer.status_code, answer.json()["dry_run"]) == (200, True)
    assert gateway.worlds.current.epoch == before


@pytest.mark.requirement("admin:strict")
@pytest.mark.parametrize(
    ("body", "code", "fix"),
    [
        (b'{"scop":"tool","selector":"a/b","reason":"r"}', "invalid_request", "did you mean `scope`?"),
        (b'{"scope":"tool","scope":"global","selector":"*","reason":"r"}', "invalid_request", "give each key once"),
        (
            b'{"scope":"tool","sc\\u006fpe":"global","selector":"*","reason":"r"}',
            "invalid_request",
            "give each key once",
        ),
        (b'{"scope":"planet","selector":"*","reason":"r"}', "invalid_params", "one of: global, server, version"),
        (b'{"scope":"tool","selector":"a/b"}', "invalid_params", "NewKill in /admin/openapi.json"),
        (b'{"scope":"tool","selector":"a/b","reason":""}', "invalid_params", "NewKill in /admin/openapi.json"),
        (b'{"scope":"tool","selector":"a/b","reason":"r","dry_run":"yes"}', "invalid_params", "NewKill"),
        (b'{"scope":"tool","selector":"a/b","reason":"r","expires_in_s":-1}', "invalid_params", "NewKill"),
        (b"not json", "parse_error", "send one JSON object"),
        (b"[]", "invalid_request", "send one JSON object"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "invalid_request", "flatten"),
    ],
)
async def test_a_body_that_is_not_exactly_right_is_refused_with_its_fix(
    gateway: Gateway, admin: httpx2.AsyncClient, body: bytes, code: str, fix: str
) -> None:
    before = gateway.worlds.current.epoch
    answer = await admin.post("/admin/v1/kill-switches", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)
    assert fix in answer.json()["error"]["fix"]
    assert gateway.worlds.current.epoch == before


async def test_a_query_is_as_strict_as_a_body(admin: httpx2.AsyncClient) -> None:
    unknown = await admin.get("/admin/v1/audit", params={"sinc": "1"})
    assert (unknown.status_code, unknown.json()["error"]["fix"]) == (400, "did you mean `since`?")
    assert (await admin.get("/admin/v1/audit?limit=1&limit=2")).status_code == 400
    assert (await admin.get("/admin/v1/audit", params={"limit": "0"})).status_code == 400
    assert (await admin.get("/admin/v1/audit", params={"since": "yesterday"})).status_code == 400
    assert (await admin.post("/admin/v1/servers/notes/disable?force=1")).status_code == 400


async def test_times_of_a_query_are_seconds_or_rfc_3339(gateway: Gateway, admin: httpx2.AsyncClient) -> None:
    answer = await admin.get("/admin/v1/audit", params={"since": "1970-01-01T00:01:00Z", "until": "90.5", "limit": "5"})
    assert answer.status_code == 200
    assert gateway.noted.asked == [("query", ({"limit": 5, "since": 60.0, "until": 90.5},), {})]


@pytest.mark.requirement("admin:size")
async def test_a_body_beyond_the_limit_is_refused_declared_or_not(admin: httpx2.AsyncClient) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(MAX_BODY // 1000 + 1):
            yield b" " * 1000

    declared = await admin.post("/admin/v1/policies", content=b" " * (MAX_BODY + 1))
    streamed = await admin.post("/admin/v1/policies", content=chunks())
    assert [a.status_code for a in (declared, streamed)] == [413, 413]


@pytest.mark.requirement("admin:size")
async def test_a_stranger_is_not_even_listened_to_when_the_body_is_too_large(gateway: Gateway) -> None:
    async with gateway.client() as nobody:
        assert (await nobody.post("/admin/v1/policies", content=b" " * (MAX_BODY + 1))).status_code == 413


async def test_a_body_of_another_type_is_refused(admin: httpx2.AsyncClient) -> None:
    answer = await admin.post("/admin/v1/keys", content=b'{"subject":"a","roles":["agent"]}')
    assert answer.status_code == 415
    assert answer.json()["error"]["fix"] == "send Content-Type: application/json"


async def test_authentication_comes_before_the_content(gateway: Gateway) -> None:
    async with gateway.client() as nobody:
        assert (await nobody.post("/admin/v1/keys", content=b"rubbish")).status_code == 401
        assert (await nobody.get("/admin/v1/nothing")).status_code == 401
        assert (await nobody.put("/admin/v1/keys")).status_code == 401


async def test_an_unknown_path_or_method_is_said_in_json(admin: httpx2.AsyncClient) -> None:
    missing = await admin.get("/admin/v1/serverz")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    wrong = await admin.put("/admin/v1/keys", json={})
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET, POST")


async def test_what_nobody_foresaw_is_a_500_without_its_words(admin: httpx2.AsyncClient) -> None:
    answer = await admin.get("/admin/v1/servers/broken")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal")
    assert "machine room" not in answer.text


async def test_a_services_own_error_keeps_message_and_fix(admin: httpx2.AsyncClient) -> None:
    answer = await admin.get("/admin/v1/servers/nobody")
    assert answer.status_code == 404
    assert answer.json() == {
        "error": {"code": "not_found", "message": "no server `nobody`", "fix": "mcpgw servers list", "data": {}}
    }


async def test_each_operation_of_the_registry_gets_what_was_asked(gateway: Gateway, admin: httpx2.AsyncClient) -> None:
    base = "/admin/v1/servers"
    new = {"slug": "files", "url": "https://files.example/mcp", "tags": ["a"], "trust": "internal"}
    auth = {"mode": "user"}
    assert (await admin.post(base, json=new)).status_code == 201
    assert (await admin.post(f"{base}/files/versions", json={"version": "1.0.0", "auth": auth})).status_code == 201
    await admin.post(f"{base}/files/versions/1.0.0/approve", json={"force": True})
    await admin.post(f"{base}/files/versions/1.0.0/activate")
    await admin.post(f"{base}/files/mark", json={"idempotent": ["get"]})
    await admin.post(f"{base}/files/disable")
    await admin.post(f"{base}/files/rollback")
    await admin.delete(f"{base}/files")
    assert [(name, args[1:], given) for name, args, given in gateway.noted.asked] == [
        ("add", ("files",), {"url": new["url"], "title": "", "tags": ["a"], "trust": "internal", "auth": None}),
        ("publish", ("files",), {"version": "1.0.0", "url": None, "auth": auth}),
        ("approve", ("files", "1.0.0"), {"force": True}),
        ("activate", ("files", "1.0.0"), {}),
        ("mark", ("files",), {"idempotent": ["get"]}),
        ("disable", ("files",), {}),
        ("rollback", ("files",), {}),
        ("remove", ("files",), {}),
    ]
    assert {args[0].subject for _, args, _ in gateway.noted.asked if isinstance(args[0], Principal)} == {"root"}
    assert (await admin.get(base)).json() == {"servers": [{"slug": "notes"}]}
    compared = await admin.get(f"{base}/notes/diff", params={"from": "1.0.0", "to": "1.1.0"})
    assert compared.json() == {"slug": "notes", "between": ["1.0.0", "1.1.0"]}


@pytest.mark.requirement("admin:health")
async def test_health_and_readiness_need_no_credential(gateway: Gateway) -> None:
    async with gateway.client() as nobody:
        assert (await nobody.get("/healthz")).json() == {"status": "ok"}
        ready = await nobody.get("/readyz")
        assert (ready.status_code, ready.json()) == (200, {"ready": True, "store": "ok"})
        gateway.standing.is_ready = False
        unready = await nobody.get("/readyz")
        assert (unready.status_code, unready.json()["ready"]) == (503, False)


@pytest.mark.requirement("admin:dev-warning")
async def test_readiness_warns_of_the_mode_without_authentication(gateway: Gateway) -> None:
    async with gateway.client(dev_no_auth=True) as nobody:
        assert "everyone may do everything" in (await nobody.get("/readyz")).json()["warnings"][0]


@pytest.mark.requirement("admin:openapi")
async def test_the_description_names_every_operation_its_scope_and_its_body(gateway: Gateway) -> None:
    async with gateway.client() as nobody:
        description = (await nobody.get("/admin/openapi.json")).json()
    assert description == msgspec.json.decode(msgspec.json.encode(document(OPERATIONS, PREFIX)))
    found = {
        (method.upper(), path, row["x-required-scope"])
        for path, rows in description["paths"].items()
        for method, row in rows.items()
    }
    assert found == {(o.method, PREFIX + o.path, o.scope) for o in OPERATIONS}
    text = json.dumps(description)
    schemas = description["components"]["schemas"]
    assert all(name in schemas for name in re.findall(r"#/components/schemas/(\w+)", text))
    assert schemas["NewKill"]["required"] == ["scope", "selector", "reason"]
    assert schemas["NewKill"]["additionalProperties"] is False
