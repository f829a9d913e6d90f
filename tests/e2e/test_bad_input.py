"""Input that makes no sense, to a real gateway over raw HTTP: one clear error each, with a fix, and no traceback."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from mcpgw.errors import InvalidRequest
from tests.cli.parts import mcpgw
from tests.e2e.wire import LEGACY, META, MODERN, PREFIX, Reply, Wire, modern_headers, request
from tests.harness import GatewayProcess

CALL = {"name": "greet", "arguments": {"name": "you"}}
HEADERS = modern_headers("tools/call", CALL)
BODY = json.dumps(request("tools/call", {**CALL, "_meta": META}))
MEGABYTE = 1024 * 1024
Case = tuple[str | bytes, Mapping[str, str | None], int, int]


def deep(levels: int) -> str:
    """Return a call whose JSON is nested so many levels deep."""
    inner = levels - 3  # the message, its params and the arguments are one level each
    return BODY.replace('"you"', "[" * inner + "]" * inner)


def sized(size: int) -> str:
    """Return a call of so many bytes."""
    return BODY.replace('"you"', '"' + "x" * (size - len(BODY) + 3) + '"')


def changed(**members: Any) -> str:
    """Return the call with members of its message changed."""
    return json.dumps({**json.loads(BODY), **members})


def enveloped(meta: Any, method: str = "tools/call", **params: Any) -> str:
    return json.dumps(request(method, {**(params or CALL), "_meta": meta}))


def headers(**changes: str | None) -> dict[str, str | None]:
    return {**HEADERS, **{name.replace("_", "-"): value for name, value in changes.items()}}


FUTURE = "2099-01-01"
OTHER_META = {PREFIX + "protocolVersion": FUTURE, PREFIX + "clientCapabilities": {}}

# The shape of a request: body, headers, status, JSON-RPC code. Said before anyone is asked who they are.
SHAPE: Mapping[str, Case] = {
    "not JSON": ("{not json", HEADERS, 400, -32700),
    "empty": ("", HEADERS, 400, -32700),
    "not UTF-8": (b'{"jsonrpc":"2.0","id":1,"method":"\xff"}', HEADERS, 400, -32700),
    "byte order mark": (b"\xef\xbb\xbf" + BODY.encode(), HEADERS, 400, -32700),
    "NaN": (BODY.replace('"you"', "NaN"), HEADERS, 400, -32700),
    "infinite": (BODY.replace('"you"', "-Infinity"), HEADERS, 400, -32700),
    "beyond all numbers": (BODY.replace('"you"', "1e400"), HEADERS, 400, -32700),
    "lone surrogate": (BODY.replace("you", "\\ud800"), HEADERS, 400, -32700),
    "two values": (BODY + BODY, HEADERS, 400, -32700),
    "duplicate key": (BODY.replace('"id": 1', '"id": 1, "id": 2'), HEADERS, 400, -32600),
    "duplicate key in arguments": (BODY.replace('"name": "you"', '"name": "a", "name": "b"'), HEADERS, 400, -32600),
    "duplicate key in disguise": (
        BODY.replace('"name": "you"', '"name": "a", "n\\u0061me": "b"'),
        HEADERS,
        400,
        -32600,
    ),
    "65 levels": (deep(65), HEADERS, 400, -32600),
    "100,000 levels": ("[" * 100_000, HEADERS, 400, -32600),
    "a byte over 1 MB": (sized(MEGABYTE + 1), HEADERS, 413, -31013),
    "batch": (f"[{BODY}]", HEADERS, 400, -32600),
    "a string": ('"hello"', HEADERS, 400, -32600),
    "no jsonrpc": (changed(jsonrpc="1.0"), HEADERS, 400, -32600),
    "id null": (changed(id=None), HEADERS, 400, -32600),
    "id fraction": (changed(id=1.5), HEADERS, 400, -32600),
    "id boolean": (changed(id=True), HEADERS, 400, -32600),
    "method is no string": (changed(method=7), HEADERS, 400, -32600),
    "neither request nor answer": ('{"jsonrpc":"2.0","id":1}', HEADERS, 400, -32600),
    "a modern client answers": ('{"jsonrpc":"2.0","id":1,"result":{}}', HEADERS, 400, -32600),
    "media type": (BODY, headers(Content_Type="text/plain"), 415, -31015),
    "accepts JSON alone": (BODY, headers(Accept="application/json"), 406, -31006),
    "compressed": (BODY, headers(Content_Encoding="gzip"), 415, -31015),
}

# Its content: said to those alone who showed a credential.
CONTENT: Mapping[str, Case] = {
    "unknown method": (enveloped(META, "tools/destroy"), headers(Mcp_Method="tools/destroy"), 404, -32601),
    "method of the past": (enveloped(META, "ping"), headers(Mcp_Method="ping"), 404, -32601),
    "handshake of the future": (enveloped(META, "initialize"), headers(Mcp_Method="initialize"), 404, -32601),
    "unknown version": (enveloped(OTHER_META), headers(MCP_Protocol_Version=FUTURE), 400, -32022),
    "version in the header alone": (BODY, headers(MCP_Protocol_Version=FUTURE), 400, -32020),
    "version in the body alone": (enveloped(OTHER_META), HEADERS, 400, -32020),
    "no version header": (BODY, headers(MCP_Protocol_Version=None), 400, -32020),
    "header of the past": (BODY, headers(MCP_Protocol_Version=LEGACY), 400, -32020),
    "no Mcp-Method": (BODY, headers(Mcp_Method=None), 400, -32020),
    "another Mcp-Method": (BODY, headers(Mcp_Method="tools/list"), 400, -32020),
    "Mcp-Method in capitals": (BODY, headers(Mcp_Method="TOOLS/CALL"), 400, -32020),
    "no Mcp-Name": (BODY, headers(Mcp_Name=None), 400, -32020),
    "another Mcp-Name": (BODY, headers(Mcp_Name="test_simple_text"), 400, -32020),
    "Mcp-Name that is no base64": (BODY, headers(Mcp_Name="=?base64?Z3JlZXQ?="), 400, -32020),
    "no _meta": (json.dumps(request("tools/call", CALL)), HEADERS, 400, -32602),
    "_meta is no object": (enveloped("x"), HEADERS, 400, -32602),
    "no version in _meta": (enveloped({PREFIX + "clientCapabilities": {}}), HEADERS, 400, -32602),
    "no capabilities": (enveloped({PREFIX + "protocolVersion": MODERN}), HEADERS, 400, -32602),
    "capabilities are a list": (enveloped({**META, PREFIX + "clientCapabilities": []}), HEADERS, 400, -32602),
    "unknown log level": (enveloped({**META, PREFIX + "logLevel": "loud"}), HEADERS, 400, -32602),
    "params are a list": (changed(params=[]), HEADERS, 400, -32602),
    "no name": (enveloped(META, arguments={}), headers(Mcp_Name=None), 400, -32602),
    "name is a number": (enveloped(META, name=7), headers(Mcp_Name="7"), 400, -32020),
    "arguments are a list": (enveloped(META, name="greet", arguments=[]), HEADERS, 400, -32602),
    "unknown tool": (enveloped(META, name="nothing"), headers(Mcp_Name="nothing"), 400, -32602),
}


@pytest.fixture
def wire(gate: GatewayProcess) -> Wire:
    return Wire(gate.base_url, gate.agent_key, "/mcp/everything")


def check_clear(reply: Reply, status: int, code: int) -> None:
    """Check that an answer is one JSON-RPC error in words, and nothing else."""
    assert (reply.status, reply.code) == (status, code), reply.body
    assert reply.json["jsonrpc"] == "2.0"
    assert len(reply.error["message"]) > 5
    assert not {"Traceback", "mcpgw.", "msgspec", "Error("} & set(reply.body.decode().split())


@pytest.mark.requirement("bad-input:shape")
@pytest.mark.parametrize("case", SHAPE.values(), ids=SHAPE)
def test_a_request_of_no_possible_shape_is_told_so(wire: Wire, case: Case) -> None:
    body, given, status, code = case
    check_clear(wire.send(body, given), status, code)


@pytest.mark.requirement("bad-input:content")
@pytest.mark.parametrize("case", CONTENT.values(), ids=CONTENT)
def test_a_request_that_contradicts_the_protocol_is_told_so(wire: Wire, case: Case) -> None:
    body, given, status, code = case
    reply = wire.send(body, given)
    check_clear(reply, status, code)
    assert reply.json["id"] == 1
    if code == -32022:
        assert reply.error["data"]["supported"] == [MODERN]
        assert reply.error["data"]["requested"] == FUTURE


@pytest.mark.requirement("bad-input:stranger")
@pytest.mark.parametrize("key", [None, "nonsense", "mcpgw_0123456789ab_" + "x" * 43])
@pytest.mark.parametrize("case", CONTENT.values(), ids=CONTENT)
def test_a_stranger_learns_nothing_about_the_content_of_a_request(wire: Wire, case: Case, key: str | None) -> None:
    body, given, _, _ = case
    reply = Wire(wire.base_url, key, wire.path).send(body, given)
    assert (reply.status, reply.code) == (401, -31001)
    assert reply.headers["www-authenticate"].startswith("Bearer ")


@pytest.mark.requirement("sdk:receipts")
def test_an_error_of_the_server_itself_has_its_receipt_beside_it(gate: GatewayProcess, wire: Wire) -> None:
    """Its body is the server's own, byte for byte."""
    reply = wire.modern("prompts/get", {"name": "test_prompt_with_arguments", "arguments": {"arg1": "alone"}})
    assert (reply.status, reply.error) == (400, {"code": -32602, "message": "missing prompt arguments: arg2"})
    log, index, leaf = reply.headers["mcpgw-receipt"].split("/")
    outcome = gate.admin.get("/audit", server="everything", tool="test_prompt_with_arguments")["records"][0]
    assert (outcome["log"], outcome["index"], outcome["leaf"]) == (log, int(index), leaf)


