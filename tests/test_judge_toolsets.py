"""The verdict on what comes through a toolset: what of it exists for whom, and that a call is still what it was."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from mcpgw.domain import (
    Action,
    Arguments,
    Binding,
    Effect,
    Offer,
    Scope,
    Selected,
    Selection,
    Toolset,
    ToolsetEntry,
    Verb,
)
from mcpgw.errors import Denied, GatewayError, InvalidParams, Killed, Quarantined, UnknownName
from mcpgw.judge import judge
from mcpgw.ports import Question, World
from mcpgw.visible import visible_tools
from tests.parts import Rules, action, agent, decision, published, switch, world_of

NOTES = published("notes", ["read", "write"])
FILES = published("files", ["find"])
DESK = Toolset(
    slug="desk", title="Desk", entries=(ToolsetEntry(server="*", tool="*"),), created_by="root", created_at=0.0
)


def desk(*offers: Offer, search: bool = False) -> Selection:
    return Selection(lambda: offers, DESK, search=search)


def offer(tool: str = "read", name: str = "look_up", binding: Binding | None = None) -> Offer:
    return Offer(NOTES, NOTES.tools[tool], name, binding)


def world(*offers: Offer, search: bool = False, policy: Rules | None = None, **facts: Any) -> World:
    held = offers or (offer(), offer("write", "note_down"))
    return world_of(NOTES, FILES, policy=policy, toolsets={"desk": desk(*held, search=search)}, **facts)


def asked(verb: Verb, **facts: Any) -> Action:
    return action(verb, None, None, resource="/mcp/desk", toolset="desk", **facts)


def call(name: str = "read", selected: Selected | None = None, **facts: Any) -> Action:
    chosen = selected or Selected(name="look_up")
    return action(name=name, resource="/mcp/desk", toolset="desk", selected=chosen, **facts)


async def refusal(of: World, what: Action) -> GatewayError:
    with pytest.raises(GatewayError) as refused:
        await judge(of, agent(), what)
    return refused.value


def hides(*names: str) -> Rules:
    return Rules(lambda q: Effect.DENY if q.name in names or q.name is None else Effect.ALLOW)


@pytest.mark.requirement("toolset:visible")
async def test_a_toolset_lists_what_its_caller_may_see_and_is_not_killed() -> None:
    listing = asked(Verb.TOOLS_LIST)

    async def listed(**facts: Any) -> list[str]:
        visible = (await judge(world(**facts), agent(), listing)).visible
        assert visible is not None
        return [offer.name for offer in visible.offers]

    assert await listed() == ["look_up", "note_down"]
    assert await listed(policy=hides("write")) == ["look_up"]
    assert await listed(switches=[switch(Scope.TOOL, "notes/read")]) == ["note_down"]
    assert await listed(switches=[switch(Scope.SERVER, "notes")]) == []


@pytest.mark.requirement("toolset:visible")
@pytest.mark.parametrize("verb", [Verb.TOOLS_LIST, Verb.TOOLS_SEARCH, Verb.DISCOVER, Verb.PING, Verb.LISTEN])
async def test_a_toolset_with_nothing_for_its_caller_is_one_that_nobody_has(verb: Verb) -> None:
    hidden = await refusal(world(policy=hides("read", "write")), asked(verb))
    missing = await refusal(world_of(NOTES), asked(verb))
    alike = await refusal(world_of(NOTES), action(verb, "desk", None, resource="/mcp/desk"))
    assert type(hidden) is type(missing) is type(alike) is UnknownName
    assert hidden.message == missing.message == alike.message == "Unknown server: desk"
    await judge(world(policy=hides("read")), agent(), asked(verb))


@pytest.mark.requirement("toolset:visible")
async def test_one_callers_toolset_is_not_anothers() -> None:
    held = world(policy=Rules(lambda q: Effect.ALLOW if q.principal.subject == "ada" else Effect.DENY))
    assert len((await visible_tools(held, agent("ada"), asked(Verb.TOOLS_LIST))).offers) == 2
    assert not (await visible_tools(held, agent("bob"), asked(Verb.TOOLS_LIST))).offers
    both = action(Verb.TOOLS_LIST, None, None)
    assert len((await visible_tools(held, agent("ada"), both)).offers) == 3


@pytest.mark.requirement("toolset:real")
async def test_policy_kill_and_quarantine_are_those_of_the_real_tool() -> None:
    def answer(question: Question) -> Effect:
        return Effect.DENY if question.phase == "call" and question.name == "read" else Effect.ALLOW

    rules = Rules(answer)
    assert isinstance(await refusal(world(policy=rules), call()), Denied)
    (decided,) = [q for q in rules.asked if q.phase == "call"]
    assert (decided.version, decided.tool, decided.name) == (NOTES, NOTES.tools["read"], "read")
    assert isinstance(await refusal(world(switches=[switch(Scope.TOOL, "notes/read")]), call()), Killed)
    apart = dataclasses.replace(NOTES, quarantined=frozenset({"read"}))
    held = world_of(apart, toolsets={"desk": desk(offer())})
    assert isinstance(await refusal(held, call()), Quarantined)


@pytest.mark.requirement("toolset:visible")
@pytest.mark.parametrize("search", [False, True])
async def test_a_hidden_tool_and_one_that_nobody_has_are_refused_under_the_name_that_was_used(search: bool) -> None:
    chosen = Selected(name="look_up", by_search=search)
    hidden = await refusal(world(search=search, policy=hides("read")), call(selected=chosen))
    nobody = await refusal(
        world(search=search),
        action(name=None, server=None, toolset="desk", selected=Selected(name="look_down", by_search=search)),
    )
    assert (type(hidden), hidden.message) == (UnknownName, "Unknown tool: look_up")
    assert (type(nobody), nobody.message) == (UnknownName, "Unknown tool: look_down")


@pytest.mark.requirement("toolset:visible")
async def test_whoever_may_not_see_a_toolset_does_not_learn_that_it_has_a_search() -> None:
    held = world(search=True, policy=hides("read", "write"))
    hidden = await refusal(held, call(selected=Selected(name="look_up", by_search=True)))
    assert hidden.message == "Unknown tool: call_tool"


# What was looked up before the verdict

BOUND = Binding(None, (), (("tenant", b'"blue"'),), "digest")


@pytest.mark.requirement("toolset:moved")
@pytest.mark.parametrize(
    "now",
    [
        world_of(NOTES, FILES),
        world(offer("write", "look_up", BOUND)),
        world(offer("read", "other", BOUND)),
        world(offer("read", "look_up")),
        world(offer("read", "look_up", dataclasses.replace(BOUND, sha256="other"))),
        world(offer("read", "look_up", BOUND), search=True),
    ],
    ids=["removed", "another tool", "another name", "no values", "other values", "search"],
)
async def test_a_call_of_which_the_toolset_now_makes_something_else_is_refused(now: World) -> None:
    chosen = call(selected=Selected(name="look_up", sha256="digest"))
    await judge(world(offer(binding=BOUND)), agent(), chosen)
    for running in (False, True):
        with pytest.raises(UnknownName, match="Unknown tool: look_up"):
            await judge(now, agent(), chosen, running=running)


@pytest.mark.requirement("toolset:moved")
async def test_another_description_or_another_tool_beside_it_is_no_reason_to_refuse() -> None:
    changed = dataclasses.replace(BOUND, description="Other words.")
    now = world(offer("write", "more"), offer("read", "look_up", changed))
    await judge(now, agent(), call(selected=Selected(name="look_up", sha256="digest")))


@pytest.mark.requirement("toolset:moved")
async def test_a_call_through_a_toolset_without_a_name_that_was_looked_up_is_refused() -> None:
    unnamed = action(resource="/mcp/desk", toolset="desk")
    assert isinstance(await refusal(world(), unnamed), UnknownName)


@pytest.mark.requirement("toolset:pinned")
async def test_setting_what_is_pinned_is_told_to_those_alone_who_may_see_the_tool() -> None:
    chosen = Selected(name="look_up", sha256="digest", overridden=("tenant", "of"))
    what = call(selected=chosen, arguments=Arguments(b'{"tenant":1,"of":2}'))
    told = await refusal(world(offer(binding=BOUND)), what)
    assert (type(told), told.wire.jsonrpc) == (InvalidParams, -32602)
    assert "`tenant`, `of`" in told.message
    hidden = await refusal(world(offer(binding=BOUND), policy=hides("read")), what)
    assert isinstance(hidden, UnknownName)


# Kept from world to world


@pytest.mark.requirement("judge:memo-per-caller")
async def test_what_a_caller_sees_of_a_version_is_asked_once_while_the_policy_is_the_same() -> None:
    rules = Rules()
    first = world(policy=rules)
    await visible_tools(first, agent(), asked(Verb.TOOLS_LIST))
    count = len(rules.asked)
    second = dataclasses.replace(world(policy=rules, epoch=2), kept=first.kept)
    assert len((await visible_tools(second, agent(), asked(Verb.TOOLS_LIST))).offers) == 2
    assert len(rules.asked) == count
    tagged = published("notes", ["read", "write"], tags=("pii",))
    third = dataclasses.replace(world_of(tagged, policy=rules, epoch=3), kept=first.kept)
    await visible_tools(third, agent(), action(Verb.TOOLS_LIST, "notes", None))
    assert len(rules.asked) == count + 2


@pytest.mark.requirement("judge:memo-per-caller")
async def test_what_an_accident_decided_is_not_kept() -> None:
    answers = [decision(Effect.DENY, rule="engine:error"), *[decision(Effect.ALLOW)] * 3]
    rules = Rules(lambda q: answers.pop(0))
    first = world_of(published(tools=["a", "b"]), policy=rules)
    one = action(Verb.TOOLS_LIST, "notes", None)
    assert [o.name for o in (await visible_tools(first, agent(), one)).offers] == ["b"]
    second = dataclasses.replace(first, memo={})
    assert [o.name for o in (await visible_tools(second, agent(), one)).offers] == ["a", "b"]
