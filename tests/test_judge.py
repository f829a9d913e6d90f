"""The verdict: in which order an action is refused, and that what is hidden does not exist."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpgw.domain import (
    SYSTEM,
    VERBS,
    Action,
    Arguments,
    Decision,
    Effect,
    Kind,
    Mode,
    Principal,
    RedactArguments,
    Route,
    Scope,
    Subject,
    Verb,
)
from mcpgw.errors import (
    Denied,
    GatewayError,
    InsufficientScope,
    Killed,
    Quarantined,
    Unavailable,
    UnknownName,
    UnknownSession,
)
from mcpgw.judge import judge
from mcpgw.ports import Question, World
from mcpgw.visible import visible_name, visible_tools
from tests.parts import Rules, action, agent, decision, published, switch, world_of

MCP_VERBS = [verb for verb, rule in VERBS.items() if rule.scope == "mcp:use"]


async def listed_tools(world: World, who: Principal, what: Action) -> list[tuple[str, str]]:
    """Return what a caller sees listed: (server, own name of the tool)."""
    listing = await visible_tools(world, who, what)
    return [(offer.version.server, offer.tool.name) for offer in listing.offers]


async def refusal(world: World, who: Principal, what: Action, **how: bool) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        await judge(world, who, what, **how)
    return caught.value


def looks(error: GatewayError) -> tuple[object, ...]:
    """Everything of a refusal that a caller gets to see."""
    return type(error), error.message, error.fix, dict(error.data), error.wire


# The order of refusals


LADDER: list[tuple[str, type[GatewayError]]] = [
    ("state unreadable", Unavailable),
    ("another's session", UnknownSession),
    ("hidden", UnknownName),
    ("no scope", InsufficientScope),
    ("killed", Killed),
    ("quarantined", Quarantined),
    ("denied", Denied),
]


@pytest.mark.requirement("judge:order")
@pytest.mark.parametrize("first", range(len(LADDER) + 1))
async def test_of_several_reasons_to_refuse_the_earliest_in_the_order_is_told(first: int) -> None:
    faults = {fault for fault, _ in LADDER[first:]}

    def answer(question: Question) -> Effect:
        refused = "hidden" if question.phase == "list" else "denied"
        return Effect.DENY if refused in faults else Effect.ALLOW

    world = world_of(
        published(quarantined=frozenset({"read"}) if "quarantined" in faults else frozenset()),
        policy=Rules(answer),
        switches=[switch(Scope.SERVER, "notes")] if "killed" in faults else [],
        unavailable="the store is away" if "state unreadable" in faults else None,
    )
    who = agent(scopes=frozenset() if "no scope" in faults else frozenset({"mcp:use"}))
    what = action(owner="someone else" if "another's session" in faults else who.key)
    if first == len(LADDER):
        assert (await judge(world, who, what)).decision.effect is Effect.ALLOW
    else:
        assert type(await refusal(world, who, what)) is LADDER[first][1]


@pytest.mark.requirement("judge:order")
@pytest.mark.parametrize("verb", Verb)
async def test_every_verb_needs_its_scope_on_what_the_caller_may_see(verb: Verb) -> None:
    rule = VERBS[verb]
    route = Route.LLM if rule.scope == "llm:use" else Route.MCP
    others = frozenset({"mcp:use", "llm:use", "admin", "audit:read"}) - {rule.scope}
    error = await refusal(world_of(), agent(scopes=others), action(verb, route=route))
    assert isinstance(error, InsufficientScope)
    assert error.data == {"scope": rule.scope}


@pytest.mark.requirement("judge:order")
@pytest.mark.parametrize("effect", [Effect.DENY, Effect.HOLD])
async def test_a_denial_says_which_rule_and_is_never_retryable(effect: Effect) -> None:
    answer = Decision(effect, ("notes.closed", "notes.late"), "p", message="closed at night")
    world = world_of(policy=Rules(lambda q: answer if q.phase == "call" else Effect.ALLOW))
    what = action()
    error = await refusal(world, agent(), what)
    assert isinstance(error, Denied)
    assert error.message == "closed at night"
    assert error.data == {
        "decision_id": what.id,
        "effect": effect.value,
        "rule": "notes.closed",
        "reasons": ["notes.closed", "notes.late"],
        "policy_sha256": "p",
        "retryable": False,
    }


@pytest.mark.requirement("judge:order")
@pytest.mark.parametrize("verb", [v for v, rule in VERBS.items() if rule.acts])
async def test_what_acts_is_asked_in_both_phases_and_the_first_sees_no_arguments(verb: Verb) -> None:
    policy = Rules()
    route = Route.LLM if VERBS[verb].scope == "llm:use" else Route.MCP
    await judge(world_of(policy=policy), agent(), action(verb, route=route, arguments=Arguments(b'{"id":7}')))
    first, second = policy.asked
    assert (first.phase, first.name, first.arguments) == ("list", "read", None)
    assert (second.phase, second.name, second.arguments) == ("call", "read", Arguments(b'{"id":7}'))


# What is hidden does not exist


async def told(world: World, who: Principal, what: Action) -> tuple[object, ...]:
    return looks(await refusal(world, who, what))


@pytest.mark.requirement("judge:invisible-is-unknown")
@pytest.mark.parametrize("pinned", [None, "1.0.0"])
@pytest.mark.parametrize("verb", MCP_VERBS)
async def test_a_hidden_server_answers_like_one_that_nobody_has_on_every_method(verb: Verb, pinned: str | None) -> None:
    what = action(verb, "vault", "open", version=pinned)
    hidden = world_of(
        published(),
        published("vault", ["open"], quarantined=frozenset({"open"})),
        policy=Rules(lambda q: Effect.DENY if q.version and q.version.server == "vault" else Effect.ALLOW),
        switches=[switch(Scope.SERVER, "vault")],
    )
    for who in (agent(), agent(scopes=frozenset())):
        assert await told(hidden, who, what) == await told(world_of(published()), who, what)


@pytest.mark.requirement("judge:invisible-is-unknown")
@pytest.mark.parametrize("verb", [v for v in MCP_VERBS if VERBS[v].acts])
async def test_a_hidden_name_on_a_visible_server_answers_like_one_that_nobody_has(verb: Verb) -> None:
    what = action(verb, name="shred")
    hidden = world_of(
        published(tools=["read", "shred"], quarantined=frozenset({"shred"})),
        policy=Rules(lambda q: Effect.DENY if q.name == "shred" else Effect.ALLOW),
        switches=[switch(Scope.TOOL, "notes/shred")],
    )
    # What exists beside the tools is not pinned: there, a name that nobody has is for the server to refuse.
    nobody = Rules(lambda q: Effect.ALLOW if q.name != "shred" or VERBS[verb].subject is Subject.TOOL else Effect.DENY)
    absent = world_of(published(tools=["read"]), policy=nobody)
    for who in (agent(), agent(scopes=frozenset())):
        assert await told(hidden, who, what) == await told(absent, who, what)


@pytest.mark.requirement("judge:invisible-is-unknown")
@pytest.mark.parametrize("verb", [v for v, rule in VERBS.items() if rule.acts])
async def test_over_all_servers_a_name_that_no_server_has_is_unknown_whatever_the_policy_says(verb: Verb) -> None:
    error = await refusal(world_of(), agent(), action(verb, None, "nobody__has"))
    assert isinstance(error, UnknownName)
    assert error.message.endswith(": nobody__has")


@pytest.mark.requirement("judge:invisible-is-unknown")
@pytest.mark.parametrize("verb", [Verb.CHAT, Verb.TOOLS_PROPOSE])
async def test_a_hidden_model_is_unknown_before_it_is_killed_or_out_of_scope(verb: Verb) -> None:
    what = action(verb, "acme", "large", route=Route.LLM)
    hidden = world_of(policy=Rules(lambda q: Effect.DENY), switches=[switch(Scope.PROVIDER, "acme")])
    assert isinstance(await refusal(hidden, agent(scopes=frozenset()), what), UnknownName)


@pytest.mark.requirement("judge:invisible-is-unknown")
@pytest.mark.parametrize("verb", Verb)
async def test_anothers_session_does_not_exist_on_any_method(verb: Verb) -> None:
    what = action(verb, owner=agent("bob").key, session="s")
    error = await refusal(world_of(), agent("ada"), what)
    assert isinstance(error, UnknownSession)
    assert "bob" not in str(error)


@pytest.mark.requirement("judge:invisible-is-unknown")
@pytest.mark.parametrize(
    ("verb", "forwarded"),
    [
        (Verb.COMPLETE, {"ref": b'{"type":"ref/prompt","name":"shred"}', "argument": b'{"name":"a","value":""}'}),
        (Verb.COMPLETE, {"ref": b'{"type":"ref/resource","uri":"shred"}', "argument": b'{"name":"a","value":""}'}),
        (Verb.LISTEN, {"notifications": b'{"resourceSubscriptions":["shred"]}'}),
    ],
)
async def test_a_hidden_name_cannot_be_completed_or_watched(verb: Verb, forwarded: dict[str, bytes]) -> None:
    hidden = world_of(policy=Rules(lambda q: Effect.DENY if q.name == "shred" else Effect.ALLOW))
    assert isinstance(await refusal(hidden, agent(), action(verb, name=None, forwarded=forwarded)), UnknownName)


async def test_a_server_is_visible_when_any_of_its_tools_is() -> None:
    policy = Rules(lambda q: Effect.ALLOW if q.name == "write" else Effect.DENY)
    await judge(world_of(policy=policy), agent(), action(Verb.PING))
    nothing = Rules(lambda q: Effect.DENY)
    assert isinstance(await refusal(world_of(policy=nothing), agent(), action(Verb.PING)), UnknownName)


async def test_the_gateway_itself_sees_every_server_but_passes_kill_switches_like_anyone() -> None:
    what = action(Verb.TOOLS_LIST, name=None, route=Route.SYSTEM)
    blind = Rules(lambda q: Effect.DENY)
    assert (await judge(world_of(policy=blind), SYSTEM, what)).version is not None
    killed = world_of(policy=blind, switches=[switch(Scope.SERVER, "notes")])
    assert isinstance(await refusal(killed, SYSTEM, what), Killed)


# Kill switches and quarantine


@pytest.mark.requirement("judge:killed")
async def test_a_killed_call_names_the_switch_and_the_others_go_on() -> None:
    standing = switch(Scope.TOOL, "notes/read")
    world = world_of(switches=[standing])
    error = await refusal(world, agent(), action(name="read"))
    assert error.data == {"reason": "killed", "switch": standing.id}
    await judge(world, agent(), action(name="write"))


@pytest.mark.requirement("judge:killed")
@pytest.mark.parametrize(("mode", "goes_on"), [(Mode.DRAIN, True), (Mode.HARD, False)])
async def test_draining_lets_what_runs_finish_and_stops_what_is_new(mode: Mode, goes_on: bool) -> None:
    world = world_of(switches=[switch(Scope.SERVER, "notes", mode)])
    assert isinstance(await refusal(world, agent(), action()), Killed)
    if goes_on:
        await judge(world, agent(), action(), running=True)
    else:
        assert isinstance(await refusal(world, agent(), action(), running=True), Killed)


@pytest.mark.requirement("judge:killed")
async def test_a_version_switch_stops_the_active_version_also_when_the_call_names_none() -> None:
    world = world_of(
        published(version="2.0.0"), published(version="1.0.0"), switches=[switch(Scope.VERSION, "notes@2.0.0")]
    )
    assert isinstance(await refusal(world, agent(), action()), Killed)
    await judge(world, agent(), action(version="1.0.0"))


@pytest.mark.requirement("judge:quarantined")
async def test_a_quarantined_tool_is_refused_and_the_others_of_its_server_go_on() -> None:
    world = world_of(published(quarantined=frozenset({"read"})))
    assert isinstance(await refusal(world, agent(), action(name="read")), Quarantined)
    await judge(world, agent(), action(name="write"))


# Redaction


def redacting(*pointers: str, then: Callable[[Any], bool] = lambda arguments: True) -> Rules:
    def answer(question: Question) -> Decision:
        if question.arguments is None:
            return decision(Effect.ALLOW)
        allowed = then(json.loads(question.arguments.raw))
        return decision(Effect.ALLOW if allowed else Effect.DENY, RedactArguments(pointers))

    return Rules(answer)


@pytest.mark.requirement("judge:redaction")
async def test_redacted_arguments_are_judged_again_and_are_what_is_sent() -> None:
    policy = redacting("/ssn")
    judged = await judge(world_of(policy=policy), agent(), action(arguments=Arguments(b'{"ssn":"078-05","q":1}')))
    seen = [q.arguments.raw for q in policy.asked if q.arguments is not None]
    assert seen == [b'{"ssn":"078-05","q":1}', b'{"ssn":"[redacted]","q":1}']
    assert judged.arguments.raw == seen[-1]


@pytest.mark.requirement("judge:redaction")
async def test_a_rule_that_refuses_the_redacted_arguments_denies_the_call() -> None:
    policy = redacting("/ssn", then=lambda arguments: arguments["ssn"] != "[redacted]")
    error = await refusal(world_of(policy=policy), agent(), action(arguments=Arguments(b'{"ssn":"078-05"}')))
    assert isinstance(error, Denied)


@pytest.mark.requirement("judge:redaction")
async def test_redactions_that_breed_redactions_deny_the_call() -> None:
    """Each round names one more argument: two rounds are allowed, the third denies."""

    def answer(question: Question) -> Decision:
        if question.arguments is None:
            return decision(Effect.ALLOW)
        done = question.arguments.raw.count(b"[redacted]")
        return decision(Effect.ALLOW, RedactArguments(tuple(f"/{i}" for i in range(done + 1))))

    raw = json.dumps({str(i): "secret" for i in range(9)}).encode()
    error = await refusal(world_of(policy=Rules(answer)), agent(), action(arguments=Arguments(raw)))
    assert isinstance(error, Denied)
    assert error.data["rule"] == "redaction"
    two = json.dumps({str(i): "secret" for i in range(2)}).encode()
    judged = await judge(world_of(policy=Rules(answer)), agent(), action(arguments=Arguments(two)))
    assert b"secret" not in judged.arguments.raw


@pytest.mark.requirement("judge:redaction")
async def test_without_a_redaction_the_very_bytes_that_came_are_judged_and_sent() -> None:
    held = Arguments(b'{ "b":1.50, "a":[ ]}')
    judged = await judge(world_of(policy=redacting("/absent")), agent(), action(arguments=held))
    assert judged.arguments is held


# Lists


NAMES = [(server, tool) for server in ("files", "notes") for tool in ("a", "b", "c")]


@pytest.mark.requirement("judge:list-is-callable")
@given(
    listed=st.frozensets(st.sampled_from(NAMES)),
    allowed=st.frozensets(st.sampled_from(NAMES)),
    killed=st.frozensets(st.sampled_from(NAMES), max_size=2),
    server=st.sampled_from([None, "files", "notes"]),
)
async def test_what_is_not_listed_is_not_callable_and_what_is_listed_is_not_unknown(
    listed: frozenset[tuple[str, str]],
    allowed: frozenset[tuple[str, str]],
    killed: frozenset[tuple[str, str]],
    server: str | None,
) -> None:
    def answer(question: Question) -> Effect:
        asked = (question.version.server if question.version else "", question.name or "")
        return Effect.ALLOW if asked in (listed if question.phase == "list" else allowed) else Effect.DENY

    world = world_of(
        published("files", "abc"),
        published("notes", "abc"),
        policy=Rules(answer),
        switches=[switch(Scope.TOOL, f"{slug}/{tool}") for slug, tool in sorted(killed)],
    )
    seen = set(await listed_tools(world, agent(), action(Verb.TOOLS_LIST, server, None)))
    for slug, tool in NAMES:
        if server not in (None, slug):
            continue
        try:
            await judge(world, agent(), action(server=slug, name=tool))
            outcome: type[GatewayError] | None = None
        except GatewayError as error:
            outcome = type(error)
        if (slug, tool) in seen:
            assert outcome in (None, Denied)
        else:
            assert outcome in (UnknownName, Killed)
            assert (outcome is UnknownName) == ((slug, tool) not in listed)


@pytest.mark.requirement("judge:list-is-callable")
async def test_a_list_over_all_servers_goes_by_slug_and_keeps_the_order_of_the_pins() -> None:
    world = world_of(published("notes", ["z", "a"]), published("files", ["m"]))
    judged = await judge(world, agent(), action(Verb.TOOLS_LIST, None, None))
    assert judged.visible is not None
    listed = [(offer.version.server, offer.tool.name) for offer in judged.visible.offers]
    assert listed == [("files", "m"), ("notes", "z"), ("notes", "a")]


@pytest.mark.requirement("judge:list-is-callable")
@pytest.mark.parametrize("effect", Effect)
async def test_an_item_that_is_not_pinned_leaves_a_list_only_when_the_policy_allows_it(effect: Effect) -> None:
    world = world_of(policy=Rules(lambda q: effect))
    listing = action(Verb.RESOURCES_LIST, name=None)
    shown = await visible_name(world, agent(), listing, published(), "notes://diary")
    assert shown is (effect is Effect.ALLOW)


# What is remembered belongs to one caller


DIFFERENT: dict[str, Any] = {
    "issuer": "https://other.example",
    "subject": "bob",
    "client_id": "phone",
    "kind": Kind.USER,
    "roles": frozenset({"writer"}),
    "scopes": frozenset({"mcp:use"}),
    "team": "blue",
    "actors": ("relay",),
    "claims": {"clearance": {"level": 3}},
    "credential": "key-2",
}


@pytest.mark.requirement("judge:memo-per-caller")
@pytest.mark.parametrize("field", DIFFERENT)
async def test_callers_that_differ_in_anything_a_policy_sees_share_no_list(field: str) -> None:
    other = dataclasses.replace(agent(), **{field: DIFFERENT[field]})
    policy = Rules(lambda q: Effect.ALLOW if getattr(q.principal, field) == DIFFERENT[field] else Effect.DENY)
    world = world_of(policy=policy)
    listing = action(Verb.TOOLS_LIST, None, None)
    assert not await listed_tools(world, agent(), listing)
    assert len(await listed_tools(world, other, listing)) == 2
    assert not await listed_tools(world, agent(), listing)
    await judge(world, other, action(Verb.PING))
    assert isinstance(await refusal(world, agent(), action(Verb.PING)), UnknownName)


@pytest.mark.requirement("judge:memo-per-caller")
async def test_callers_whose_names_only_read_alike_when_joined_share_no_list() -> None:
    one, other = agent("a|b", client_id="c"), agent("a", client_id="b|c")
    world = world_of(policy=Rules(lambda q: Effect.ALLOW if q.principal.subject == "a" else Effect.DENY))
    listing = action(Verb.TOOLS_LIST, None, None)
    assert len(await listed_tools(world, other, listing)) == 2
    assert not await listed_tools(world, one, listing)


@pytest.mark.requirement("judge:memo-per-caller")
async def test_a_list_is_remembered_for_its_caller_as_long_as_the_world_lasts() -> None:
    policy = Rules()
    world = world_of(policy=policy)
    listing = action(Verb.TOOLS_LIST, None, None)
    first = await visible_tools(world, agent(), listing)
    asked = len(policy.asked)
    assert await visible_tools(world, agent(), listing) is first
    assert len(policy.asked) == asked
    assert await listed_tools(world_of(policy=Rules(lambda q: Effect.DENY), epoch=2), agent(), listing) == []


@pytest.mark.requirement("judge:memo-per-caller")
async def test_one_server_and_all_servers_and_a_pinned_version_are_different_lists() -> None:
    world = world_of(published("files", ["m"]), published(version="2.0.0", tools=["new"]), published(tools=["old"]))
    lists = [
        [tool for _, tool in await listed_tools(world, agent(), action(Verb.TOOLS_LIST, server, None, version=version))]
        for server, version in ((None, None), ("notes", None), ("notes", "1.0.0"), ("files", None))
    ]
    assert lists == [["m", "new"], ["new"], ["old"], ["m"]]


@pytest.mark.requirement("judge:pure")
@pytest.mark.parametrize("verb", MCP_VERBS)
async def test_the_same_question_has_the_same_verdict(verb: Verb) -> None:
    world = world_of(policy=redacting("/ssn"), switches=[switch(Scope.PRINCIPAL, "https://id.example|mallory")])
    what = action(verb, arguments=Arguments(b'{"ssn":1}'))
    assert await judge(world, agent(), what) == await judge(world, agent(), what)
    assert looks(await refusal(world, agent("mallory"), what)) == looks(await refusal(world, agent("mallory"), what))