@pytest.mark.requirement("bad-input:limits")
def test_what_is_just_within_the_limits_is_served(wire: Wire) -> None:
    assert "result" in wire.send(BODY, HEADERS).json
    assert "result" in wire.send(sized(MEGABYTE), HEADERS).json
    assert "result" in wire.send(deep(64), HEADERS).json
    assert "result" in wire.send(BODY, headers(Mcp_Name="=?base64?Z3JlZXQ=?=")).json


@pytest.mark.requirement("bad-input:legacy")
def test_a_client_with_a_handshake_is_told_in_the_words_of_its_era(wire: Wire) -> None:
    session = wire.session()
    plain = json.dumps(request("tools/list"))
    told = {
        "no session": (wire.send(plain), 400, -32600),
        "unknown session": (wire.legacy("nonsense", "tools/list"), 404, -32600),
        "session of elsewhere": (Wire(wire.base_url, wire.key, "/mcp").legacy(session, "tools/list"), 404, -32600),
        "unknown method": (wire.legacy(session, "tools/destroy"), 200, -32601),
        "method of the future": (wire.legacy(session, "server/discover"), 200, -32601),
        "unknown tool": (wire.legacy(session, "tools/call", {"name": "nothing"}), 200, -32602),
        "no name": (wire.legacy(session, "tools/call", {}), 200, -32602),
        "an answer to nothing": (
            wire.send('{"jsonrpc":"2.0","id":99,"result":{}}', {"Mcp-Session-Id": session}),
            400,
            -32600,
        ),
        "a batch": (wire.send(f"[{plain}]", {"Mcp-Session-Id": session}), 400, -32600),
    }
    for what, (reply, status, code) in told.items():
        assert (reply.status, reply.code) == (status, code), what
    assert wire.legacy(session, "ping").json["result"] == {}


