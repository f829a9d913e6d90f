"""A real API's own document as a server: Swagger's pet store, governed like any MCP server, with real clients."""

from __future__ import annotations

import http.client
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import pytest
from anyio.to_thread import run_sync
from mcp import MCPError

from tests.e2e.agents import DECISION, MODERN, agent, names, receipt_of, text_of
from tests.e2e.client import Client
from tests.fixtures.processes import running
from tests.harness import ROOT, GatewayProcess, gateway, until
from tests.tools import Missing, npm_package

ERAS = ["legacy", MODERN]
KEY = "operators-own-key"
POLICY = """package mcpgw.authz

default decision := {"effect": "deny", "reasons": ["default-deny"]}

decision := {"effect": "allow", "reasons": ["seen"]} if input.phase == "list"

decision := {"effect": "allow", "reasons": ["pets"]} if {
	input.phase == "call"
	not snake
}

decision := {"effect": "deny", "reasons": ["no-snakes"], "message": "No snakes, please."} if {
	input.phase == "call"
	snake
}

snake if input.arguments.body.category.name == "snakes"
"""
OPERATIONS = {
    *("addPet", "updatePet", "findPetsByStatus", "findPetsByTags", "getPetById", "updatePetWithForm", "deletePet"),
    *("uploadFile", "getInventory", "placeOrder", "getOrderById", "deleteOrder", "createUser", "logoutUser"),
    *("createUsersWithArrayInput", "createUsersWithListInput", "loginUser", "getUserByName", "updateUser"),
    "deleteUser",
}


@dataclass(frozen=True)
class Store:
    """The stub of the API, as it testifies, and the document that the gateway has of it."""

    base_url: str
    document: Path

    def requests(self, at_least: int = 0) -> list[dict[str, Any]]:
        """Return what has arrived, once there is so much."""
        found: list[dict[str, Any]] = self._ask(f"/control/requests?at_least={at_least}")
        return found

    def hang_ups(self, at_least: int) -> list[str]:
        found: list[str] = self._ask(f"/control/hang_ups?at_least={at_least}")
        return found

    def rewrite(self, tree: Any) -> None:
        aside = self.document.with_suffix(".new")
        aside.write_text(json.dumps(tree))
        aside.replace(self.document)

    def _ask(self, target: str) -> Any:
        where = urlsplit(self.base_url)
        connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=30)
        try:
            connection.request("GET", target)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    try:
        original = npm_package("documents", "@readme/oas-examples") / "3.0" / "json" / "petstore.json"
    except Missing as missing:
        pytest.skip(str(missing))
    home = tmp_path_factory.mktemp("store")
    document = home / "petstore.json"
    document.write_bytes(original.read_bytes())
    with running([sys.executable, "-m", "tests.fixtures.rest_api"], log=home / "api.log", cwd=ROOT) as api:
        yield Store(api.url, document)


