"""From an HTTP request to what an MCP client asks: every rung of the ladder, both eras on one URL."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.shared.inbound import InboundLadderRejection, classify_inbound_request, encode_header_value

from mcpgw.domain import Verb
from mcpgw.edge.mcp_request import HANDSHAKE, LOG_LEVELS, MODERN, McpRequest, check_media, read_request
from mcpgw.edge.strict_json import JsonLimits
from mcpgw.errors import (
    GatewayError,
    HeaderMismatch,
    InvalidParams,
    InvalidRequest,
    MethodNotFound,
    NotAcceptable,
    ParseError,
    UnsupportedMedia,
    UnsupportedVersion,
)

VERSION = "2026-07-28"
PREFIX = "io.modelcontextprotocol/"
MEDIA = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
ENVELOPE = {PREFIX + "protocolVersion": VERSION, PREFIX + "clientCapabilities": {}}
NAMED = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
GONE = ["initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe", "tasks/list", "nope"]
KEPT = {
    "server/discover": Verb.DISCOVER,
    "tools/list": Verb.TOOLS_LIST,
    "tools/call": Verb.TOOLS_CALL,
    "prompts/list": Verb.PROMPTS_LIST,
    "prompts/get": Verb.PROMPTS_GET,
    "resources/list": Verb.RESOURCES_LIST,
    "resources/templates/list": Verb.RESOURCE_TEMPLATES_LIST,
    "resources/read": Verb.RESOURCES_READ,
    "completion/complete": Verb.COMPLETE,
    "subscriptions/listen": Verb.LISTEN,
}
LEGACY = {
    "initialize": Verb.INITIALIZE,
    "ping": Verb.PING,
    "logging/setLevel": Verb.SET_LEVEL,
    "resources/subscribe": Verb.RESOURCES_SUBSCRIBE,
    "resources/unsubscribe": Verb.RESOURCES_UNSUBSCRIBE,
    **{method: verb for method, verb in KEPT.items() if verb not in {Verb.DISCOVER, Verb.LISTEN}},
}


def read(message: object, headers: dict[str, str | None] | None = None) -> McpRequest:
    """Read a message (bytes as they are); a header that is None is left out."""
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    given = {name: value for name, value in {**MEDIA, **(headers or {})}.items() if value is not None}
    check_media(given)
    return read_request(given, body, JsonLimits())


def modern(
    method: str = "tools/call",
    params: dict[str, Any] | None = None,
    *,
    meta: Any = None,
    headers: dict[str, str | None] | None = None,
    **message: Any,
) -> McpRequest:
    """Read a well-formed request of a modern client, but for what is given."""
    params = {"name": "read", "uri": "notes://a", "notifications": {}} if params is None else params
    named = params.get(NAMED.get(method, ""))
    given: dict[str, str | None] = {
        "mcp-protocol-version": VERSION,
        "mcp-method": method,
        "mcp-name": named if isinstance(named, str) else None,
    }
    envelope = ENVELOPE if meta is None else meta
    whole = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": envelope}, **message}
    return read(whole, {**given, **(headers or {})})


def legacy(method: str = "tools/call", params: Any = None, **message: Any) -> McpRequest:
    params = {"name": "read", "uri": "notes://a"} if params is None else params
    return read(
        {"jsonrpc": "2.0", "id": 1, "method": method, "params": params, **message},
        {"mcp-protocol-version": "2025-11-25", "mcp-session-id": "s"},
    )


def defect(request: McpRequest, kind: type[GatewayError]) -> GatewayError:
    assert type(request.defect) is kind, request.defect
    return request.defect


# The shape of a request: told to anyone


@pytest.mark.requirement("mcp:media")
@pytest.mark.parametrize(
    "media", [None, "", "text/plain", "application/jsonx", "text/json", "application/x-www-form-urlencoded"]
)
def test_a_body_that_is_not_called_json_is_refused(media: str | None) -> None:
    with pytest.raises(UnsupportedMedia):
        read({}, {"content-type": media})


@pytest.mark.requirement("mcp:media")
@pytest.mark.parametrize("media", ["application/json", "Application/JSON", "application/json; charset=utf-8"])
def test_json_is_recognised_as_rfc_9110_writes_media_types(media: str) -> None:
    assert modern(headers={"content-type": media}).defect is None


@pytest.mark.requirement("mcp:media")
@pytest.mark.parametrize("accept", [None, "", "application/json", "text/event-stream", "text/html"])
def test_a_client_must_accept_both_forms_of_an_answer(accept: str | None) -> None:
    with pytest.raises(NotAcceptable):
        modern(headers={"accept": accept})


@pytest.mark.requirement("mcp:media")
@pytest.mark.parametrize(
    "accept", ["*/*", "text/event-stream, application/json", "Text/Event-Stream;q=1,Application/JSON"]
)
def test_both_forms_may_be_accepted_in_any_spelling(accept: str) -> None:
    assert modern(headers={"accept": accept}).defect is None


@pytest.mark.requirement("mcp:json-rpc")
@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (b"", ParseError),
        (b"{", ParseError),
        (b"[]", InvalidRequest),
        ([{"jsonrpc": "2.0", "id": 1, "method": "ping"}], InvalidRequest),
        ({}, InvalidRequest),
        ({"id": 1, "method": "ping"}, InvalidRequest),
        ({"jsonrpc": "1.0", "id": 1, "method": "ping"}, InvalidRequest),
        ({"jsonrpc": 2.0, "id": 1, "method": "ping"}, InvalidRequest),
        ({"jsonrpc": "2.0", "id": None, "method": "ping"}, InvalidRequest),
        ({"jsonrpc": "2.0", "id": 1.5, "method": "ping"}, InvalidRequest),
        ({"jsonrpc": "2.0", "id": True, "method": "ping"}, InvalidRequest),
        ({"jsonrpc": "2.0", "id": [1], "method": "ping"}, InvalidRequest),
        ({"jsonrpc": "2.0", "id": 1, "method": 7}, InvalidRequest),
        ({"jsonrpc": "2.0", "id": 1, "method": None}, InvalidRequest),
        ({"jsonrpc": "2.0", "id": 1}, InvalidRequest),
        ({"jsonrpc": "2.0", "result": {}}, InvalidRequest),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call"}', InvalidRequest),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_no_json_rpc_message_is_refused_whoever_asks(message: object, expected: type[GatewayError]) -> None:
    with pytest.raises(expected):
        read(message)


@pytest.mark.requirement("mcp:json-rpc")
@pytest.mark.parametrize("request_id", ["1", '"a"', '"\\u00e4"', "-7", "18446744073709551615", '""'])
@pytest.mark.parametrize("era", [VERSION, "2025-11-25"])
def test_a_request_id_is_kept_as_the_very_bytes(request_id: str, era: str) -> None:
    body = f'{{"jsonrpc":"2.0","id": {request_id} ,"method":"tools/list","params":{{"_meta":{json.dumps(ENVELOPE)}}}}}'
    assert read(body.encode(), {"mcp-protocol-version": era, "mcp-method": "tools/list"}).id == request_id.encode()


@pytest.mark.requirement("mcp:json-rpc")
@pytest.mark.parametrize("params", [[], None, "x", 1])
@pytest.mark.parametrize("era", [VERSION, "2025-11-25"])
def test_parameters_that_are_no_object_are_a_defect_of_either_era(params: object, era: str) -> None:
    request = read({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": params}, {"mcp-protocol-version": era})
    defect(request, InvalidParams)
    assert request.modern == (era == VERSION)
    assert request.id == b"1"


# The ladder of a modern request: told only to an authenticated caller


@pytest.mark.requirement("mcp:ladder")
@pytest.mark.parametrize("method", KEPT)
def test_a_request_that_passes_every_rung_is_read(method: str) -> None:
    request = modern(method)
    assert (request.defect, request.modern, request.verb) == (None, True, KEPT[method])
    assert request.name == {"tools/call": "read", "prompts/get": "read", "resources/read": "notes://a"}.get(method)


RUNGS: list[tuple[str, type[GatewayError], dict[str, Any]]] = [
    ("`_meta` is no object", InvalidParams, {"meta": []}),
    ("no version in it", InvalidParams, {"meta": {PREFIX + "clientCapabilities": {}}}),
    ("no capabilities in it", InvalidParams, {"meta": {PREFIX + "protocolVersion": VERSION}}),
    ("no version header", HeaderMismatch, {"headers": {"mcp-protocol-version": None}}),
    ("another version header", HeaderMismatch, {"headers": {"mcp-protocol-version": "2025-11-25"}}),
    ("another version in the body", HeaderMismatch, {"meta": {**ENVELOPE, PREFIX + "protocolVersion": "2026-07-29"}}),
    ("a version that is no string", HeaderMismatch, {"meta": {**ENVELOPE, PREFIX + "protocolVersion": 20260728}}),
    ("a null version", HeaderMismatch, {"meta": {**ENVELOPE, PREFIX + "protocolVersion": None}}),
    ("no method header", HeaderMismatch, {"headers": {"mcp-method": None}}),
    ("another method header", HeaderMismatch, {"headers": {"mcp-method": "tools/list"}}),
    ("the method in other case", HeaderMismatch, {"headers": {"mcp-method": "Tools/Call"}}),
    ("no name header", HeaderMismatch, {"headers": {"mcp-name": None}}),
    ("another name header", HeaderMismatch, {"headers": {"mcp-name": "write"}}),
    ("a name that is no string", HeaderMismatch, {"params": {"name": 7}, "headers": {"mcp-name": "7"}}),
    ("no name at all", InvalidParams, {"params": {}}),
    ("a null name", InvalidParams, {"params": {"name": None}}),
    ("arguments that are no object", InvalidParams, {"params": {"name": "read", "arguments": [1]}}),
    ("capabilities that are no object", InvalidParams, {"meta": {**ENVELOPE, PREFIX + "clientCapabilities": []}}),
    ("client info that is no object", InvalidParams, {"meta": {**ENVELOPE, PREFIX + "clientInfo": "me"}}),
    ("an unknown log level", InvalidParams, {"meta": {**ENVELOPE, PREFIX + "logLevel": "loud"}}),
]  # fmt: skip


@pytest.mark.requirement("mcp:ladder")
@pytest.mark.parametrize(("kind", "how"), [rung[1:] for rung in RUNGS], ids=[rung[0] for rung in RUNGS])
def test_a_request_that_misses_a_rung_says_which(kind: type[GatewayError], how: dict[str, Any]) -> None:
    request = modern(**how)
    defect(request, kind)
    assert request.modern
    assert request.id == b"1"


@pytest.mark.requirement("mcp:ladder")
@pytest.mark.parametrize("version", ["2026-07-29", "2099-01-01", "nonsense", ""])
def test_a_version_that_nobody_serves_is_refused_with_those_that_are_served(version: str) -> None:
    request = modern(meta={**ENVELOPE, PREFIX + "protocolVersion": version}, headers={"mcp-protocol-version": version})
    error = defect(request, UnsupportedVersion)
    assert error.data == {"supported": list(MODERN), "requested": version}
    assert error.wire.jsonrpc == -32022


@pytest.mark.requirement("mcp:ladder")
@pytest.mark.parametrize("method", GONE)
def test_a_method_that_this_era_does_not_have_is_not_found(method: str) -> None:
    error = defect(modern(method), MethodNotFound)
    assert (error.wire.status, error.wire.jsonrpc) == (404, -32601)


@pytest.mark.requirement("mcp:ladder")
def test_a_request_that_is_called_a_notification_is_not_found() -> None:
    defect(modern("notifications/cancelled"), MethodNotFound)


METHODS = [*KEPT, "ping", "nope"]
NAMES = ["a", "ä", "=?base64?YQ==?="]
ENVELOPES = st.fixed_dictionaries(
    {},
    optional={
        PREFIX + "protocolVersion": st.sampled_from([VERSION, "2025-11-25", "2099-01-01", 7, None]),
        PREFIX + "clientCapabilities": st.just({}),
    },
)


@pytest.mark.requirement("mcp:ladder")
@given(
    method=st.sampled_from(METHODS),
    params=st.fixed_dictionaries({}, optional={"name": st.sampled_from([*NAMES, 7, None]), "uri": st.just("n://a")}),
    meta=st.none() | st.just([]) | ENVELOPES,
    version=st.sampled_from([VERSION, "2099-01-01", None]),
    said=st.sampled_from(["same", None, *METHODS]),
    name=st.sampled_from([None, "=?base64?w6Q?=", *NAMES, *map(encode_header_value, NAMES)]),
)
def test_the_ladder_agrees_with_the_protocols_own_implementation(
    method: str, params: dict[str, Any], meta: Any, version: str | None, said: str | None, name: str | None
) -> None:
    """The SDK's ladder is the oracle for each request that both see as a modern one."""
    headers = {"mcp-protocol-version": version, "mcp-method": method if said == "same" else said, "mcp-name": name}
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": meta}}
    ours = read(body, headers)
    if not ours.modern:
        assert version is None
        return
    theirs = classify_inbound_request(body, headers={k: v for k, v in headers.items() if v is not None})
    if isinstance(theirs, InboundLadderRejection):
        assert ours.defect is not None
        assert ours.defect.wire.jsonrpc == theirs.code
        assert theirs.data is None or ours.defect.data == theirs.data
    else:
        # Beyond the SDK's ladder come the method's own rules.
        assert not isinstance(ours.defect, HeaderMismatch | UnsupportedVersion)


