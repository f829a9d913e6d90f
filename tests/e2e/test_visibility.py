"""What a caller may not see is answered like what nobody has, on every method."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from tests.e2e.wire import Reply, Wire, request
from tests.harness import GatewayProcess

# Each pair: what is there for insiders alone, and what nobody has.
TOOLS = ("json_schema_2020_12_tool", "json_schema_2020_12_fool")
PROMPTS = ("test_prompt_with_image", "test_prompt_with_damage")
RESOURCES = ("test://static-binary", "test://static-fishery")
SERVERS = ("vault", "fault")

ABOUT_TOOLS = {
    "plain": {},
    "with arguments": {"arguments": {"contactMethod": "phone"}},
    "with a state": {"requestState": "x", "inputResponses": {}},
}
ABOUT_SERVERS: Mapping[str, Mapping[str, Any]] = {
    "server/discover": {},
    "tools/list": {},
    "tools/call": {"name": "greet", "arguments": {"name": "you"}},
    "prompts/list": {},
    "prompts/get": {"name": "test_simple_prompt"},
    "resources/list": {},
    "resources/templates/list": {},
    "resources/read": {"uri": "test://static-text"},
    "completion/complete": {
        "ref": {"type": "ref/prompt", "name": "test_simple_prompt"},
        "argument": {"name": "a", "value": ""},
    },
    "subscriptions/listen": {"notifications": {"toolsListChanged": True}},
    "no/such/method": {},
}
# The answer's own place in the log, and its framing: another one when a request was relayed to its session's worker.
CHANGING = frozenset({"mcpgw-receipt", "content-length", "transfer-encoding"})


@pytest.fixture
def caller(gate: GatewayProcess) -> Wire:
    return Wire(gate.base_url, gate.agent_key)


@pytest.fixture
def insider(gate: GatewayProcess) -> Wire:
    return Wire(gate.base_url, gate.new_key("insider", "agent", "insider")[1])


@pytest.fixture(params=["by the policy", "by the key"])
def outsider(request: pytest.FixtureRequest, gate: GatewayProcess) -> Wire:
    """A caller to whom `vault` does not exist: because of the policy, or because the key is for other servers."""
    if request.param == "by the policy":
        return Wire(gate.base_url, gate.agent_key)
    wanted = {"subject": "narrow", "roles": ["agent", "insider"], "servers": ["everything", "other"]}
    return Wire(gate.base_url, gate.admin.post("/keys", wanted)["key"])


def at(wire: Wire, path: str) -> Wire:
    return Wire(wire.base_url, wire.key, path)


def told(reply: Reply, name: str) -> tuple[int, dict[str, str], Any]:
    """Return what an answer tells, apart from the name that was asked for, and from its own place in the log."""
    body = json.loads(reply.body.replace(name.encode(), b"NAME"))
    body.get("error", {}).get("data", {}).pop("receipt", None)
    return reply.status, {k: v.replace(name, "NAME") for k, v in reply.headers.items() if k not in CHANGING}, body


@pytest.mark.requirement("visibility:tools")
@pytest.mark.parametrize("about", ABOUT_TOOLS.values(), ids=ABOUT_TOOLS)
@pytest.mark.parametrize("path", ["/mcp/everything", "/mcp/everything@1.0.0", "/mcp"])
def test_a_hidden_tool_is_answered_like_one_that_nobody_has(
    caller: Wire, insider: Wire, path: str, about: Mapping[str, Any]
) -> None:
    prefix = "everything__" if path == "/mcp" else ""
    wire = at(caller, path)
    session = wire.session()
    modern = [told(wire.modern("tools/call", {"name": prefix + name, **about}), name) for name in TOOLS]
    legacy = [told(wire.legacy(session, "tools/call", {"name": prefix + name, **about}), name) for name in TOOLS]
    assert modern[0] == modern[1]
    assert legacy[0] == legacy[1]
    assert (modern[0][0], legacy[0][0]) == (400, 200)
    for _, _, body in (*modern, *legacy):
        assert (body["error"]["code"], body["error"]["message"]) == (-32602, f"Unknown tool: {prefix}NAME")
    assert "result" in at(insider, path).modern("tools/call", {"name": prefix + TOOLS[0]}).json


@pytest.mark.requirement("visibility:tools", "keys:servers")
def test_a_tool_of_a_hidden_server_is_answered_like_one_of_a_server_that_nobody_has(
    outsider: Wire, insider: Wire
) -> None:
    session = outsider.session()
    for ask in (outsider.modern, lambda method, params: outsider.legacy(session, method, params)):
        hidden, missing = (told(ask("tools/call", {"name": f"{name}__greet"}), name) for name in SERVERS)
        assert hidden == missing
        assert hidden[2]["error"]["message"] == "Unknown tool: NAME__greet"
    assert "result" in insider.modern("tools/call", {"name": "vault__greet", "arguments": {"name": "you"}}).json


@pytest.mark.requirement("visibility:names")
@pytest.mark.parametrize(
    ("method", "key", "names"),
    [
        ("prompts/get", "name", PROMPTS),
        ("resources/read", "uri", RESOURCES),
        ("resources/subscribe", "uri", RESOURCES),
        ("resources/unsubscribe", "uri", RESOURCES),
    ],
)
def test_a_hidden_prompt_or_resource_is_answered_like_one_that_nobody_has(
    caller: Wire, insider: Wire, method: str, key: str, names: tuple[str, str]
) -> None:
    wire = at(caller, "/mcp/everything")
    session = wire.session()
    hidden, missing = (told(wire.legacy(session, method, {key: name}), name) for name in names)
    assert hidden == missing
    assert (hidden[0], hidden[2]["error"]["code"]) == (200, -32602)
    hidden, missing = (told(wire.modern(method, {key: name}), name) for name in names)
    assert hidden == missing
    assert hidden[2]["error"]["code"] == (-32601 if "subscribe" in method else -32602)
    other = at(insider, "/mcp/everything")
    assert "result" in other.legacy(other.session(), method, {key: names[0]}).json


@pytest.mark.requirement("visibility:names")
def test_what_is_hidden_cannot_be_completed_or_listened_to(caller: Wire, insider: Wire) -> None:
    """The names stand within the parameters there: RFC 6570 templates and prompts in `ref`, URIs in a filter."""
    wire, other = at(caller, "/mcp/everything"), at(insider, "/mcp/everything")
    session = wire.session()
    for kind, key, names in (("ref/prompt", "name", PROMPTS), ("ref/resource", "uri", RESOURCES)):
        asked = [{"ref": {"type": kind, key: name}, "argument": {"name": "x", "value": "p"}} for name in names]
        for ask in (wire.modern, lambda method, params: wire.legacy(session, method, params)):
            hidden, missing = (
                told(ask("completion/complete", params), name) for params, name in zip(asked, names, strict=True)
            )
            assert hidden == missing
            assert hidden[2]["error"]["code"] == -32602
        assert "result" in other.modern("completion/complete", asked[0]).json
    hidden, missing = (
        told(wire.modern("subscriptions/listen", {"notifications": {"resourceSubscriptions": [name]}}), name)
        for name in RESOURCES
    )
    assert hidden == missing
    assert (hidden[0], hidden[2]["error"]["code"]) == (400, -32602)


@pytest.mark.requirement("visibility:names")
def test_lists_hold_nothing_that_is_hidden(caller: Wire) -> None:
    wire = at(caller, "/mcp/everything")
    session = wire.session()
    for method, hidden in (
        ("tools/list", TOOLS[0]),
        ("prompts/list", PROMPTS[0]),
        ("resources/list", RESOURCES[0]),
    ):
        for reply in (wire.modern(method), wire.legacy(session, method)):
            assert reply.json["result"]
            assert hidden.encode() not in reply.body


@pytest.mark.requirement("visibility:names", "keys:servers")
def test_lists_over_all_servers_hold_nothing_of_a_hidden_one(outsider: Wire) -> None:
    session = outsider.session()
    for method in ("tools/list", "prompts/list", "resources/list", "resources/templates/list"):
        for reply in (outsider.modern(method), outsider.legacy(session, method)):
            assert b"everything" in reply.body
            assert b"vault" not in reply.body


@pytest.mark.requirement("visibility:servers", "keys:servers")
@pytest.mark.parametrize("method", ABOUT_SERVERS)
def test_a_hidden_server_is_answered_like_one_that_nobody_has(outsider: Wire, method: str) -> None:
    for suffix in ("", "@1.0.0"):
        hidden, missing = (
            told(at(outsider, f"/mcp/{name}{suffix}").modern(method, ABOUT_SERVERS[method]), name) for name in SERVERS
        )
        assert hidden == missing
        assert hidden[0] in {400, 404}


@pytest.mark.requirement("visibility:servers", "keys:servers")
def test_a_hidden_server_cannot_be_told_by_a_handshake_or_by_what_comes_without_one(outsider: Wire) -> None:
    """Nor by a session of another endpoint, a credential that is none, or a request that makes no sense."""
    elsewhere = at(outsider, "/mcp/everything").session()
    stranger = Wire(outsider.base_url, "mcpgw_nobody")
    answers = []
    for name in SERVERS:
        wire, outside = at(outsider, f"/mcp/{name}"), at(stranger, f"/mcp/{name}")
        session = {"Mcp-Session-Id": elsewhere}
        replies = [
            wire.initialize(),
            wire.legacy(elsewhere, "tools/list"),
            wire.legacy("nonsense", "ping"),
            wire.send(json.dumps(request("tools/list"))),
            wire.send(b"not json"),
            wire.send(b'{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}'),
            wire.send(headers={**session, "Accept": "text/event-stream"}, method="GET"),
            wire.send(headers=session, method="DELETE"),
            wire.send(method="GET"),
            outside.initialize(),
            outside.modern("tools/list"),
        ]
        answers.append([told(reply, name) for reply in replies])
    for hidden, missing in zip(*answers, strict=True):
        assert hidden == missing
    assert [status for status, _, _ in answers[0]] == [400, 404, 404, 400, 400, 200, 404, 404, 405, 401, 401]


@pytest.mark.requirement("visibility:servers")
def test_discovery_says_the_same_of_every_server(caller: Wire) -> None:
    hidden, missing = (
        told(caller.send(method="GET", path=f"/.well-known/oauth-protected-resource/mcp/{name}"), name)
        for name in SERVERS
    )
    assert hidden == missing
    assert hidden[0] == 200
