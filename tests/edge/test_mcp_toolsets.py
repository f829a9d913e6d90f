"""What a call on an endpoint over several servers comes to: names, arguments, and the two tools of a search."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpgw.domain import Arguments, Binding, Offer, Selected, Selection, Toolset, Values, Verb
from mcpgw.edge.mcp_request import McpRequest
from mcpgw.edge.mcp_toolsets import Called, called, merged
from tests.parts import Shelf, published

NOTES = published("notes", ["read", "write"])
DESK = Toolset(slug="desk", title="Desk", entries=(), created_by="root", created_at=0.0)
BOUND = Binding(None, (("limit", b"10"),), (("tenant", b'"blue"'),), "digest")

KEYS = st.text(max_size=4)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=4)


def catalog(*offers: Offer, search: bool = False) -> Shelf:
    held = offers or (Offer(NOTES, NOTES.tools["read"], "look_up", BOUND), Offer(NOTES, NOTES.tools["write"], "plain"))
    return Shelf([NOTES], {"desk": Selection(lambda: held, DESK, search=search)})


def call(name: str, arguments: bytes = b"{}") -> McpRequest:
    return McpRequest(verb=Verb.TOOLS_CALL, modern=True, id=b"1", name=name, arguments=Arguments(arguments))


def by_search(name: Any, arguments: Any = None) -> McpRequest:
    given = {"name": name, **({} if arguments is None else {"arguments": arguments})}
    return call("call_tool", json.dumps(given).encode())


def raw(values: Mapping[str, Any]) -> Values:
    return tuple((name, json.dumps(value, ensure_ascii=False).encode()) for name, value in values.items())


# Arguments


@pytest.mark.requirement("toolset:values")
@given(OBJECTS, OBJECTS, OBJECTS, st.sampled_from([None, 2]))
def test_merged_arguments_are_the_merge_of_the_mappings(
    sent: dict[str, Any], defaults: dict[str, Any], pinned: dict[str, Any], indent: int | None
) -> None:
    defaults = {name: value for name, value in defaults.items() if name not in pinned}
    sent = {name: value for name, value in sent.items() if name not in pinned}
    written = json.dumps(sent, indent=indent).encode()
    made = merged(written, raw(defaults), raw(pinned))
    pairs: list[tuple[str, Any]] = json.loads(made, object_pairs_hook=lambda found: found)
    names = [name for name, _ in pairs]
    assert len(set(names)) == len(names)
    assert json.loads(made) == {**defaults, **sent, **pinned}
    # What the caller sent stands in it as it was sent.
    assert written[1:-1].strip() in made


@pytest.mark.requirement("toolset:values")
@pytest.mark.parametrize(
    ("sent", "made"),
    [
        (b"{}", b'{"tenant":"blue","limit":10}'),
        (b" { \n} ", b'{"tenant":"blue","limit":10}'),
        (b'{"x":1.00e2,"y":9007199254740993}', b'{"x":1.00e2,"y":9007199254740993,"tenant":"blue","limit":10}'),
        (b'{ "limit" : null }', b'{"limit" : null,"tenant":"blue"}'),
        (b'{"lim\\u0069t":1}', b'{"lim\\u0069t":1,"tenant":"blue"}'),
        (b'{"nested":{"tenant":1,"limit":2}}', b'{"nested":{"tenant":1,"limit":2},"tenant":"blue","limit":10}'),
    ],
)
def test_what_was_sent_keeps_its_bytes(sent: bytes, made: bytes) -> None:
    assert merged(sent, BOUND.defaults, BOUND.pinned) == made


@pytest.mark.requirement("toolset:values")
def test_arguments_to_which_nothing_is_added_are_the_same_bytes() -> None:
    assert merged(b'{ "a": 1 }', (), ()) == b'{ "a": 1 }'
    assert merged(b'{ "limit": 1 }', BOUND.defaults, ()) == b'{ "limit": 1 }'
    found = called(catalog(), "desk", call("plain", b' {"a":\t1}'))
    assert found.arguments.raw == b' {"a":\t1}'


# Names


@pytest.mark.requirement("toolset:values")
def test_a_toolsets_name_becomes_server_tool_and_final_arguments() -> None:
    assert called(catalog(), "desk", call("look_up", b'{"q":1}')) == Called(
        server="notes",
        name="read",
        arguments=Arguments(b'{"q":1,"tenant":"blue","limit":10}'),
        selected=Selected(name="look_up", sha256="digest"),
    )


@pytest.mark.requirement("toolset:pinned")
@pytest.mark.parametrize("sent", [b'{"tenant":"red"}', b'{"ten\\u0061nt":"red"}', b'{"q":1,"tenant":null}'])
def test_a_pinned_property_that_was_sent_is_named_and_nothing_is_merged(sent: bytes) -> None:
    for found in (
        called(catalog(), "desk", call("look_up", sent)),
        called(catalog(search=True), "desk", call("call_tool", b'{"name":"look_up","arguments":%b}' % sent)),
    ):
        assert found.selected is not None
        assert found.selected.overridden == ("tenant",)
        assert found.arguments.raw == sent


@pytest.mark.requirement("toolset:offers")
@pytest.mark.parametrize("name", ["read", "notes__read", "notes/read", "find_tool", "call_tool", ""])
def test_a_toolset_knows_its_own_names_alone(name: str) -> None:
    found = called(catalog(), "desk", call(name))
    assert (found.verb, found.server, found.name) == (Verb.TOOLS_CALL, None, name)


# Search


@pytest.mark.requirement("search:call")
def test_call_tool_is_a_call_of_the_tool_that_it_names() -> None:
    request = call("call_tool", b'{"arguments": {"q":1.0} ,"name":"look_up"}')
    assert called(catalog(search=True), "desk", request) == Called(
        server="notes",
        name="read",
        arguments=Arguments(b'{"q":1.0,"tenant":"blue","limit":10}'),
        selected=Selected(name="look_up", sha256="digest", by_search=True),
    )
    assert called(catalog(search=True), "desk", by_search("plain")).arguments.raw == b"{}"
    assert (
        called(catalog(search=True), "desk", call("call_tool", b'{"name":"plain","arguments":null}')).server == "notes"
    )


@pytest.mark.requirement("search:call")
def test_over_all_servers_call_tool_takes_the_names_of_that_endpoint() -> None:
    everything = Shelf([NOTES], search=True)
    found = called(everything, None, by_search("notes__write", {"a": 1}))
    assert (found.server, found.name, found.arguments.raw) == ("notes", "write", b'{"a": 1}')
    assert found.selected == Selected(name="notes__write", by_search=True)
    assert called(everything, None, call("notes__write")).server is None
    assert called(Shelf([NOTES]), None, call("notes__write")).server == "notes"


@pytest.mark.requirement("search:call")
@pytest.mark.parametrize("name", ["call_tool", "find_tool", "nothing", ""])
def test_a_search_calls_neither_itself_nor_what_there_is_not(name: str) -> None:
    found = called(catalog(search=True), "desk", by_search(name, {"name": "plain"}))
    assert (found.verb, found.server, found.name) == (Verb.TOOLS_CALL, None, name)
    assert found.selected == Selected(name=name, by_search=True)


@pytest.mark.requirement("search:call")
def test_what_is_not_listed_cannot_be_called_by_itself() -> None:
    found = called(catalog(search=True), "desk", call("look_up"))
    assert (found.verb, found.server, found.selected) == (Verb.TOOLS_CALL, None, None)


@pytest.mark.requirement("search:call")
@pytest.mark.parametrize("given", [b"{}", b'{"name":1}', b'{"name":"plain","arguments":[]}', b'{"name":null}'])
def test_call_tool_that_cannot_be_read_is_answered_by_the_gateway(given: bytes) -> None:
    found = called(catalog(search=True), "desk", call("call_tool", given))
    assert (found.verb, found.server, found.name) == (Verb.TOOLS_SEARCH, None, "call_tool")


@pytest.mark.requirement("search:call")
def test_find_tool_is_a_search() -> None:
    found = called(catalog(search=True), "desk", call("find_tool", b'{"query":"x"}'))
    assert found == Called(verb=Verb.TOOLS_SEARCH, name="find_tool", arguments=Arguments(b'{"query":"x"}'))
