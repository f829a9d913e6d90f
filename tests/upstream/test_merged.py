"""Lists over several servers: whole, in order, without clashes, in pages, and without those that do not answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from mcpgw.domain import Action, ClientFacts, Effect, Scope, Verb
from mcpgw.errors import ConsentNeeded, InvalidParams, Killed, UpstreamUnreachable
from mcpgw.ports import Question
from mcpgw.upstream.merged import AT_ONCE, MOST_TURNS, PAGE_ITEMS, UNAVAILABLE
from tests.parts import Rules, action, switch
from tests.upstream.several import House, Server

MODERN = ClientFacts(protocol_version="2026-07-28", modern=True)
LEGACY = ClientFacts(protocol_version="2025-06-18", modern=False)
LISTS = [Verb.PROMPTS_LIST, Verb.RESOURCES_LIST, Verb.RESOURCE_TEMPLATES_LIST]


@pytest.fixture
async def houses() -> AsyncIterator[list[House]]:
    opened: list[House] = []
    yield opened
    for house in opened:
        await house.aclose()


def house(houses: list[House], policy: Rules | None = None, within_s: float = 5.0, **servers: Server) -> House:
    made = House(servers, policy, within_s)
    houses.append(made)
    return made


def prompts(*names: str) -> list[list[dict[str, Any]]]:
    return [[{"name": name} for name in names]]


def listing(verb: Verb = Verb.PROMPTS_LIST, client: ClientFacts = MODERN, cursor: Any = None, **facts: Any) -> Action:
    forwarded = {} if cursor is None else {"cursor": json.dumps(cursor).encode()}
    return action(verb, None, None, client=client, forwarded=forwarded, **facts)


def names(result: dict[str, Any]) -> list[str]:
    return [prompt["name"] for prompt in result["prompts"]]


async def all_pages(house: House, verb: Verb = Verb.PROMPTS_LIST) -> list[dict[str, Any]]:
    pages = [await house.ask(listing(verb))]
    while "nextCursor" in pages[-1]:
        pages.append(await house.ask(listing(verb, cursor=pages[-1]["nextCursor"])))
    return pages


@pytest.mark.requirement("merged:whole")
async def test_a_list_has_what_each_server_has_in_the_order_of_their_slugs(houses: list[House]) -> None:
    home = house(houses, b=Server(prompts=prompts("ask", "tell")), a=Server(prompts=prompts("ask")), c=Server())
    assert await home.ask(listing()) == {
        "prompts": [{"name": "a__ask"}, {"name": "b__ask"}, {"name": "b__tell"}],
        "resultType": "complete",
        "ttlMs": 60_000,
        "cacheScope": "private",
    }
    assert await home.ask(listing(client=LEGACY)) == {
        "prompts": [{"name": "a__ask"}, {"name": "b__ask"}, {"name": "b__tell"}]
    }


@pytest.mark.requirement("merged:whole")
async def test_resources_and_templates_of_two_servers_with_the_same_uris_are_told_apart(houses: list[House]) -> None:
    lists: dict[str, Any] = {
        "resources": [
            [{"uri": "test://x", "name": "x", "size": 12345678901234567890}, {"uri": "ui://app", "name": "app"}]
        ],
        "resourceTemplates": [[{"uriTemplate": "test://{id}/x{?q}", "name": "t"}]],
    }
    home = house(houses, a=Server(**lists), b=Server(**lists))
    resources = (await home.ask(listing(Verb.RESOURCES_LIST)))["resources"]
    assert [resource["uri"] for resource in resources] == [
        "mcpgw+a+test://x",
        "ui://a/app",
        "mcpgw+b+test://x",
        "ui://b/app",
    ]
    assert resources[0] == {"uri": "mcpgw+a+test://x", "name": "x", "size": 12345678901234567890}
    templates = (await home.ask(listing(Verb.RESOURCE_TEMPLATES_LIST)))["resourceTemplates"]
    assert [t["uriTemplate"] for t in templates] == ["mcpgw+a+test://{id}/x{?q}", "mcpgw+b+test://{id}/x{?q}"]


@pytest.mark.requirement("merged:children")
async def test_each_server_is_asked_by_a_child_action_with_the_callers_credential(houses: list[House]) -> None:
    home = house(houses, a=Server(prompts=prompts("x")), b=Server(prompts=prompts("y")))
    client = ClientFacts(
        protocol_version="2026-07-28", modern=True, meta=b'{"progressToken":1,"traceparent":"00-aa","mine":{"a":1.50}}'
    )
    asked = listing(client=client, session="s", owner=None)
    await home.ask(asked, who="grace")
    children = home.children_of(asked)
    assert sorted((child.server or "", child.verb) for child in children) == [
        ("a", Verb.PROMPTS_LIST),
        ("b", Verb.PROMPTS_LIST),
    ]
    assert len({child.id for child in children} | {asked.id}) == 3
    assert all(child.session == "s" and child.resource == "/mcp" for child in children)
    # Of several answers none can report progress under one token; all else reaches each server as it was.
    (sent,) = home.servers["a"].asked_for(Verb.PROMPTS_LIST)
    assert sent.client is not None and sent.client.meta == b'{"traceparent":"00-aa","mine":{"a":1.50}}'
    assert {q.principal.subject for q in home.policy.asked if q.name in {"x", "y"}} == {"grace"}


@pytest.mark.requirement("merged:visible")
async def test_what_a_caller_may_not_see_is_not_in_it(houses: list[House]) -> None:
    def rule(question: Question) -> Effect:
        in_vault = question.version is not None and question.version.server == "vault"
        return Effect.DENY if in_vault or question.name == "b" else Effect.ALLOW

    home = house(houses, Rules(rule), notes=Server(prompts=prompts("a", "b")), vault=Server(prompts=prompts("c")))
    result = await home.ask(listing())
    assert names(result) == ["notes__a"]
    assert "_meta" not in result
    assert home.servers["vault"].asked == []


@pytest.mark.requirement("merged:visible")
async def test_a_killed_server_is_neither_asked_nor_mentioned(houses: list[House]) -> None:
    home = house(houses, a=Server(prompts=prompts("x")), b=Server(prompts=prompts("y")))
    home.change(switches=(switch(Scope.SERVER, "b"),))
    result = await home.ask(listing())
    assert names(result) == ["a__x"]
    assert "_meta" not in result
    assert home.servers["b"].asked == []


@pytest.mark.requirement("merged:capable")
@pytest.mark.parametrize("verb", LISTS)
async def test_only_servers_that_say_that_they_have_such_a_list_are_asked_for_it(
    houses: list[House], verb: Verb
) -> None:
    has, has_not = Server(), Server()
    has_not.capabilities = {"tools": {}, "prompts": None} if verb is Verb.PROMPTS_LIST else {"prompts": {}}
    home = house(houses, has=has, lacks=has_not)
    for _ in range(3):
        assert "_meta" not in await home.ask(listing(verb))
    assert len(has.asked_for(verb)) == 3
    assert has_not.asked_for(verb) == []
    assert [len(server.asked_for(Verb.DISCOVER)) for server in (has, has_not)] == [1, 1]


@pytest.mark.requirement("merged:capable")
async def test_a_server_with_resources_and_no_templates_is_not_missed(houses: list[House]) -> None:
    plain = Server()
    plain.refusal = {Verb.RESOURCE_TEMPLATES_LIST: -32601}
    home = house(houses, plain=plain)
    result = await home.ask(listing(Verb.RESOURCE_TEMPLATES_LIST))
    assert (result["resourceTemplates"], result.get("_meta")) == ([], None)


@pytest.mark.requirement("merged:unavailable")
async def test_a_server_that_fails_costs_its_own_items_and_the_list_says_so(houses: list[House]) -> None:
    gone, odd, refuses, fine = Server(), Server(), Server(), Server(prompts=prompts("x"))
    gone.failure = UpstreamUnreachable("nobody listens there")
    odd.extra = {"nextCursor": 7}
    refuses.refusal = {Verb.PROMPTS_LIST: -32603}
    home = house(houses, gone=gone, odd=odd, refuses=refuses, fine=fine)
    result = await home.ask(listing())
    assert names(result) == ["fine__x"]
    assert result["_meta"] == {
        UNAVAILABLE: [
            {"server": "gone", "reason": "upstream_unreachable"},
            {"server": "odd", "reason": "upstream_failed"},
            {"server": "refuses", "reason": "upstream_failed"},
        ]
    }
    assert result["ttlMs"] == 0, "what is missing may be back at any moment"


@pytest.mark.requirement("connect:lists")
async def test_a_server_that_waits_for_its_callers_consent_costs_its_own_items_and_the_list_says_where(
    houses: list[House],
) -> None:
    waits, fine = Server(prompts=prompts("y")), Server(prompts=prompts("x"))
    home = house(houses, fine=fine, waits=waits)
    assert names(await home.ask(listing())) == ["fine__x", "waits__y"]
    data = {"url": "https://gateway.example/oauth/connect/waits?ticket=t", "elicitation_id": "1", "message": "agree"}
    waits.failure = ConsentNeeded("agree first", data=data)
    result = await home.ask(listing())
    assert names(result) == ["fine__x"]
    missing = {"server": "waits", "reason": "consent_needed", "url": data["url"]}
    assert result["_meta"] == {UNAVAILABLE: [missing]}


@pytest.mark.requirement("merged:unavailable")
async def test_a_server_that_hangs_holds_nobody_up_for_longer_than_its_time(houses: list[House]) -> None:
    slow = Server()
    home = house(houses, within_s=0.2, a=Server(prompts=prompts("x")), slow=slow, z=Server(prompts=prompts("y")))
    assert "_meta" not in await home.ask(listing())
    slow.hangs = True
    asked = listing()
    with anyio.fail_after(2):
        result = await home.ask(asked)
    assert names(result) == ["a__x", "z__y"]
    assert result["_meta"] == {UNAVAILABLE: [{"server": "slow", "reason": "upstream_timeout"}]}
    assert [child.server for what, child in home.records if what == "upstream_timeout"] == ["slow"]
    assert home.board.calls == {}


@pytest.mark.requirement("merged:unavailable")
async def test_a_server_that_does_not_even_say_what_it_can_do_is_missing(houses: list[House]) -> None:
    slow = Server()
    slow.hangs = True
    home = house(houses, within_s=0.1, a=Server(prompts=prompts("x")), slow=slow)
    with anyio.fail_after(2):
        result = await home.ask(listing())
    assert result["_meta"] == {UNAVAILABLE: [{"server": "slow", "reason": "upstream_timeout"}]}


@pytest.mark.requirement("merged:whole")
@pytest.mark.parametrize(
    ("stated", "ttl_ms"),
    [({"ttlMs": 5}, 5), ({"ttlMs": 90_000}, 60_000), ({"ttlMs": 1.5}, 0), ({"ttlMs": -1}, 0), ({}, 0)],
)
async def test_a_list_may_be_kept_no_longer_than_any_of_its_parts(
    houses: list[House], stated: dict[str, Any], ttl_ms: int
) -> None:
    other = Server(prompts=prompts("x"))
    other.extra = stated
    home = house(houses, a=Server(prompts=prompts("x")), other=other)
    result = await home.ask(listing())
    assert (result["ttlMs"], result["cacheScope"], len(result["prompts"])) == (ttl_ms, "private", 2)


@pytest.mark.requirement("merged:killed")
async def test_a_kill_of_one_server_ends_its_part_of_a_list_that_is_being_made(houses: list[House]) -> None:
    slow = Server()
    home = house(houses, a=Server(prompts=prompts("x")), slow=slow)
    await home.ask(listing())
    slow.hangs = True
    waiting = asyncio.create_task(home.ask(listing()))
    with anyio.fail_after(5):
        while len(slow.asked_for(Verb.PROMPTS_LIST)) < 2:
            await asyncio.sleep(0)
        home.change(switches=(switch(Scope.SERVER, "slow"),))
        result = await waiting
    assert names(result) == ["a__x"]
    assert result["_meta"] == {UNAVAILABLE: [{"server": "slow", "reason": "killed"}]}


@pytest.mark.requirement("merged:killed")
async def test_a_kill_of_the_caller_ends_the_list_and_all_of_its_parts(houses: list[House]) -> None:
    servers = {slug: Server() for slug in ("a", "b")}
    home = house(houses, **servers)
    await home.ask(listing())
    for server in servers.values():
        server.hangs = True
    waiting = asyncio.create_task(home.ask(listing()))
    with anyio.fail_after(5):
        while any(len(server.asked_for(Verb.PROMPTS_LIST)) < 2 for server in servers.values()):
            await asyncio.sleep(0)
        home.change(switches=(switch(Scope.CLIENT, "desk"),))
        with pytest.raises(Killed):
            await waiting
    assert home.board.calls == {}


@pytest.mark.requirement("merged:bounded")
async def test_no_more_than_a_few_servers_are_asked_at_once(houses: list[House]) -> None:
    most = 0

    class Counting(Server):
        async def answer(self, action: Action) -> Any:
            nonlocal most
            if action.verb is Verb.PROMPTS_LIST:
                most = max(most, len([c for c in home.board.calls.values() if c.action.parent is not None]))
                await asyncio.sleep(0)
            return await super().answer(action)

    home = house(houses, **{f"s{i:02}": Counting(prompts=prompts("x")) for i in range(30)})
    assert len(names(await home.ask(listing()))) == 30
    assert 1 < most <= AT_ONCE


@pytest.mark.requirement("merged:pages")
async def test_a_long_list_comes_in_pages_that_together_are_whole(houses: list[House]) -> None:
    servers = {f"s{i:02}": Server(prompts=prompts(*(f"p{n}" for n in range(50)))) for i in range(30)}
    home = house(houses, **servers)
    pages = await all_pages(home)
    assert [name for page in pages for name in names(page)] == [f"{slug}__p{n}" for slug in servers for n in range(50)]
    assert len(pages) > 2
    assert all(len(page["prompts"]) >= PAGE_ITEMS for page in pages[:-1])
    assert all(len(server.asked_for(Verb.PROMPTS_LIST)) == 1 for server in servers.values())


@pytest.mark.requirement("merged:pages")
async def test_a_server_that_pages_itself_is_read_to_its_end(houses: list[House]) -> None:
    many = [[{"name": f"p{page}-{n}"} for n in range(90)] for page in range(7)]
    home = house(houses, a=Server(prompts=prompts("x")), many=Server(prompts=many), z=Server(prompts=prompts("y")))
    pages = await all_pages(home)
    expected = ["a__x", *(f"many__{prompt['name']}" for page in many for prompt in page), "z__y"]
    assert [name for page in pages for name in names(page)] == expected
    assert len(pages) == 3


@pytest.mark.requirement("merged:pages")
async def test_a_server_that_never_ends_does_not_hide_those_after_it(
    houses: list[House], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcpgw.upstream.merged.MOST_PAGES", 1)

    class Endless(Server):
        def _result(self, action: Action) -> dict[str, Any]:
            result = super()._result(action)
            return {**result, "nextCursor": "0"} if action.verb is Verb.PROMPTS_LIST else result

    home = house(houses, endless=Endless(prompts=prompts("x")), z=Server(prompts=prompts("y")))
    pages = await all_pages(home)
    assert len(pages) == MOST_TURNS
    assert names(pages[-1]) == ["endless__x", "z__y"]
    assert pages[-1]["_meta"] == {UNAVAILABLE: [{"server": "endless", "reason": "endless"}]}


@pytest.mark.requirement("merged:pages")
async def test_a_list_goes_on_where_a_server_stood_that_has_gone(houses: list[House]) -> None:
    servers = {slug: Server(prompts=prompts(*(f"p{n}" for n in range(PAGE_ITEMS)))) for slug in "abcdefghijkl"}
    home = house(houses, **servers)
    first = await home.ask(listing())
    following = "abcdefghijkl"[len(first["prompts"]) // PAGE_ITEMS]
    home.change(switches=(switch(Scope.SERVER, following),))
    second = await home.ask(listing(cursor=first["nextCursor"]))
    slugs = {name.partition("__")[0] for name in names(second)}
    assert slugs == set("abcdefghijkl"["abcdefghijkl".index(following) + 1 :])


@pytest.mark.requirement("merged:cursors")
@pytest.mark.parametrize("cursor", ["", "x", "AAAA", 7, {"a": 1}])
async def test_a_cursor_that_is_not_ours_is_refused(houses: list[House], cursor: Any) -> None:
    home = house(houses, a=Server(prompts=prompts("x")))
    with pytest.raises(InvalidParams, match="cursor"):
        await home.ask(listing(cursor=cursor))


@pytest.mark.requirement("merged:cursors")
async def test_a_cursor_is_for_one_caller_and_one_list(houses: list[House]) -> None:
    def big() -> Server:
        items = [{"name": f"p{n}", "uri": f"test://{n}"} for n in range(PAGE_ITEMS)]
        return Server(prompts=[items], resources=[items])

    home = house(houses, **{f"s{i:02}": big() for i in range(AT_ONCE + 2)})
    cursor = (await home.ask(listing(), who="ada"))["nextCursor"]
    assert "s" not in json.dumps(cursor) or "s08" not in cursor, "a cursor tells its reader nothing"
    await home.ask(listing(cursor=cursor), who="ada")
    for wrong in (listing(Verb.RESOURCES_LIST, cursor=cursor), listing(cursor=cursor, resource="/mcp/t")):
        with pytest.raises(InvalidParams, match="cursor"):
            await home.ask(wrong, who="ada")
    with pytest.raises(InvalidParams, match="cursor"):
        await home.ask(listing(cursor=cursor), who="bob")