@pytest.fixture(scope="module")
def gate(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    home = tmp_path_factory.mktemp("gateway")
    (home / "key").write_text(KEY)
    pets = {
        "name": "pets",
        "document": str(store.document),
        "base_url": f"{store.base_url}/v2",
        "headers": {"X-Api-Key": f"file:{home / 'key'}"},
        "title": "Pet store",
    }
    config = {"registry": {"openapi": [pets], "drift_check_s": 0.5}}
    with gateway(home / "gate", config=config, policy={"pets.rego": POLICY}, workers=2) as made:
        made.publish("pets")
        yield made
        assert "Traceback" not in made.output()


@pytest.mark.requirement("openapi:governed")
@pytest.mark.parametrize("mode", ERAS)
@pytest.mark.parametrize("prefix", ["", "pets__"])
async def test_every_operation_is_listed_to_clients_of_both_eras(gate: GatewayProcess, mode: str, prefix: str) -> None:
    url = gate.mcp_url if prefix else gate.server_url("pets")
    async with agent(url, gate.agent_key, mode=mode) as client:
        tools = (await client.list_tools()).tools
    assert names(tools) == {prefix + name for name in OPERATIONS}
    by_name = {tool.name.removeprefix(prefix): tool for tool in tools}
    assert by_name["getPetById"].input_schema["required"] == ["petId"]
    assert by_name["getPetById"].annotations is not None
    assert by_name["getPetById"].annotations.read_only_hint is True
    assert by_name["addPet"].input_schema["$defs"]["Pet"]["required"] == ["name", "photoUrls"]


@pytest.mark.requirement("openapi:governed")
@pytest.mark.parametrize("mode", ERAS)
async def test_calls_arrive_as_the_requests_that_the_document_describes(
    gate: GatewayProcess, store: Store, mode: str
) -> None:
    pet = {"id": 7, "name": "Ada & Bob", "photoUrls": [], "status": "available"}
    before = len(store.requests())
    async with agent(gate.server_url("pets"), gate.agent_key, mode=mode) as client:
        added = await client.call_tool("addPet", {"body": pet})
        found = await client.call_tool("getPetById", {"petId": 7})
        several = await client.call_tool("findPetsByStatus", {"status": ["available", "sold"]})
        await client.call_tool("updatePetWithForm", {"petId": 7, "body": {"name": "A & B", "status": "sold"}})
        uploaded = await client.call_tool("uploadFile", {"petId": 7, "body": {"additionalMetadata": "ü"}})
        user = await client.call_tool("getUserByName", {"username": "a/b ü"})
        deleted = await client.call_tool("deletePet", {"petId": 7})
        missing = await client.call_tool("getPetById", {"petId": 7})
    assert found.structured_content == pet
    assert json.loads(text_of(added)) == pet
    assert json.loads(text_of(several)) == [pet]
    assert uploaded.structured_content == {"code": 200, "type": "unknown", "message": "ok"}
    assert user.structured_content == {"id": 1, "username": "a%2Fb%20%C3%BC"}
    assert (text_of(deleted), deleted.is_error) == ("", False)
    assert missing.is_error
    assert text_of(missing) == 'The API answered HTTP 404.\n{"code":1,"type":"error","message":"Pet not found"}'
    arrived = store.requests()[before:]
    assert [request["line"] for request in arrived] == [
        "POST /v2/pet HTTP/1.1",
        "GET /v2/pet/7 HTTP/1.1",
        "GET /v2/pet/findByStatus?status=available&status=sold HTTP/1.1",
        "POST /v2/pet/7 HTTP/1.1",
        "POST /v2/pet/7/uploadImage HTTP/1.1",
        "GET /v2/user/a%2Fb%20%C3%BC HTTP/1.1",
        "DELETE /v2/pet/7 HTTP/1.1",
        "GET /v2/pet/7 HTTP/1.1",
    ]
    assert json.loads(arrived[0]["body"]) == pet
    assert arrived[3]["body"] == "name=A+%26+B&status=sold"
    assert 'name="additionalMetadata"' in arrived[4]["body"]


@pytest.mark.requirement("openapi:credentials")
@pytest.mark.parametrize("mode", ERAS)
async def test_the_api_sees_the_operators_key_and_nothing_of_the_caller(
    gate: GatewayProcess, store: Store, mode: str
) -> None:
    async with agent(gate.server_url("pets"), gate.agent_key, mode=mode) as client:
        result = await client.call_tool("getInventory", {})
    request = store.requests()[-1]
    headers = dict(request["headers"])
    assert len(headers) == len(request["headers"])
    assert set(headers) == {"host", "accept", "accept-encoding", "user-agent", "x-api-key"}
    assert headers["x-api-key"] == KEY
    assert gate.agent_key not in json.dumps(request)
    assert KEY not in result.model_dump_json()


@pytest.mark.requirement("openapi:governed")
@pytest.mark.parametrize("mode", ERAS)
async def test_a_policy_decides_on_what_is_deep_inside_a_body(gate: GatewayProcess, store: Store, mode: str) -> None:
    before = len(store.requests())
    snake = {"name": "Sid", "photoUrls": [], "category": {"id": 1, "name": "snakes"}}
    async with agent(gate.server_url("pets"), gate.agent_key, mode=mode) as client:
        result = await client.call_tool("addPet", {"body": snake})
    assert result.is_error
    assert text_of(result) == "No snakes, please."
    assert result.meta is not None
    decision = result.meta[DECISION]
    assert (decision["effect"], decision["rule"]) == ("deny", "no-snakes")
    (record,) = gate.admin.get(f"/audit/{decision['decision_id']}")["records"]
    assert (record["phase"], record["name"], record["reasons"]) == ("refused", "addPet", ["no-snakes"])
    assert len(store.requests()) == before


@pytest.mark.requirement("openapi:validation")
@pytest.mark.parametrize("mode", ERAS)
@pytest.mark.parametrize(
    ("tool", "arguments", "said"),
    [
        ("getPetById", {"petId": "seven"}, "petId: the value is not of type"),
        ("addPet", {"body": {"name": "x"}}, 'body: "photoUrls" is a required property'),
        ("addPet", {"body": {"name": "x", "photoUrls": []}, "force": True}, "'force' was unexpected"),
        ("getUserByName", {"username": "../store/inventory"}, "would lead to another path"),
        ("getUserByName", {"username": "%2e%2e%2fpet"}, "would lead to another path"),
        ("deletePet", {"petId": 7, "api_key": "x\r\nX-Evil: 1"}, "api_key: a header value is"),
    ],
)
async def test_arguments_that_do_not_fit_reach_no_api(
    gate: GatewayProcess, store: Store, mode: str, tool: str, arguments: dict[str, Any], said: str
) -> None:
    before = len(store.requests())
    async with agent(gate.server_url("pets"), gate.agent_key, mode=mode) as client:
        result = await client.call_tool(tool, arguments)
    assert result.is_error
    assert said in text_of(result)
    assert len(store.requests()) == before


@pytest.mark.requirement("openapi:governed")
async def test_a_call_is_recorded_before_and_after(gate: GatewayProcess) -> None:
    async with agent(gate.server_url("pets"), gate.agent_key) as client:
        fine = receipt_of(await client.call_tool("getInventory", {}))
        failed = receipt_of(await client.call_tool("getPetById", {"petId": 404}))
    records = gate.admin.get("/audit?server=pets&limit=500")["records"]
    by_place = {(record["log"], record["index"]): record for record in records}
    for receipt, tool, outcome, status in (
        (fine, "getInventory", "ok", 200),
        (failed, "getPetById", "tool_error", 404),
    ):
        ended = by_place[receipt.log, receipt.index]
        assert (ended["phase"], ended["outcome"]) == ("outcome", outcome)
        assert ended["facts"]["upstream_status"] == status
        phases = [(r["phase"], r["name"]) for r in gate.admin.get(f"/audit/{ended['action_id']}")["records"]]
        assert phases == [("intent", tool), ("outcome", tool)]


@pytest.mark.requirement("openapi:governed")
async def test_a_kill_cuts_the_call_that_waits_for_the_api_and_refuses_the_next(
    gate: GatewayProcess, store: Store
) -> None:
    before = len(store.requests())
    answers: list[Any] = []

    def wait_for_the_order() -> None:
        with Client(gate.base_url, gate.agent_key, "/mcp/pets") as client:
            answers.append(client.call("getOrderById", orderId=9))

    with ExitStack() as stack:
        waiting = threading.Thread(target=wait_for_the_order)
        waiting.start()
        stack.callback(waiting.join)
        await run_sync(store.requests, before + 1)
        kill = {"scope": "tool", "selector": "pets/getOrderById", "mode": "hard", "reason": "test"}
        killed = await run_sync(gate.admin.post, "/kill-switches", kill)
        stack.callback(gate.admin.delete, f"/kill-switches/{killed['id']}", {"reason": "over"})
        await run_sync(waiting.join)
        assert await run_sync(store.hang_ups, 1) == ["/v2/store/order/9"]
        assert len(killed["may_have_taken_effect"]) == 1
        with Client(gate.base_url, gate.agent_key, "/mcp/pets") as client:
            again = client.call("getOrderById", orderId=1)
            assert "getOrderById" not in client.tools()
            assert client.call("getInventory").ok
    assert [answer.reason for answer in (*answers, again)] == ["killed", "killed"]
    assert [r["line"] for r in store.requests()[before:]] == [
        "GET /v2/store/order/9 HTTP/1.1",
        "GET /v2/store/inventory HTTP/1.1",
    ]


@pytest.mark.requirement("openapi:governed", "openapi:eras")
@pytest.mark.parametrize("mode", ERAS)
async def test_clients_of_both_eras_hear_that_a_tool_was_killed(gate: GatewayProcess, mode: str) -> None:
    with ExitStack() as stack:
        client = stack.enter_context(Client(gate.base_url, gate.agent_key, "/mcp/pets"))
        if mode == "legacy":
            client.initialize()
        stream = await run_sync(client.listen)
        kill = {"scope": "tool", "selector": "pets/loginUser", "mode": "hard", "reason": "test"}
        killed = await run_sync(gate.admin.post, "/kill-switches", kill)
        stack.callback(gate.admin.delete, f"/kill-switches/{killed['id']}", {"reason": "over"})
        await run_sync(stream.wait_for, "notifications/tools/list_changed")


@pytest.mark.requirement("openapi:governed", "openapi:pinned")
async def test_a_changed_document_quarantines_its_tools_until_a_version_of_it_is_approved(
    gate: GatewayProcess, store: Store
) -> None:
    def quarantined() -> list[str]:
        return sorted(q["tool"] for q in gate.admin.get("/servers/pets")["quarantined"] if q["version"] == active)

    original = json.loads(store.document.read_text())
    changed = json.loads(store.document.read_text())
    changed["paths"]["/store/stock"] = changed["paths"].pop("/store/inventory")
    del changed["paths"]["/user/logout"]
    active = gate.admin.get("/servers/pets")["active"]
    try:
        store.rewrite(changed)
        await run_sync(
            until, lambda: quarantined() == ["getInventory", "logoutUser"], "the drift check finds the change"
        )
        async with agent(gate.server_url("pets"), gate.agent_key) as client:
            for tool in ("getInventory", "logoutUser"):
                with pytest.raises(MCPError) as refused:
                    await client.call_tool(tool, {})
                assert refused.value.error.code == -31102
            goes_on = await client.call_tool("findPetsByStatus", {"status": ["available"]})
        assert not goes_on.is_error
        fresh = gate.publish("pets")
        assert fresh != active
        difference = gate.admin.get(f"/servers/pets/diff?from={active}&to={fresh}")
        assert difference["removed"] == ["logoutUser"]
        (moved,) = difference["changed"]
        assert moved["tool"] == "getInventory"
        assert {
            "where": "/_meta/io.mcpgw~1openapi/operation",
            "from": '"GET /store/inventory"',
            "to": '"GET /store/stock"',
        } in moved["changes"]
        async with agent(gate.server_url("pets"), gate.agent_key) as client:
            assert "logoutUser" not in names((await client.list_tools()).tools)
            for _ in range(8):  # whichever worker takes it
                assert not (await client.call_tool("getInventory", {})).is_error
        with anyio.fail_after(10):
            assert store.requests()[-1]["line"] == "GET /v2/store/stock HTTP/1.1"
    finally:
        store.rewrite(original)
        gate.publish("pets")
