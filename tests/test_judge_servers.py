"""A credential for certain servers: the others do not exist, on every method and in every list."""

from __future__ import annotations

from typing import Any

import pytest

from mcpgw.domain import (
    SYSTEM,
    VERBS,
    Action,
    Offer,
    Principal,
    Route,
    Scope,
    Selected,
    Selection,
    TaskRef,
    Toolset,
    ToolsetEntry,
    Verb,
)
from mcpgw.errors import GatewayError, UnknownName
from mcpgw.judge import judge
from mcpgw.ports import World
from mcpgw.visible import sees_server, visible_servers, visible_tools
from tests.parts import action, agent, published, switch, world_of

NOTES, VAULT = published("notes", ["read", "write"]), published("vault", ["open"])
BOTH, ALONE = world_of(NOTES, VAULT, switches=[switch(Scope.SERVER, "vault")]), world_of(NOTES)
NARROW = agent(servers=frozenset({"notes"}))
# On the LLM route `server` is a provider, which `servers` does not speak of.
MCP_VERBS = [verb for verb, rule in VERBS.items() if rule.scope == "mcp:use"]


async def told(world: World, what: Action, who: Principal = NARROW) -> tuple[object, ...]:
    with pytest.raises(GatewayError) as refused:
        await judge(world, who, what)
    error = refused.value
    return type(error), error.message, error.fix, error.data


@pytest.mark.requirement("keys:servers", "judge:invisible-is-unknown")
@pytest.mark.parametrize("pinned", [None, "1.0.0"])
@pytest.mark.parametrize("verb", MCP_VERBS)
async def test_another_server_answers_like_one_that_nobody_has_on_every_method(verb: Verb, pinned: str | None) -> None:
    for name in ("open", "nothing"):
        what = action(verb, "vault", name, version=pinned)
        assert await told(BOTH, what) == await told(ALONE, what)


@pytest.mark.requirement("keys:servers", "judge:invisible-is-unknown")
async def test_over_all_servers_the_names_of_another_one_are_nobodys() -> None:
    by_search = Selected(name="vault__open", by_search=True)
    for facts in ({}, {"selected": by_search}):
        what: dict[str, Any] = {"resource": "/mcp", **facts}
        hidden = await told(BOTH, action(Verb.TOOLS_CALL, "vault", "open", **what))
        absent = await told(ALONE, action(Verb.TOOLS_CALL, None, "open" if not facts else "vault__open", **what))
        assert hidden == absent


@pytest.mark.requirement("keys:servers", "toolset:visible")
async def test_a_toolset_has_for_such_a_key_only_what_is_of_its_servers() -> None:
    offers = (Offer(NOTES, NOTES.tools["read"], "look_up"), Offer(VAULT, VAULT.tools["open"], "unlock"))
    entries = (ToolsetEntry(server="*", tool="*"),)
    desk = Toolset(slug="desk", title="Desk", entries=entries, created_by="root", created_at=0.0)
    mixed = world_of(NOTES, VAULT, toolsets={"desk": Selection(lambda: offers, desk)})
    of_others = world_of(NOTES, VAULT, toolsets={"desk": Selection(lambda: offers[1:], desk)})
    where: dict[str, Any] = {"resource": "/mcp/desk", "toolset": "desk"}
    listed = await visible_tools(mixed, NARROW, action(Verb.TOOLS_LIST, None, None, **where))
    assert [offer.name for offer in listed.offers] == ["look_up"]
    assert len((await visible_tools(mixed, agent(), action(Verb.TOOLS_LIST, None, None, **where))).offers) == 2
    unlock = action(Verb.TOOLS_CALL, "vault", "open", selected=Selected(name="unlock"), **where)
    unknown = action(Verb.TOOLS_CALL, None, "nobody", selected=Selected(name="nobody"), **where)
    hidden = await told(mixed, unlock)
    assert hidden == (UnknownName, "Unknown tool: unlock", "", {})
    assert hidden[0] is (await told(mixed, unknown))[0]
    # One that offers nothing of its servers is not there.
    listing = action(Verb.TOOLS_LIST, None, None, **where)
    assert await told(of_others, listing) == await told(ALONE, listing)


@pytest.mark.requirement("keys:servers")
async def test_lists_over_all_servers_and_searches_are_shared_with_nobody_who_sees_more() -> None:
    world = world_of(NOTES, VAULT)
    listing = action(Verb.TOOLS_LIST, None, None)
    for _ in range(2):
        wide = await visible_tools(world, agent(), listing)
        narrow = await visible_tools(world, NARROW, listing)
        assert {offer.version.server for offer in wide.offers} == {"notes", "vault"}
        assert {offer.version.server for offer in narrow.offers} == {"notes"}
        assert [v.server for v in await visible_servers(world, NARROW, listing)] == ["notes"]
        assert len(await visible_servers(world, agent(), listing)) == 2
        assert await sees_server(world, agent(), action(Verb.PING, "vault", None), VAULT)
        assert not await sees_server(world, NARROW, action(Verb.PING, "vault", None), VAULT)
    found = (await judge(world, NARROW, action(Verb.TOOLS_SEARCH, None, "find_tool"))).visible
    assert found is not None
    assert {offer.version.server for offer in found.offers} == {"notes"}


@pytest.mark.requirement("keys:servers")
async def test_tasks_of_another_server_are_unknown_and_models_are_not_servers() -> None:
    task = TaskRef(server="vault", version="1.0.0", tool="open", owner=NARROW.key, id="t", shown="shown")
    what = action(Verb.TASKS_GET, "vault", "open", tasks=(task,))
    assert await told(BOTH, what) == await told(ALONE, what)
    listening = action(Verb.LISTEN, None, None, tasks=(task,))
    with pytest.raises(UnknownName):
        await judge(world_of(NOTES, VAULT), NARROW, listening)
    chat = action(Verb.CHAT, "openai", "gpt", route=Route.LLM)
    assert (await judge(BOTH, NARROW, chat)).principal is NARROW


@pytest.mark.requirement("keys:servers")
async def test_what_a_key_for_certain_servers_may_do_there_is_what_anyone_may() -> None:
    for verb in (Verb.TOOLS_CALL, Verb.TOOLS_LIST, Verb.INITIALIZE, Verb.RESOURCES_READ):
        assert (await judge(BOTH, NARROW, action(verb))).action.server == "notes"
    assert (await judge(world_of(VAULT), SYSTEM, action(Verb.PING, "vault", None))).principal is SYSTEM