# The base64 sentinel of header values


@pytest.mark.requirement("mcp:sentinel")
@given(st.text(min_size=1, max_size=20).filter(lambda name: not any("\ud800" <= c <= "\udfff" for c in name)))
def test_a_name_may_come_in_base64_and_must_when_it_would_not_survive_a_header(name: str) -> None:
    encoded = "=?base64?" + base64.b64encode(name.encode()).decode() + "?="
    assert modern(params={"name": name}, headers={"mcp-name": encoded}).defect is None
    assert modern(params={"name": name}, headers={"mcp-name": encode_header_value(name)}).defect is None


@pytest.mark.requirement("mcp:sentinel")
@pytest.mark.parametrize(
    "value",
    [
        "=?base64?cmVhZA?=",  # no padding
        "=?base64?cmVhZA=?=",
        "=?base64?cmVhZB==?=",  # bits that are left over
        "=?base64?cmVh ZA==?=",
        "=?base64?cmVhZA==\n?=",
        "=?base64?cmVhZA==?",
        "=?BASE64?cmVhZA==?=",
        "=?base64?_-8=?=",  # the other alphabet
        "=?base64?/w==?=",  # no UTF-8
        "=?base64??=",
        "cmVhZA==",
    ],
)
def test_a_malformed_sentinel_matches_nothing(value: str) -> None:
    defect(modern(headers={"mcp-name": value}), HeaderMismatch)


