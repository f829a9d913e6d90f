"""What the structural scan finds, and what it leaves alone."""

from __future__ import annotations

from typing import Any

import pytest

from mcpgw.registry import digest, scan
from tests.registry.parts import raw

DEEP: dict[str, Any] = {"type": "object"}
for _ in range(33):
    DEEP = {"type": "object", "properties": {"x": DEEP}}


def rules(name: str = "read", **fields: Any) -> list[tuple[str, str]]:
    return [(f.rule, f.where) for f in scan.findings(digest.pins([raw(name, **fields)]))]


def schema(**fields: Any) -> dict[str, Any]:
    return {"type": "object", **fields}


@pytest.mark.requirement("registry:scan")
@pytest.mark.parametrize("name", ["a b", "x" * 65, "é", "read\n", "\u0430", "a:b", "notes\u200b"])
def test_a_tool_name_that_clients_refuse_is_found(name: str) -> None:
    assert ("name", "/name") in rules(name)


HIDDEN = {
    "zero\u200bwidth": "invisible",
    "joined\u200dletters": "invisible",
    "soft\u00adhyphen": "invisible",
    "\ufeffmark": "invisible",
    "blank\u3164filler": "invisible",
    "byte\U000e0101s": "invisible",
    "bell\x07": "invisible",
    "line\u2028": "invisible",
    "right\u202eleft": "bidirectional",
    "iso\u2066late": "bidirectional",
    "tag\U000e0041": "tag_character",
    "\x1b[31mred": "terminal_escape",
    "\x9b31m": "terminal_escape",
    "\\x1b[31m": "terminal_escape",
    "\\033[2J": "terminal_escape",
}


@pytest.mark.requirement("registry:scan")
@pytest.mark.parametrize(("text", "rule"), HIDDEN.items(), ids=map(ascii, HIDDEN))
def test_text_that_people_cannot_see_is_found_wherever_it_stands(text: str, rule: str) -> None:
    inner = schema(properties={"q": {"type": "string"}})
    places: dict[str, dict[str, Any]] = {
        "/description": {"description": text},
        "/title": {"title": text},
        "/annotations/title": {"annotations": {"title": text}},
        "/_meta/x/0": {"_meta": {"x": [text]}},
        "/inputSchema/properties/q/enum/1": {
            "inputSchema": schema(properties={"q": {"type": "string", "enum": ["a", text]}})
        },
        "/inputSchema/properties/q/default": {
            "inputSchema": schema(properties={"q": {"type": "string", "default": text}})
        },
        f"/inputSchema/properties/{text}": {"inputSchema": schema(properties={text: {"type": "string"}})},
        "/outputSchema/description": {"outputSchema": {**inner, "description": text}},
    }
    for where, fields in places.items():
        assert (rule, where) in rules(**fields)


@pytest.mark.requirement("registry:scan")
@pytest.mark.parametrize(
    "text",
    [
        "Reads a note.\n\n\tReturns `null` when there is none.\r\n",
        "C:\\notes\\*.txt matches \\d+",
        "Lädt eine Notiz – „schön“",
        "メモを読む\u3000全部",
        "می\u200cخواهم",
        "क्\u200dष",
        "👩\u200d💻 ❤\ufe0f",
        "price:\u00a05\u202f€",
    ],
)
def test_honest_text_is_left_alone(text: str) -> None:
    assert rules(description=text) == []


@pytest.mark.requirement("registry:scan")
@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"description": "x" * 4097}, ("size", "/description")),
        ({"examples": ["x" * 70_000]}, ("size", "")),
        ({"inputSchema": DEEP}, ("schema_depth", "/inputSchema")),
        (
            {"inputSchema": schema(anyOf=[{"type": "string"}] * 1000)},
            ("schema_size", "/inputSchema"),
        ),
        ({"inputSchema": {"type": "string"}}, ("schema", "/inputSchema")),
        ({"inputSchema": None}, ("schema", "/inputSchema")),
        (
            {"inputSchema": schema(properties={"a": {"$ref": "https://evil.example/s"}})},
            ("network_reference", "/inputSchema/properties/a/$ref"),
        ),
        (
            {"outputSchema": {"allOf": [{"not": {"$dynamicRef": "//evil.example"}}]}},
            ("network_reference", "/outputSchema/allOf/0/not/$dynamicRef"),
        ),
        ({"inputSchema": schema(items={"$ref": "other.json"})}, ("network_reference", "/inputSchema/items/$ref")),
        (
            {"inputSchema": schema(properties={"a": {"type": "number", "x-mcp-header": "A"}})},
            ("header", "/inputSchema/properties/a"),
        ),
        (
            {"inputSchema": schema(properties={"a": {"type": "string", "x-mcp-header": "a b"}})},
            ("header", "/inputSchema/properties/a"),
        ),
        (
            {"inputSchema": schema(anyOf=[{"properties": {"a": {"type": "string", "x-mcp-header": "A"}}}])},
            ("header", "/inputSchema/anyOf/0/properties/a"),
        ),
    ],
)
def test_schemas_that_hurt_or_lead_elsewhere_are_found(fields: dict[str, Any], found: tuple[str, str]) -> None:
    assert found in rules(**fields)


@pytest.mark.requirement("registry:scan")
def test_an_ordinary_schema_is_left_alone() -> None:
    inner = {"type": "string", "x-mcp-header": "Region", "description": "Where"}
    whole = schema(
        properties={"region": inner, "$ref": {"type": "string"}, "node": {"$ref": "#/$defs/node"}},
        **{"$defs": {"node": schema(properties={"next": {"$ref": "#/$defs/node"}})}},
        dependencies={"a": ["b"]},
    )
    assert rules(inputSchema=whole, outputSchema=schema()) == []


def test_a_header_may_be_named_once() -> None:
    both = {name: {"type": "string", "x-mcp-header": header} for name, header in (("a", "X-A"), ("b", "x-a"))}
    assert [rule for rule, _ in rules(inputSchema=schema(properties=both))] == ["header"]


@pytest.mark.requirement("registry:scan")
def test_tools_whose_names_look_alike_are_found() -> None:
    tools = digest.pins([raw("list_items"), raw("1ist_items"), raw("other")])
    assert [(f.tool, f.rule) for f in scan.findings(tools)] == [
        ("list_items", "look_alike"),
        ("1ist_items", "look_alike"),
    ]


def test_a_finding_shows_what_it_found_and_hides_nothing() -> None:
    (finding,) = scan.findings(digest.pins([raw("read", description="a\u202eb\x00")]))[:1]
    assert finding.shown() == {
        "tool": "read",
        "rule": "bidirectional",
        "where": "/description",
        "detail": "a\\u202eb\\x00",
    }


def test_a_tool_full_of_findings_is_not_listed_without_end() -> None:
    assert len(rules(examples=["\u200b"] * 500)) == scan.MAX_FINDINGS
