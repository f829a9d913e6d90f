"""What an endpoint over several servers can do, what it is told of, and in whose name it asks."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from mcpgw.capabilities import FRESH_S, RETRY_S, LearntCapabilities, capabilities_of
from mcpgw.domain import Action, ClientFacts, Effect, Era, Part, PartKind, Route, Scope, ServerVersion, Verb
from mcpgw.errors import ClientGone, InvalidParams, Unavailable, UpstreamFailed, UpstreamUnreachable
from mcpgw.ports import Capabilities, Question
from tests.eventually import eventually
from tests.parts import Rules, action, switch
from tests.upstream.calls import HandClock
from tests.upstream.several import House, Server

MODERN = ClientFacts(protocol_version="2026-07-28", modern=True)
LEGACY = ClientFacts(protocol_version="2025-06-18", modern=False)


@pytest.fixture
async def houses() -> AsyncIterator[list[House]]:
    opened: list[House] = []
    yield opened
    for house in opened:
        await house.aclose()


def house(houses: list[House], policy: Rules | None = None, **servers: Server) -> House:
    made = House(servers, policy)
    houses.append(made)
    return made


def able(**capabilities: Any) -> Server:
    server = Server()
    server.capabilities = {"tools": {}, **capabilities}
    return server


def greeting(client: ClientFacts) -> Action:
    return action(Verb.DISCOVER if client.modern else Verb.INITIALIZE, None, None, client=client)


async def known(home: House) -> None:
    """Wait until every server has said what it can do."""
    for version in home.world.catalog.active():
        await home.capabilities.of(version)


# What is announced


@pytest.mark.requirement("several:capabilities")
@pytest.mark.parametrize("client", [MODERN, LEGACY])
async def test_what_any_visible_server_can_do_is_announced_and_nothing_else(
    houses: list[House], client: ClientFacts
) -> None:
    def rule(question: Question) -> Effect:
        hidden = question.version is not None and question.version.server == "vault"
        return Effect.DENY if hidden else Effect.ALLOW

    home = house(
        houses,
        Rules(rule),
        plain=able(),
        prompts=able(prompts={}),
        watched=able(resources={"subscribe": True}),
        vault=able(logging={}, completions={}),
    )
    await known(home)
    announced = (await home.ask(greeting(client)))["capabilities"]
    assert announced == {
        "tools": {"listChanged": True},
        "prompts": {"listChanged": True},
        "resources": {"listChanged": True, "subscribe": True},
    }
    home.change(switches=(switch(Scope.SERVER, "watched"),))
    announced = (await home.ask(greeting(client)))["capabilities"]
    assert announced == {"tools": {"listChanged": True}, "prompts": {"listChanged": True}}


@pytest.mark.requirement("several:capabilities")
async def test_a_handshake_waits_for_no_server_and_asks_none_twice(houses: list[House]) -> None:
    silent, plain = able(prompts={}), able()
    silent.hangs = True
    home = house(houses, silent=silent, plain=plain)
    with anyio.fail_after(1):
        first = (await home.ask(greeting(LEGACY)))["capabilities"]
    assert set(first) == {"tools", "prompts", "resources", "completions", "logging"}, "what may be there is announced"
    await eventually(lambda: bool(silent.asked and plain.asked))
    for _ in range(3):
        await home.ask(greeting(LEGACY))
    assert (len(silent.asked), len(plain.asked)) == (1, 1)


@pytest.mark.requirement("several:capabilities")
async def test_the_gateway_asks_by_itself_recorded_like_any_call(houses: list[House]) -> None:
    home = house(houses, a=able())
    await known(home)
    ((what, asked), _) = home.records
    assert (what, asked.verb, asked.server, asked.route) == ("intent", Verb.DISCOVER, "a", Route.SYSTEM)


# What is remembered


class Answers:
    """A gateway that carries out nothing but handshakes, and counts them."""

    def __init__(self) -> None:
        self.asked = 0
        self.answer: bytes | BaseException = b'{"capabilities":{"prompts":{"listChanged":true}}}'

    async def handle(self, presented: Any, action: Action, deliver: Any) -> None:
        self.asked += 1
        if isinstance(self.answer, BaseException):
            raise self.answer
        await deliver(Part(PartKind.WHOLE, self.answer, facts={"era": "legacy"}))


@pytest.fixture
def version() -> ServerVersion:
    home = House({"a": Server()})
    found: ServerVersion = home.world.catalog.active()[0]
    return found


@pytest.mark.requirement("several:capabilities")
async def test_what_a_server_said_is_kept_and_asked_for_anew_after_a_while(version: ServerVersion) -> None:
    clock, answers = HandClock(), Answers()
    learnt = LearntCapabilities(clock, lambda version: True)
    learnt.serve(answers)
    said = Capabilities(era=Era.LEGACY, prompts=True, announces=frozenset({"prompts"}))
    assert learnt.known(version) is None
    assert await learnt.of(version) == said
    clock.now += FRESH_S
    assert await learnt.of(version) == said
    assert answers.asked == 1
    clock.now += 1
    answers.answer = b'{"capabilities":{}}'
    assert learnt.known(version) == said, "the older answer, meanwhile"
    await eventually(lambda: learnt.known(version) != said)
    assert answers.asked == 2
    await learnt.aclose()


@pytest.mark.requirement("several:capabilities")
async def test_a_server_that_does_not_say_is_asked_again_later_and_at_once_by_who_needs_to_know(
    version: ServerVersion,
) -> None:
    clock, answers = HandClock(), Answers()
    learnt = LearntCapabilities(clock, lambda version: True)
    learnt.serve(answers)
    answers.answer = UpstreamUnreachable("down")
    with pytest.raises(UpstreamUnreachable):
        await learnt.of(version)
    assert learnt.known(version) is None
    assert answers.asked == 1
    with pytest.raises(UpstreamUnreachable):
        await learnt.of(version)
    clock.now += RETRY_S
    assert learnt.known(version) is None
    answers.answer = b"[]"
    await eventually(lambda: answers.asked >= 3)
    await learnt.aclose()


@pytest.mark.requirement("several:capabilities")
async def test_a_worker_does_not_ask_the_servers_of_another(version: ServerVersion) -> None:
    answers = Answers()
    learnt = LearntCapabilities(HandClock(), lambda version: False)
    learnt.serve(answers)
    assert learnt.known(version) is None
    with pytest.raises(Unavailable):
        await learnt.of(version)
    assert answers.asked == 0


@pytest.mark.requirement("several:capabilities")
@pytest.mark.parametrize("body", [b"[]", b'{"capabilities":7}', b"not JSON"])
def test_an_answer_that_is_no_handshake_says_nothing(body: bytes) -> None:
    with pytest.raises(UpstreamFailed):
        capabilities_of(Part(PartKind.WHOLE, body))


# Log levels


def at_level(level: Any) -> Action:
    forwarded = {"level": json.dumps(level).encode()}
    return action(Verb.SET_LEVEL, None, None, client=LEGACY, session="s-1", forwarded=forwarded)


@pytest.mark.requirement("several:level")
async def test_a_level_is_told_to_the_servers_that_the_session_is_open_with(houses: list[House]) -> None:
    opened, other, mute, down = able(logging={}), able(logging={}), able(), able(logging={})
    home = house(houses, opened=opened, other=other, mute=mute, down=down)
    await known(home)
    home.open_with = frozenset({"opened", "mute", "down"})
    down.failure = UpstreamUnreachable("gone")
    asked = at_level("error")
    assert await home.ask(asked) == {}
    (told,) = opened.asked_for(Verb.SET_LEVEL)
    assert (told.parent, told.session, told.forwarded) == (asked.id, "s-1", {"level": b'"error"'})
    assert other.asked_for(Verb.SET_LEVEL) == mute.asked_for(Verb.SET_LEVEL) == []
    assert len(down.asked_for(Verb.SET_LEVEL)) == 1, "a server that is gone does not keep it from the others"


@pytest.mark.requirement("several:level")
@pytest.mark.parametrize("level", ["loud", None, 7])
async def test_a_level_that_there_is_not_is_told_to_nobody(houses: list[House], level: Any) -> None:
    server = able(logging={})
    home = house(houses, a=server)
    home.open_with = frozenset({"a"})
    with pytest.raises(InvalidParams, match="log level"):
        await home.ask(at_level(level))
    assert server.asked_for(Verb.SET_LEVEL) == []


# Child actions


@pytest.mark.requirement("several:children")
async def test_a_child_of_a_request_that_is_over_is_not_carried_out(houses: list[House]) -> None:
    home = house(houses, a=Server())
    child = home.children.of(action(Verb.PROMPTS_LIST, None, None, client=MODERN), Verb.PROMPTS_LIST, "a", {})

    async def never(part: Part) -> None:
        raise AssertionError("an answer")

    with pytest.raises(ClientGone):
        await home.children.carry_out(child, never)
    assert home.servers["a"].asked == []


@pytest.mark.requirement("several:children")
async def test_a_child_may_do_only_what_its_caller_may(houses: list[House]) -> None:
    home = house(houses, Rules(lambda q: Effect.DENY if q.principal.subject == "eve" else Effect.ALLOW), a=Server())
    result = await home.ask(action(Verb.PROMPTS_LIST, None, None, client=MODERN), who="eve")
    assert result["prompts"] == []
    assert home.servers["a"].asked == []