@pytest.mark.requirement("bad-input:legacy")
def test_a_session_belongs_to_whoever_opened_it(gate: GatewayProcess, wire: Wire) -> None:
    session = wire.session()
    _, stolen_by = gate.new_key("thief")
    thief = Wire(wire.base_url, stolen_by, wire.path)
    assert thief.legacy(session, "tools/list").status == 404
    assert thief.send(headers={"Mcp-Session-Id": session}, method="DELETE").status == 404
    assert "result" in wire.legacy(session, "tools/list").json
    ended = wire.send(headers={"Mcp-Session-Id": session}, method="DELETE")
    assert (ended.status, ended.body) == (200, b"")
    assert wire.legacy(session, "tools/list").status == 404


@pytest.mark.requirement("bad-input:methods")
def test_other_http_methods_are_refused_by_name(wire: Wire) -> None:
    for method in ("PUT", "PATCH", "OPTIONS"):
        reply = wire.send(BODY, HEADERS, method=method)
        assert (reply.status, reply.headers["allow"]) == (405, "GET, POST, DELETE")
    for method in ("GET", "DELETE"):
        assert wire.send(method=method).status == 405  # without a session


@pytest.mark.requirement("bad-input:policy")
def test_a_broken_policy_is_refused_whole_and_the_one_in_force_stays(gate: GatewayProcess, wire: Wire) -> None:
    def active() -> list[str]:
        return [policy["sha256"] for policy in gate.admin.get("/policies")["policies"] if policy["active"]]

    before = active()
    for text, said in (
        ("package mcpgw.authz\n\ndecision := {", "house.rego"),
        ('package mcpgw.authz\n\ndecision := {"effect": "allow"} if http.send({"url": "x"})\n', "http.send"),
        ("package somewhere.else\n\ndecision := 1\n", "mcpgw.authz"),
    ):
        with pytest.raises(InvalidRequest) as refused:
            gate.admin.post("/policies", {"files": {"house.rego": text}, "activate": True})
        assert said in str(refused.value)
        assert refused.value.fix
    assert active() == before
    assert "result" in wire.send(BODY, HEADERS).json


