"""Finding tools by what is said of them."""

from __future__ import annotations

import asyncio
import gc
import json
import time
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcpgw.domain import Listing, Offer, Quarantine, State
from mcpgw.registry import digest
from mcpgw.registry.catalog import StateCatalog
from mcpgw.registry.search import Among, Index, ToolSearch, words
from tests.registry.parts import server, version

WIKI = {
    "create_page": "Create a page of the wiki.",
    "deletePage": "Delete a page, with its history.",
    "list_spaces": "List all spaces.",
}
TICKETS = {
    "create_issue": "Open an issue in the tracker.",
    "list_issues": "Show the issues of a project, newest first.",
    "assign": "Give an issue to somebody.",
}


def definition(name: str, description: str, *properties: str, title: str | None = None) -> bytes:
    schema = {"type": "object", "properties": {p: {"type": "string"} for p in properties}}
    titled = {} if title is None else {"title": title}
    return json.dumps({"name": name, **titled, "description": description, "inputSchema": schema}).encode()


def state(**servers: Sequence[bytes]) -> State:
    return State(
        epoch=1,
        servers=tuple(server(slug) for slug in servers),
        versions=tuple(version(server=slug, tools=digest.pins(live)) for slug, live in servers.items()),
        active=dict.fromkeys(servers, "1.0.0"),
    )


def house() -> State:
    return state(
        wiki=[definition(name, text) for name, text in WIKI.items()],
        tickets=[definition(name, text) for name, text in TICKETS.items()],
    )


def listing(of: State, *, without: Sequence[str] = ()) -> Listing:
    """Return what a caller sees who may not see some names."""
    everything = StateCatalog(of, search_only=True).selection(None)
    assert everything is not None
    return Listing(tuple(offer for offer in everything.offers if offer.name not in without), everything)


def named(offers: Sequence[Offer]) -> list[str]:
    return [offer.name for offer in offers]


async def find(listing: Listing, query: str, limit: int = 50, server: str | None = None) -> list[str]:
    found, matches = await ToolSearch().find(listing, query, limit, server)
    assert matches >= len(found)
    return named(found)


@pytest.mark.requirement("search:ranked")
@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("create_page", ["create", "page"]),
        ("getHTTPResponse2", ["get", "http", "response2"]),
        ("list-issues.of.Project", ["list", "issue", "of", "project"]),
        ("Stories, classes, statuses & buses", ["story", "classe", "statuse", "buse"]),
        ("the bus as us", ["the", "bus", "as", "us"]),
        ("s3 EC2Instance oauth2", ["s3", "ec2", "instance", "oauth2"]),
        ("Größe résumé", ["größe", "résumé"]),
        ("", []),
        ("__ -- !", []),
    ],
)
def test_words_are_split_where_names_are_and_lose_their_plural(text: str, found: list[str]) -> None:
    assert list(words(text)) == found


@pytest.mark.requirement("search:ranked")
async def test_what_a_tool_is_called_counts_more_than_what_is_said_of_it() -> None:
    seen = listing(house())
    assert (await find(seen, "create an issue"))[0] == "tickets__create_issue"
    assert await find(seen, "delete page") == ["wiki__deletePage", "wiki__create_page"]
    assert await find(seen, "history") == ["wiki__deletePage"]
    assert (await find(seen, "issues"))[:2] == ["tickets__create_issue", "tickets__list_issues"]
    assert await find(seen, "tracker TRACKER tracker") == ["tickets__create_issue"]
    assert await find(seen, "nothing of the kind") != []
    assert await find(seen, "zebra") == await find(seen, "...") == []


@pytest.mark.requirement("search:ranked")
async def test_titles_and_properties_are_found_too() -> None:
    tools = [definition("x1", "Does it.", "customerId", title="Refund"), definition("x2", "Does it.")]
    seen = listing(state(pay=tools))
    assert await find(seen, "customer") == await find(seen, "refund") == ["pay__x1"]


@pytest.mark.requirement("search:ranked")
async def test_equals_keep_the_order_of_the_list() -> None:
    same = [definition(name, "Send a message.") for name in ("b", "a", "c")]
    seen = listing(state(zoo=same, ark=same))
    order = [f"{slug}__{name}" for slug in ("ark", "zoo") for name in ("b", "a", "c")]
    assert await find(seen, "send message") == order
    assert await find(seen, "send message", limit=2) == order[:2]
    assert await find(seen, "send message", limit=2, server="zoo") == order[3:5]
    assert await find(seen, "send message", server="gone") == []


