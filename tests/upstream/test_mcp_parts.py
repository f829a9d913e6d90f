"""The pure functions between judged values and wire text."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.shared.inbound import decode_header_value, encode_header_value, mcp_param_headers, x_mcp_header_map

from mcpgw.domain import PartKind, Verb
from mcpgw.errors import InvalidParams
from mcpgw.mirrored import encoded, headers_of
from mcpgw.upstream.mcp_parts import Asked, params_of, read_message, with_subscription
from mcpgw.upstream.stdio_log import escaped
from tests.upstream.calls import permit, version

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(), JSON, max_size=4)


@pytest.mark.requirement("upstream:envelope")
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_name_survives_a_header_as_the_sdk_reads_it(name: str) -> None:
    value = encoded(name)
    assert decode_header_value(value.decode("ascii")) == name
    assert name == "" or value.decode("ascii") == encode_header_value(name)


@pytest.mark.requirement("upstream:judged-bytes")
@given(OBJECTS, st.text(st.characters(exclude_categories=["Cs"])), OBJECTS)
def test_params_hold_what_was_judged_and_nothing_else(arguments: object, name: str, context: object) -> None:
    raw = json.dumps(arguments).encode()
    forwarded = {"context": json.dumps(context).encode(), "#id": b"1"}
    action = permit(version("x"), Verb.TOOLS_CALL, name=name, forwarded=forwarded).judged.action
    params = params_of(action, raw, b'{"a":1}')
    assert raw in params
    assert json.loads(params) == {"name": name, "arguments": arguments, "context": context, "_meta": {"a": 1}}


@pytest.mark.requirement("upstream:judged-bytes")
@pytest.mark.parametrize("smuggled", ["name", "uri", "arguments", "_meta"])
def test_a_forwarded_member_cannot_take_the_place_of_a_judged_one(smuggled: str) -> None:
    action = permit(version("x"), Verb.TOOLS_CALL, name="t", forwarded={smuggled: b'"evil"'}).judged.action
    with pytest.raises(InvalidParams):
        params_of(action, b"{}", b"")


@pytest.mark.requirement("upstream:judged-bytes")
@given(OBJECTS, st.integers(0, 3))
def test_the_bytes_of_a_result_are_the_servers_own(result: object, indent: int) -> None:
    asked = Asked(Verb.RESOURCES_READ, "srv", "modern")
    raw = json.dumps(result, indent=indent or None).encode()
    message = read_message(b'{"jsonrpc":"2.0","result":%b,"id":%d}' % (raw, asked.id))
    assert message is not None
    assert asked.answer(message, PartKind.WHOLE).body == raw


@pytest.mark.requirement("upstream:rubbish")
@given(st.binary(max_size=80))
def test_any_bytes_are_a_message_or_none(data: bytes) -> None:
    message = read_message(data)
    assert message is None or json.loads(data)["jsonrpc"] == "2.0"


@pytest.mark.requirement("upstream:streams")
def test_a_subscription_id_is_replaced_where_there_is_one() -> None:
    key = "io.modelcontextprotocol/subscriptionId"
    holder = json.dumps({"a": 1, "_meta": {"x": 2, key: 3}}).encode()
    assert json.loads(with_subscription(holder, b'"mine"')) == {"a": 1, "_meta": {"x": 2, key: "mine"}}
    for other in (b'{ "a":1}', b'{"_meta": {"x":1}}', b'{"_meta":7}', b"[]", b""):
        assert with_subscription(other, b'"mine"') == other


@pytest.mark.requirement("upstream:param-headers")
def test_mirrored_headers_are_those_that_the_sdk_sends() -> None:
    schema = {
        "type": "object",
        "properties": {
            "region": {"type": "string", "x-mcp-header": "Region"},
            "count": {"type": "integer", "x-mcp-header": "Count"},
            "sure": {"type": "boolean", "x-mcp-header": "Sure"},
            "absent": {"type": "string", "x-mcp-header": "Absent"},
            "inner": {"type": "object", "properties": {"deep": {"type": "string", "x-mcp-header": "Deep"}}},
            "list": {"type": "array", "items": {"type": "string", "x-mcp-header": "Nope"}},
            "plain": {"type": "string"},
        },
    }
    arguments = {"region": " é", "count": 10**30, "sure": True, "inner": {"deep": "x"}, "list": ["y"], "plain": "z"}
    made = headers_of(json.dumps({"inputSchema": schema}).encode(), json.dumps(arguments).encode())
    expected = mcp_param_headers({k: v for k, v in x_mcp_header_map(schema).items() if v != "Nope"}, arguments)
    assert {k.decode(): v.decode() for k, v in made} == {k.lower(): v for k, v in expected.items()}


@pytest.mark.requirement("stdio:log")
@given(st.binary(max_size=60))
def test_a_logged_line_is_one_line_of_printable_characters(line: bytes) -> None:
    text = escaped(line)
    assert text == "" or text.isprintable()
    assert len(text.splitlines()) <= 1