@pytest.mark.requirement("bad-input:admin")
def test_an_unknown_key_in_the_admin_api_is_refused_with_the_nearest_known_one(gate: GatewayProcess) -> None:
    admin = Wire(gate.base_url, gate.admin_key, "/admin/v1/servers")
    refused = admin.send('{"slug": "new", "ulr": "http://127.0.0.1:1/mcp"}')
    assert (refused.status, refused.error["code"]) == (400, "invalid_request")
    assert (refused.error["message"], refused.error["fix"]) == ("unknown key `ulr`", "did you mean `url`?")


@pytest.mark.requirement("bad-input:start")
async def test_a_configuration_with_an_unknown_key_ends_the_start_with_the_nearest_known_one(tmp_path: Path) -> None:
    path = tmp_path / "mcpgw.yaml"
    path.write_text(yaml.safe_dump({"data_dir": str(tmp_path / "data"), "server": {"prot": 8080}}))
    for command, code in (("serve", 2), ("check-config", 1)):
        ran = await mcpgw(command, "--config", str(path), cwd=tmp_path)
        assert ran.code == code
        assert "unknown key `server.prot`; did you mean `port`?" in ran.out + ran.err
    assert not (tmp_path / "data").exists()


@pytest.mark.requirement("bad-input:start")
async def test_a_port_in_use_ends_the_start_with_how_to_choose_another(gate: GatewayProcess, tmp_path: Path) -> None:
    port = gate.base_url.rpartition(":")[2]
    ran = await mcpgw("serve", "--port", port, "--dir", str(tmp_path / "data"), cwd=tmp_path)
    assert ran.code == 2
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in ran.err
    assert "--port" in ran.err
