"""Headers that repeat arguments: which ones, written how, and compared with the body after what else decides."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.shared.inbound import (
    decode_header_value,
    encode_header_value,
    find_invalid_x_mcp_header,
    mcp_param_headers,
    validate_mcp_param_headers,
    x_mcp_header_map,
)

from mcpgw.domain import (
    Action,
    Arguments,
    Binding,
    ClientFacts,
    Effect,
    Offer,
    Scope,
    Selected,
    Selection,
    ServerVersion,
    ToolPin,
    Verb,
)
from mcpgw.errors import Denied, GatewayError, HeaderMismatch, Killed, Quarantined, UnknownName
from mcpgw.judge import judge
from mcpgw.mirrored import check_headers, decoded, encoded, headers_of, mirrors, others
from mcpgw.ports import World
from tests.parts import Rules, action, agent, published, switch, world_of

MODERN, LEGACY = "2026-07-28", "2025-11-25"


def pinned(properties: dict[str, Any], **schema: Any) -> ToolPin:
    definition = {"name": "find", "inputSchema": {"type": "object", "properties": properties, **schema}}
    return ToolPin("find", "", json.dumps(definition).encode())


def of(kind: Any, header: Any) -> dict[str, Any]:
    return {"type": kind, "x-mcp-header": header}


REGION = pinned({"region": of("string", "Region")})


def call(arguments: Any, headers: dict[str, str] | None = None, *, modern: bool = True, **facts: Any) -> Action:
    client = ClientFacts(
        protocol_version=MODERN if modern else LEGACY,
        modern=modern,
        headers={f"mcp-param-{name}": value for name, value in (headers or {}).items()},
    )
    return action(name="find", arguments=Arguments(json.dumps(arguments).encode()), client=client, **facts)


def agrees(tool: ToolPin, arguments: Any, headers: dict[str, str]) -> bool:
    try:
        check_headers(call(arguments, headers), tool, None)
    except HeaderMismatch:
        return False
    return True


@pytest.mark.requirement("params:annotations")
@pytest.mark.parametrize(
    ("properties", "found"),
    [
        ({"a": of("string", "A"), "b": of("integer", "B-1"), "c": of("boolean", "c_c")}, {"a", "b-1", "c_c"}),
        (
            {"a": {"type": "object", "properties": {"b": {"type": "object", "properties": {"c": of("string", "C")}}}}},
            {"c"},
        ),
        ({"a": of("number", "A"), "b": of("array", "B"), "c": of("object", "C"), "d": of("null", "D")}, set()),
        ({"a": of(["string", "null"], "A"), "b": {"x-mcp-header": "B"}}, set()),
        ({"a": of("string", ""), "b": of("string", "a b"), "c": of("string", "é"), "d": of("string", "a\r\nb")}, set()),
        ({"a": of("string", 7), "b": of("string", None), "c": of("string", ["C"]), "d": of("string", "x:y")}, set()),
        ({"a": of("string", "Same"), "b": of("integer", "sAME"), "c": of("string", "Other")}, {"other"}),
        ({"a": {"type": "array", "items": of("string", "A")}, "b": {"anyOf": [of("string", "B")]}}, set()),
        ({"a": {"$ref": "#/$defs/a"}, "b": {"not": of("string", "B")}, "c": {"if": of("string", "C")}}, set()),
        ({"a": {"default": of("string", "A"), "enum": [of("string", "A")]}, "b": True}, set()),
        ({"properties": of("string", "P"), "x-mcp-header": of("string", "X")}, {"p", "x"}),
    ],
)
def test_an_annotation_counts_where_the_rules_have_it(properties: dict[str, Any], found: set[str]) -> None:
    tool = pinned(properties, **{"$defs": {"a": of("string", "Deep")}, "x-mcp-header": "Root"})
    assert {mirror.header for mirror in mirrors(tool.definition)} == {f"mcp-param-{name}" for name in found}


@pytest.mark.requirement("params:compared")
@pytest.mark.parametrize(
    ("kind", "argument", "right", "wrong"),
    [
        ("string", "eu", ["eu", "=?base64?ZXU=?="], ["EU", "eu ", "", "=?base64?ZXU?=", "=?base64?ZX!=?="]),
        ("string", "é", ["=?base64?w6k=?="], ["é", "\xc3\xa9", "=?base64?6Q==?="]),
        ("string", "", ["", "=?base64??="], [" ", "null"]),
        ("string", " a\n", ["=?base64?IGEK?="], ["a", " a"]),
        ("string", "=?base64?ZXU=?=", ["=?base64?PT9iYXNlNjQ/WlhVPT89?="], ["=?base64?ZXU=?=", "eu"]),
        ("string", "=?base64?x", ["=?base64?x"], ["x"]),
        ("string", "42", ["42"], ["42.0", "042"]),
        ("string", "true", ["true"], ["True", "1"]),
        ("integer", 42, ["42", "42.0", "42.000", "042", "=?base64?NDI=?="], ["43", "4.2", "4.2e1", "0x2a", "+42", ""]),
        ("integer", 0, ["0", "-0", "0.0"], ["", "false"]),
        ("integer", 42.0, ["42", "42.0"], ["42.1"]),
        ("integer", -(2**53) - 1, [str(-(2**53) - 1)], [str(-(2**53)), str(float(-(2**53)))]),
        ("integer", 1, ["1"], ["true", "1" + "0" * 8000]),
        ("boolean", True, ["true"], ["True", "1", "yes"]),
        ("boolean", False, ["false"], ["False", "0", ""]),
    ],
)
def test_a_header_says_what_its_argument_says(kind: str, argument: Any, right: list[str], wrong: list[str]) -> None:
    tool = pinned({"a": {"type": "object", "properties": {"b": of(kind, "B")}}})
    for header in right:
        assert agrees(tool, {"a": {"b": argument}}, {"b": header}), header
    for header in wrong:
        assert not agrees(tool, {"a": {"b": argument}}, {"b": header}), header
    assert not agrees(tool, {"a": {"b": argument}}, {})


@pytest.mark.requirement("params:compared")
@pytest.mark.parametrize("arguments", [{}, {"a": None}, {"a": {}}, {"a": {"b": None}}, {"a": [1]}, {"a": "b"}])
def test_where_there_is_no_argument_there_is_no_header(arguments: Any) -> None:
    tool = pinned({"a": {"type": "object", "properties": {"b": of("string", "B")}}})
    assert agrees(tool, arguments, {"other": "x"})
    for header in ("", "null", "x"):
        assert not agrees(tool, arguments, {"b": header})


@pytest.mark.requirement("params:compared")
@pytest.mark.parametrize("argument", [[1], {"a": 1}])
def test_what_no_header_can_repeat_has_none(argument: Any) -> None:
    assert agrees(REGION, {"region": argument}, {})
    assert not agrees(REGION, {"region": argument}, {"region": json.dumps(argument)})


@pytest.mark.requirement("params:compared")
def test_only_modern_clients_have_such_headers() -> None:
    check_headers(call({"region": "eu"}, modern=False), REGION, None)
    check_headers(action(name="find", arguments=Arguments(b'{"region":"eu"}')), REGION, None)


@pytest.mark.requirement("params:compared")
def test_a_refusal_names_the_argument_and_no_value() -> None:
    tool = pinned({"a": {"type": "object", "properties": {"b": of("string", "B")}}})
    for headers in ({"b": "in-the-header"}, {}):
        with pytest.raises(HeaderMismatch) as refused:
            check_headers(call({"a": {"b": "in-the-body"}}, headers), tool, None)
        assert "`a.b`" in refused.value.message
        assert "in-the" not in str(refused.value)


# Against the SDK

NAMES = st.sampled_from(["a", "b", "c"])
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    st.sampled_from(["", " x", "true", "42", "=?base64?ZXU=?=", "é"]),
)
LEAVES = st.builds(of, st.sampled_from(["string", "integer", "boolean"]), st.sampled_from(["A", "B", "C-1", "D"]))
SCHEMAS = st.recursive(
    st.dictionaries(NAMES, LEAVES | st.just({"type": "string"}), max_size=3),
    lambda inner: st.dictionaries(
        NAMES, LEAVES | inner.map(lambda properties: {"type": "object", "properties": properties}), max_size=3
    ),
    max_leaves=6,
)
VALUES = st.recursive(
    st.dictionaries(NAMES, SCALARS, max_size=3),
    lambda inner: st.dictionaries(NAMES, SCALARS | inner, max_size=3),
    max_leaves=6,
)
HEADERS = st.dictionaries(
    st.sampled_from(["a", "b", "c-1", "d", "e"]),
    SCALARS.map(lambda value: encode_header_value(str(value).lower() if isinstance(value, bool) else str(value)))
    | st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=4).map(str.strip),
    max_size=4,
)


@pytest.mark.requirement("params:compared")
@given(properties=SCHEMAS, arguments=VALUES, headers=HEADERS)
def test_what_is_refused_is_what_the_sdk_refuses(
    properties: dict[str, Any], arguments: dict[str, Any], headers: dict[str, str]
) -> None:
    tool = pinned(properties)
    schema = json.loads(tool.definition)["inputSchema"]
    if find_invalid_x_mcp_header(schema) is not None:
        return  # the SDK compares nothing then
    given_headers = {f"Mcp-Param-{name}": value for name, value in headers.items()}
    refused = validate_mcp_param_headers(schema, arguments, given_headers) is not None
    assert agrees(tool, arguments, headers) is not refused


@pytest.mark.requirement("params:anew")
@given(properties=SCHEMAS, arguments=VALUES)
def test_what_is_written_is_what_the_sdk_writes_and_agrees(
    properties: dict[str, Any], arguments: dict[str, Any]
) -> None:
    tool = pinned(properties)
    schema = json.loads(tool.definition)["inputSchema"]
    if find_invalid_x_mcp_header(schema) is not None:
        return
    made = {k.decode(): v.decode() for k, v in headers_of(tool.definition, json.dumps(arguments).encode())}
    theirs = mcp_param_headers(x_mcp_header_map(schema), arguments)
    assert {k: decoded(v) for k, v in made.items()} == {k.lower(): decode_header_value(v) for k, v in theirs.items()}
    assert agrees(tool, arguments, {k.removeprefix("mcp-param-"): v for k, v in made.items()})


@pytest.mark.requirement("mcp:sentinel")
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_every_text_comes_back_from_its_header(text: str) -> None:
    assert decoded(encoded(text).decode("ascii")) == text
    assert decoded(encode_header_value(text)) == text


@pytest.mark.requirement("mcp:sentinel")
@pytest.mark.parametrize("header", ["é", "\x7f", "a\x00b", "=?base64?4pyT", "=?base64?=", "=?BASE64?ZXU=?="])
def test_what_nobody_sends_equals_nothing_and_what_only_looks_encoded_is_itself(header: str) -> None:
    assert decoded(header) == (header if header.isascii() and header.isprintable() else None)


# What else decides


def served(tool: ToolPin = REGION, **facts: Any) -> ServerVersion:
    return replace(published(tools=["find"], **facts), tools={"find": tool})


async def refusal(world: World, what: Action) -> GatewayError:
    with pytest.raises(GatewayError) as refused:
        await judge(world, agent(), what)
    return refused.value


@pytest.mark.requirement("judge:order")
async def test_headers_are_compared_for_who_sees_the_tool_and_before_the_policy_reads_them() -> None:
    wrong = call({"region": "eu"}, {"region": "us"})
    hidden = Rules(lambda question: Effect.DENY)
    assert isinstance(await refusal(world_of(served(), policy=hidden), wrong), UnknownName)
    killed = world_of(served(), switches=[switch(Scope.TOOL, "notes/find")])
    assert isinstance(await refusal(killed, wrong), Killed)
    quarantined = world_of(served(quarantined=frozenset({"find"})))
    assert isinstance(await refusal(quarantined, wrong), Quarantined)

    denying = Rules(lambda question: Effect.DENY if question.phase == "call" else Effect.ALLOW)
    assert isinstance(await refusal(world_of(served(), policy=denying), wrong), HeaderMismatch)
    assert [question.phase for question in denying.asked] == ["list"]
    right = call({"region": "eu"}, {"region": "eu"})
    assert isinstance(await refusal(world_of(served(), policy=denying), right), Denied)


@pytest.mark.requirement("params:compared")
@pytest.mark.parametrize("verb", [Verb.TASKS_GET, Verb.TASKS_UPDATE, Verb.TASKS_CANCEL, Verb.TOOLS_PROPOSE])
async def test_only_calls_have_such_headers(verb: Verb) -> None:
    asked = replace(call({"region": "eu"}), verb=verb)
    assert (await judge(world_of(served()), agent(), asked)).tool == REGION


@pytest.mark.requirement("params:compared")
async def test_a_client_of_a_toolset_sends_no_headers_for_what_it_did_not_send() -> None:
    """A toolset adds arguments of its own, and by way of `call_tool` a client sends no headers at all."""
    tool = pinned({"region": of("string", "Region"), "tenant": of("string", "Tenant"), "kind": of("string", "Kind")})
    version = served(tool)
    bound = Binding(defaults=(("kind", b'"plain"'),), pinned=(("tenant", b'"blue"'),), sha256="values")
    offer = Offer(version, tool, "find_it", bound)
    arguments = {"region": "eu", "tenant": "blue", "kind": "plain"}

    async def judged(headers: dict[str, str], *, by_search: bool = False) -> None:
        desk = Selection(lambda: [offer], search=by_search)
        chosen = Selected(name="find_it", sha256="values", by_search=by_search)
        what = call(arguments, headers, toolset="desk", selected=chosen)
        await judge(world_of(version, toolsets={"desk": desk}), agent(), what)

    await judged({"region": "eu"})
    await judged({"region": "eu", "kind": "plain"})
    await judged({}, by_search=True)
    for headers in ({}, {"region": "us"}, {"region": "eu", "kind": "fancy"}, {"region": "eu", "tenant": "red"}):
        with pytest.raises(HeaderMismatch):
            await judged(headers)


@pytest.mark.requirement("params:unknown")
def test_what_repeats_nothing_is_passed_on_as_it_came() -> None:
    headers = {"mcp-param-region": "eu", "mcp-param-trace": "=?base64?!?=", "mcp-param-x": "\xe9"}
    assert others(REGION.definition, headers) == [
        (b"mcp-param-trace", b"=?base64?!?="),
        (b"mcp-param-x", b"\xe9"),
    ]