@pytest.mark.requirement("search:visible")
async def test_what_a_caller_may_not_see_is_not_found_and_changes_nothing() -> None:
    """Were hidden tools counted, the words that they have would seem more common than they are."""
    hidden = [definition(f"h{n}", "A page. A page. A page of history.") for n in range(50)]
    with_hidden = listing(
        state(**{"secret": hidden, "wiki": [definition(name, text) for name, text in WIKI.items()]}),
        without=[f"secret__h{n}" for n in range(50)],
    )
    alone = listing(state(wiki=[definition(name, text) for name, text in WIKI.items()]))
    for query in ("page", "history of a page", "list page", "all pages with history"):
        assert await find(with_hidden, query) == await find(alone, query)
    assert await find(listing(house(), without=["wiki__deletePage"]), "history") == []


@pytest.mark.requirement("search:visible")
@given(
    st.lists(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=6), min_size=1, max_size=12),
    st.data(),
)
@settings(max_examples=50)
def test_a_query_over_some_documents_is_one_over_an_index_of_these_alone(
    texts: list[list[str]], data: st.DataObject
) -> None:
    numbers = sorted(data.draw(st.sets(st.integers(0, len(texts) - 1), min_size=1)))
    whole, part = Index(), Index()
    for text in texts:
        whole.add([(1.0, " ".join(text))])
    for number in numbers:
        part.add([(1.0, " ".join(texts[number]))])
    query = " ".join(data.draw(st.lists(st.sampled_from("abcdefg"), max_size=4)))
    ranked = [numbers[n] for n in part.ranked(query, Among(part, range(len(numbers))))]
    assert whole.ranked(query, Among(whole, numbers)) == ranked


@pytest.mark.requirement("search:visible")
async def test_a_quarantined_tool_is_not_found() -> None:
    apart = Quarantine(server="wiki", version="1.0.0", tool="deletePage", seen_sha256="", seen_at=1.0)
    held = house()
    seen = listing(
        State(epoch=2, servers=held.servers, versions=held.versions, active=held.active, quarantines=(apart,))
    )
    assert await find(seen, "delete history") == []


@pytest.mark.requirement("search:ranked")
async def test_an_index_is_made_once_for_all_who_ask_and_kept_while_the_tools_stay() -> None:
    search, seen = ToolSearch(), listing(house())
    both = await asyncio.gather(*(search.find(seen, "page", 5, None) for _ in range(2)))
    assert both[0] == both[1]
    assert seen.selection is not None
    index = seen.selection.memo["index"]
    later = listing(house())
    await search.find(later, "page", 5, None)
    assert later.selection is not None
    assert later.selection.memo["index"] is index
    other = listing(state(wiki=[definition("undo", "Undo.")]))
    assert named((await search.find(other, "undo", 5, None))[0]) == ["wiki__undo"]


@pytest.mark.requirement("search:ranked")
async def test_a_caller_who_goes_away_takes_no_index_from_the_others() -> None:
    search, seen = ToolSearch(), listing(state(many=[definition(f"t{n}", "Find it.") for n in range(200)]))
    first = asyncio.create_task(search.find(seen, "find", 1, None))
    second = asyncio.create_task(search.find(seen, "find", 1, None))
    await asyncio.sleep(0)
    first.cancel()
    assert named((await second)[0]) == ["many__t0"]
    await asyncio.gather(first, return_exceptions=True)
    assert first.cancelled()


@pytest.mark.requirement("search:ranked")
async def test_a_tool_whose_definition_is_odd_is_found_by_its_name() -> None:
    odd = b'{"name":"weird_tool","description":[1],"inputSchema":{"properties":[]}}'
    assert await find(listing(state(zoo=[odd])), "weird") == ["zoo__weird_tool"]


@pytest.mark.requirement("search:turns")
async def test_indexing_ten_thousand_tools_leaves_other_tasks_their_turn() -> None:
    """In the processor time of this process: other processes may take as much of the clock as they like."""
    servers = {
        f"s{n}": [definition(f"tool_{m}", f"Does {n} and {m} with things of all kinds.", "a", "b") for m in range(50)]
        for n in range(200)
    }
    seen = listing(state(**servers))
    gc.collect()
    gc.freeze()  # what the tests before this one have left is not ours to collect
    try:
        done = asyncio.create_task(ToolSearch().find(seen, "tool 7", 5, None))
        turns, longest, last = 0, 0.0, time.thread_time()
        while not done.done():
            await asyncio.sleep(0)
            now = time.thread_time()
            turns, longest, last = turns + 1, max(longest, now - last), now
    finally:
        gc.unfreeze()
    assert (await done)[1] == 10_000
    assert turns > 100
    assert longest < 0.05