@pytest.mark.requirement("mcp:sentinel")
def test_a_name_that_looks_like_the_sentinel_must_be_encoded() -> None:
    literal = "=?base64?cmVhZA==?="
    defect(modern(params={"name": literal}, headers={"mcp-name": literal}), HeaderMismatch)
    assert modern(params={"name": literal}, headers={"mcp-name": encode_header_value(literal)}).defect is None


# What is read


@pytest.mark.requirement("mcp:judged-is-sent")
@pytest.mark.parametrize("era", ["modern", "legacy"])
def test_arguments_and_forwarded_parameters_are_the_very_bytes_that_came(era: str) -> None:
    arguments = b'{ "n":1.50,"\\u00e4":[ 1e3 ],"big":12345678901234567890 }'
    state = b'"opaque \\u0041"'
    body = (
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read","arguments":%b,"requestState":%b,"x":1'
        % (
            arguments,
            state,
        )
    )
    if era == "modern":
        body += b',"_meta":%b' % json.dumps(ENVELOPE).encode()
        headers = {"mcp-protocol-version": VERSION, "mcp-method": "tools/call", "mcp-name": "read"}
    else:
        headers = {"mcp-protocol-version": "2025-06-18"}
    request = read(body + b"}}", headers)
    assert request.defect is None
    assert request.modern == (era == "modern")
    assert request.arguments.raw == arguments
    assert request.forwarded == {"requestState": state}


