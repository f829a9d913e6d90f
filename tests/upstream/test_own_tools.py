"""Lists of tools as the gateway answers them: pages, and what a search finds."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpgw.domain import Action, Arguments, ClientFacts, Listing, Offer, Part, Selection, Verb
from mcpgw.errors import InvalidParams
from mcpgw.upstream.own_tools import OwnTools
from tests.parts import action, published

MODERN = ClientFacts(protocol_version="2026-07-28", modern=True)
LEGACY = ClientFacts(protocol_version="2025-06-18", modern=False)


def listing(*names: str, search: bool = False) -> Listing:
    version = published("notes", names)
    offers = tuple(Offer(version, tool, tool.name) for tool in version.tools.values())
    return Listing(offers, Selection(lambda: offers, search=search))


def asked(cursor: Any = None, client: ClientFacts = MODERN) -> Action:
    forwarded = {} if cursor is None else {"cursor": json.dumps(cursor).encode()}
    return action(Verb.TOOLS_LIST, None, None, client=client, forwarded=forwarded)


def searched(given: Any, name: str = "find_tool", client: ClientFacts = MODERN) -> Action:
    arguments = Arguments(given if isinstance(given, bytes) else json.dumps(given).encode())
    return action(Verb.TOOLS_SEARCH, None, name, client=client, arguments=arguments)


async def last_first(seen: Listing, query: str, limit: int, server: str | None) -> tuple[list[Offer], int]:
    """A search that finds everything, the last first; of the server `none` it finds nothing."""
    found = [] if server == "none" else list(reversed(seen.offers))
    return found[:limit], len(found)


def tools(page_tools: int = 1000, shown: list[Offer] | None = None) -> OwnTools:
    def definition(offer: Offer) -> bytes:
        if shown is not None:
            shown.append(offer)
        schema = b'{"type":"object","properties":{"n":{"const":1.0}}}'
        return b'{"name":"%b","description":"D","inputSchema":%b,"x":1}' % (offer.name.encode(), schema)

    return OwnTools(definition, last_first, page_tools, lambda server, definition: definition)


def page(part: Part) -> tuple[list[str], str | None]:
    result = json.loads(part.body)
    return [tool["name"] for tool in result["tools"]], result.get("nextCursor")


# Pages


@pytest.mark.requirement("list:pages")
@pytest.mark.parametrize("client", [MODERN, LEGACY])
def test_a_list_that_fits_is_one_page_in_its_own_order(client: ClientFacts) -> None:
    result = json.loads(tools(3).listed(asked(client=client), listing("b", "c", "a")).body)
    assert [tool["name"] for tool in result.pop("tools")] == ["b", "c", "a"]
    cached = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"}
    assert result == (cached if client.modern else {})


@pytest.mark.requirement("list:pages")
@pytest.mark.parametrize("client", [MODERN, LEGACY])
def test_a_longer_list_goes_by_name_page_by_page(client: ClientFacts) -> None:
    own, seen = tools(2), listing("b", "e", "a", "d", "c")
    pages, cursor = [], None
    for _ in range(3):
        part = own.listed(asked(cursor, client), seen)
        names, cursor = page(part)
        pages.append(names)
        if client.modern:
            told = json.loads(part.body)
            assert (told["resultType"], told["ttlMs"], told["cacheScope"]) == ("complete", 0, "private")
    assert (pages, cursor) == ([["a", "b"], ["c", "d"], ["e"]], None)


@pytest.mark.requirement("list:pages")
@given(
    st.lists(st.sets(st.sampled_from("abcdefghij")), min_size=1, max_size=8),
    st.integers(1, 4),
)
def test_what_is_there_all_the_time_is_listed_once_whatever_comes_and_goes(worlds: list[set[str]], size: int) -> None:
    """Each page is asked for in a world of its own."""
    own, listed, cursor = tools(size), list[str](), None
    for names in itertools.chain(worlds, itertools.repeat(worlds[-1])):
        found, cursor = page(own.listed(asked(cursor), listing(*sorted(names, reverse=True))))
        listed += found
        if cursor is None:
            break
    assert len(set(listed)) == len(listed)
    assert set.intersection(*worlds) <= set(listed) <= set.union(*worlds)


@pytest.mark.requirement("list:pages")
def test_an_empty_cursor_is_that_of_the_first_page() -> None:
    assert page(tools(2).listed(asked(""), listing("b", "a", "c")))[0] == ["a", "b"]
    assert page(tools(3).listed(asked(""), listing("b", "a", "c")))[0] == ["b", "a", "c"]


@pytest.mark.requirement("list:pages")
@pytest.mark.parametrize(
    "cursor",
    [
        "nonsense",
        "a",
        "====",
        "\u00e9",
        base64.b64encode(b"other:a").decode(),
        base64.b64encode(b"after:\xff").decode(),
        1,
        ["a"],
        {},
    ],
)
@pytest.mark.parametrize("search", [False, True])
def test_a_cursor_that_is_none_of_ours_is_refused(cursor: Any, search: bool) -> None:
    with pytest.raises(InvalidParams, match="cursor"):
        tools(2).listed(asked(cursor), listing("a", "b", "c", search=search))


@pytest.mark.requirement("list:pages")
def test_a_cursor_beyond_the_end_is_an_empty_page() -> None:
    _, cursor = page(tools(1).listed(asked(), listing("x", "y")))
    assert page(tools(1).listed(asked(cursor), listing("a", "b"))) == ([], None)


@pytest.mark.requirement("own:tools")
def test_a_page_is_put_together_once_for_all_who_see_the_same() -> None:
    shown: list[Offer] = []
    own, seen = tools(shown=shown), listing("a", "b")
    first = own.listed(asked(), seen)
    assert own.listed(asked(), seen).body is first.body
    assert len(shown) == 2
    own.listed(asked(client=LEGACY), seen)
    own.listed(asked(), listing("a", "b"))
    assert len(shown) == 6


# Search


@pytest.mark.requirement("search:call")
@pytest.mark.parametrize("client", [MODERN, LEGACY])
def test_an_endpoint_with_search_lists_two_tools(client: ClientFacts) -> None:
    part = tools(1).listed(asked(client=client), listing("a", "b", search=True))
    assert page(part) == (["find_tool", "call_tool"], None)
    find, call = json.loads(part.body)["tools"]
    assert find["inputSchema"]["properties"]["limit"]["maximum"] == 50
    assert (find["inputSchema"]["required"], call["inputSchema"]["required"]) == (["query"], ["name"])


@pytest.mark.requirement("search:ranked")
async def test_a_search_tells_what_is_needed_to_call_as_structure_and_as_text() -> None:
    part = await tools().found(searched({"query": "x", "limit": 2}), listing("a", "b", "c"))
    result = json.loads(part.body)
    schema = {"type": "object", "properties": {"n": {"const": 1.0}}}
    found: Sequence[dict[str, Any]] = result["structuredContent"]["tools"]
    assert found == [
        {"name": name, "description": "D", "inputSchema": schema, "server": "notes"} for name in ("c", "b")
    ]
    assert result["structuredContent"]["matches"] == 3
    assert json.loads(result["content"][0]["text"]) == result["structuredContent"]
    assert b'"const":1.0' in part.body
    assert (result["isError"], result["resultType"], part.failed) == (False, "complete", False)
    old = json.loads((await tools().found(searched({"query": "x"}, client=LEGACY), listing("a"))).body)
    assert "resultType" not in old


@pytest.mark.requirement("search:ranked")
async def test_a_search_that_finds_nothing_is_no_failure() -> None:
    part = await tools().found(searched({"query": "x", "server": "none"}), listing("a"))
    assert json.loads(part.body)["structuredContent"] == {"tools": [], "matches": 0}
    assert not part.failed


@pytest.mark.requirement("search:call")
@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({}, "query"),
        ({"query": ""}, "query"),
        ({"query": 1}, "query"),
        ({"query": "x", "limit": 51}, "limit"),
        ({"query": "x", "limit": 0}, "limit"),
        ({"query": "x", "server": 1}, "server"),
        ({"query": "x", "q": "secret-value"}, "`q`"),
    ],
)
async def test_a_search_that_cannot_be_read_is_a_result_that_a_model_can_act_on(
    given: dict[str, Any], why: str
) -> None:
    part = await tools().found(searched(given), listing("a"))
    result = json.loads(part.body)
    assert (result["isError"], part.failed) == (True, True)
    assert why in result["content"][0]["text"]
    assert "secret-value" not in result["content"][0]["text"]


@pytest.mark.requirement("search:call")
async def test_a_call_of_call_tool_that_cannot_be_read_is_such_a_result_too() -> None:
    part = await tools().found(searched({"arguments": {}}, name="call_tool"), listing("a"))
    result = json.loads(part.body)
    assert result["isError"]
    assert "`name`" in result["content"][0]["text"]