@pytest.mark.requirement("mcp:judged-is-sent")
@pytest.mark.parametrize("arguments", [{}, {"arguments": None}, {"arguments": {}}])
def test_no_arguments_are_an_empty_object(arguments: dict[str, Any]) -> None:
    assert modern(params={"name": "read", **arguments}).arguments.raw == b"{}"


@pytest.mark.requirement("mcp:judged-is-sent")
def test_what_a_client_says_of_itself_is_kept_apart_from_its_own_meta() -> None:
    meta = {
        **ENVELOPE,
        PREFIX + "clientCapabilities": {"elicitation": {}},
        PREFIX + "clientInfo": {"name": "c", "version": "1"},
        PREFIX + "logLevel": "info",
        "progressToken": 7,
        "traceparent": "00-1",
    }
    request = modern(meta=meta, headers={"mcp-param-region": "eu", "x-other": "1"})
    facts = request.client
    assert facts is not None
    assert (facts.protocol_version, facts.modern, facts.log_level) == (VERSION, True, "info")
    assert json.loads(facts.capabilities) == {"elicitation": {}}
    assert json.loads(facts.info) == {"name": "c", "version": "1"}
    assert json.loads(facts.meta) == {"progressToken": 7, "traceparent": "00-1"}
    assert facts.headers == {"mcp-param-region": "eu"}


@pytest.mark.requirement("mcp:judged-is-sent")
@pytest.mark.parametrize("level", LOG_LEVELS)
def test_every_log_level_of_the_protocol_is_known(level: str) -> None:
    request = modern(meta={**ENVELOPE, PREFIX + "logLevel": level})
    assert request.client is not None
    assert request.client.log_level == level


@pytest.mark.requirement("mcp:ladder")
@pytest.mark.parametrize("notifications", [None, [], "tools", 1])
def test_a_subscription_says_in_an_object_what_it_wants(notifications: object) -> None:
    defect(modern("subscriptions/listen", {"notifications": notifications}), InvalidParams)
    defect(modern("subscriptions/listen", {}), InvalidParams)


# Two eras on one URL


@pytest.mark.requirement("mcp:eras")
@pytest.mark.parametrize(("header", "in_body", "expected"), [
    (None, None, False),
    *((version, None, False) for version in HANDSHAKE),
    (VERSION, None, True),
    ("2099-01-01", None, True),
    ("2024-11-05", None, True),
    (None, VERSION, True),
    ("2025-11-25", VERSION, True),
    (None, "2025-11-25", True),
])  # fmt: skip
def test_the_version_in_header_or_envelope_tells_the_eras_apart(
    header: str | None, in_body: str | None, expected: bool
) -> None:
    meta = {} if in_body is None else {"_meta": {**ENVELOPE, PREFIX + "protocolVersion": in_body}}
    request = read(
        {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": meta}, {"mcp-protocol-version": header}
    )
    assert request.modern == expected
    if not expected:
        assert request.defect is None


@pytest.mark.requirement("mcp:eras")
@pytest.mark.parametrize("header", [None, *HANDSHAKE, "2099-01-01", "2024-11-05"])
def test_a_handshake_without_an_envelope_is_one_whatever_version_its_header_hopes_for(header: str | None) -> None:
    params = {"protocolVersion": "2099-01-01", "capabilities": {"roots": {}}, "clientInfo": {"name": "c"}, "x": 1}
    request = read(
        {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}, {"mcp-protocol-version": header}
    )
    assert (request.defect, request.modern, request.verb) == (None, False, Verb.INITIALIZE)
    assert {k: json.loads(v) for k, v in request.forwarded.items()} == {k: params[k] for k in params if k != "x"}


@pytest.mark.requirement("mcp:eras")
@pytest.mark.parametrize("method", LEGACY)
def test_every_method_of_the_handshake_era_is_read_without_routing_headers(method: str) -> None:
    request = legacy(method)
    assert (request.defect, request.modern, request.verb) == (None, False, LEGACY[method])


@pytest.mark.requirement("mcp:eras")
@pytest.mark.parametrize("method", ["server/discover", "subscriptions/listen", "tasks/list", "nope"])
def test_a_method_that_the_handshake_era_does_not_have_is_not_found(method: str) -> None:
    defect(legacy(method), MethodNotFound)


@pytest.mark.requirement("mcp:eras")
@pytest.mark.parametrize("member", ["result", "error"])
def test_a_client_of_the_handshake_era_may_answer_a_request_of_the_server(member: str) -> None:
    body = b'{"jsonrpc":"2.0","id":"r1","%b":{ "a":1 }}' % member.encode()
    request = read(body, {"mcp-protocol-version": "2025-06-18"})
    assert (request.verb, request.modern, request.id) == (Verb.ANSWER, False, b'"r1"')
    assert request.forwarded == {member: b'{ "a":1 }'}
    with pytest.raises(InvalidRequest):
        read(body, {"mcp-protocol-version": VERSION})


@pytest.mark.requirement("mcp:notifications")
@pytest.mark.parametrize(
    ("method", "verb", "passed"),
    [
        ("notifications/initialized", Verb.INITIALIZED, {}),
        ("notifications/cancelled", Verb.CANCELLED, {"requestId", "reason"}),
        ("notifications/progress", Verb.PROGRESS, {"progressToken", "progress"}),
        ("notifications/roots/list_changed", Verb.ROOTS_CHANGED, {}),
    ],
)
def test_the_notifications_of_the_handshake_era_are_read(method: str, verb: Verb, passed: set[str]) -> None:
    params = {"requestId": 1, "reason": "r", "progressToken": "t", "progress": 0.5, "other": 1}
    request = read({"jsonrpc": "2.0", "method": method, "params": params}, {"mcp-protocol-version": "2025-11-25"})
    assert (request.verb, request.id, request.defect) == (verb, None, None)
    assert set(request.forwarded) == set(passed)


@pytest.mark.requirement("mcp:notifications")
@pytest.mark.parametrize("method", ["notifications/other", "tools/call", "initialize"])
def test_a_notification_that_is_not_known_is_accepted_and_goes_no_further(method: str) -> None:
    """Not even as another one: `initialized` is what the gateway keeps to itself."""
    params = {"name": "delete", "arguments": {"a": 1}, "progressToken": "t", "progress": 1, "requestId": 1}
    request = read({"jsonrpc": "2.0", "method": method, "params": params}, {"mcp-protocol-version": "2025-11-25"})
    assert (request.verb, request.id, request.defect, request.forwarded) == (Verb.INITIALIZED, None, None, {})


@pytest.mark.requirement("mcp:notifications")
@pytest.mark.parametrize("method", ["notifications/cancelled", "notifications/other", "tools/call"])
def test_a_modern_notification_is_accepted_and_dropped(method: str) -> None:
    params = {"name": "read", "progressToken": "t", "progress": 1, "_meta": ENVELOPE}
    request = read(
        {"jsonrpc": "2.0", "method": method, "params": params},
        {"mcp-protocol-version": VERSION, "mcp-method": method, "mcp-name": "read"},
    )
    assert (request.modern, request.id, request.defect, request.forwarded) == (True, None, None, {})
    assert request.name is None
    assert request.arguments.raw == b"{}"


@pytest.mark.requirement("mcp:eras")
@pytest.mark.parametrize("meta", [[], "x", 1, None])
def test_the_meta_of_the_handshake_era_is_an_object(meta: object) -> None:
    defect(legacy("tools/list", {"_meta": meta}), InvalidParams)


@pytest.mark.requirement("mcp:eras")
def test_the_meta_of_the_handshake_era_is_kept_as_it_came() -> None:
    body = b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{ "progressToken":1.0 }}}'
    assert read(body).meta == b'{ "progressToken":1.0 }'
