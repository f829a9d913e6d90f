"""Streams over several servers: whose changes they tell, what is subscribed to behind them, and who listens there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from mcpgw.backoff import Backoff
from mcpgw.domain import SYSTEM, Action, ClientFacts, Effect, Part, PartKind, Scope, Verb
from mcpgw.errors import InvalidParams, UpstreamUnreachable
from tests.eventually import eventually
from tests.parts import Rules, action, switch
from tests.upstream.calls import HandClock
from tests.upstream.several import House, Open, Refused, Server

MODERN = ClientFacts(protocol_version="2026-07-28", modern=True)
LEGACY = ClientFacts(protocol_version="2025-06-18", modern=False)
CHANGED = "notifications/{}/list_changed"
UPDATED = "notifications/resources/updated"
EVERYTHING = {"toolsListChanged": True, "promptsListChanged": True, "resourcesListChanged": True}


@pytest.fixture
async def houses() -> AsyncIterator[list[House]]:
    opened: list[House] = []
    yield opened
    for house in opened:
        await house.aclose()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcpgw.upstream.follow.FIRST_WAIT_S", 0.01)
    monkeypatch.setattr("mcpgw.watches.FIRST_WAIT_S", 0.01)
    monkeypatch.setattr("mcpgw.watches.LINGER_S", 0.05)


def house(houses: list[House], policy: Rules | None = None, **servers: Server) -> House:
    made = House(servers, policy)
    houses.append(made)
    return made


def telling(*kinds: str, era: str = "modern") -> Server:
    """A server that tells when these lists change."""
    server = Server()
    server.capabilities = {kind: {"listChanged": kind in kinds} for kind in ("tools", "prompts", "resources")}
    server.era = era
    return server


def listening(watched: dict[str, list[str]] | None = None, **wanted: Any) -> Action:
    forwarded = {"notifications": json.dumps(wanted).encode(), "#id": b'"sub-1"'}
    if watched is not None:
        forwarded["#watched"] = json.dumps(watched).encode()
    return action(Verb.LISTEN, None, None, client=MODERN, forwarded=forwarded)


def streaming() -> Action:
    return action(Verb.STREAM, None, None, client=LEGACY, session="s-1")


def subscribing(uri: str = "test://x", server: str = "a", verb: Verb = Verb.RESOURCES_SUBSCRIBE) -> Action:
    return action(verb, server, uri, client=LEGACY, session="s-1", resource="/mcp")


async def opened(server: Server) -> Open:
    with anyio.fail_after(5):
        return await server.opened.get()


# What is told


@pytest.mark.requirement("several:streams")
async def test_a_subscription_is_told_of_the_lists_that_it_asked_for_of_servers_that_it_sees(
    houses: list[House],
) -> None:
    hidden = Rules(lambda q: Effect.DENY if q.version is not None and q.version.server == "vault" else Effect.ALLOW)
    home = house(houses, hidden, a=Server(), vault=Server())
    stream = home.open(listening(promptsListChanged=True, resourcesListChanged=True))
    assert await stream.message() == {
        "jsonrpc": "2.0",
        "method": "notifications/subscriptions/acknowledged",
        "params": {
            "notifications": {"promptsListChanged": True, "resourcesListChanged": True},
            "_meta": {"io.modelcontextprotocol/subscriptionId": "sub-1"},
        },
    }
    home.notices.server_said("vault", "prompts")
    home.notices.server_said("a", "tools")
    home.notices.server_said("a", "resources")
    assert await stream.message() == {
        "jsonrpc": "2.0",
        "method": CHANGED.format("resources"),
        "params": {"_meta": {"io.modelcontextprotocol/subscriptionId": "sub-1"}},
    }
    await stream.close()


@pytest.mark.requirement("several:streams")
async def test_one_change_that_a_server_tells_on_many_streams_is_told_once(houses: list[House]) -> None:
    home = house(houses, a=Server())
    stream = home.open(streaming())
    await stream.next()
    for _ in range(20):
        home.notices.server_said("a", "prompts")
    await asyncio.sleep(0)
    home.notices.server_said("a", "resources")
    assert (await stream.message())["method"] == CHANGED.format("prompts")
    assert (await stream.message())["method"] == CHANGED.format("resources")
    await stream.close()


@pytest.mark.requirement("several:streams")
async def test_a_kill_of_a_server_is_told_for_each_list_that_it_has(houses: list[House]) -> None:
    a, b = Server(), Server()
    a.capabilities = {"prompts": {}, "tools": {}}
    home = house(houses, a=a, b=b)
    for server in (a, b):  # what it can do is known
        await home.capabilities.of(home.world.catalog.active()[0 if server is a else 1])
    stream = home.open(streaming())
    await stream.next()
    home.change(switches=(switch(Scope.SERVER, "a"),))
    told = {(await stream.message())["method"] for _ in range(2)}
    assert told == {CHANGED.format("tools"), CHANGED.format("prompts")}
    home.change(switches=(switch(Scope.SERVER, "a"), switch(Scope.SERVER, "b")))
    told = {(await stream.message())["method"] for _ in range(3)}
    assert told == {CHANGED.format(kind) for kind in ("tools", "prompts", "resources")}
    await stream.close()


@pytest.mark.requirement("several:streams")
async def test_another_policy_is_told_for_what_cannot_be_compared(houses: list[House]) -> None:
    home = house(houses, a=Server())
    stream = home.open(streaming())
    await stream.next()
    other = Rules()
    other.sha256 = "other rules"
    home.change(policy=other)
    told = {(await stream.message())["method"] for _ in range(2)}
    assert told == {CHANGED.format("prompts"), CHANGED.format("resources")}
    await stream.close()


# Who listens


@pytest.mark.requirement("several:watch")
async def test_all_streams_of_clients_share_one_stream_of_the_gateways_to_each_server(houses: list[House]) -> None:
    modern, legacy = telling("prompts", "tools"), telling("resources", era="legacy")
    home = house(houses, modern=modern, legacy=legacy, mute=telling())
    readers = [home.open(listening(**EVERYTHING), who=f"agent-{n}") for n in range(5)]
    for reader in readers:
        await reader.next()
    watched = await opened(modern), await opened(legacy)
    (asked,), (streamed,) = modern.asked_for(Verb.LISTEN), legacy.asked_for(Verb.STREAM)
    assert json.loads(asked.forwarded["notifications"]) == {"promptsListChanged": True, "toolsListChanged": True}
    assert asked.client is None and streamed.client is None
    assert home.board.get(asked.id) is not None and home.board.calls[asked.id].who is SYSTEM
    assert home.servers["mute"].asked_for(Verb.LISTEN) == home.servers["mute"].asked_for(Verb.STREAM) == []
    for reader in readers:
        assert not watched[0].closed.is_set()
        await reader.close()
    for stream in watched:
        with anyio.fail_after(5):
            await stream.closed.wait()


@pytest.mark.requirement("several:watch")
async def test_the_gateways_stream_is_opened_again_when_it_ends(houses: list[House]) -> None:
    server = telling("tools")
    home = house(houses, a=server)
    stream = home.open(listening(toolsListChanged=True))
    assert (await stream.message())["method"] == "notifications/subscriptions/acknowledged"
    (await opened(server)).said.put_nowait(None)
    # What changed meanwhile nobody has heard.
    assert (await stream.message())["method"] == CHANGED.format("tools")
    (await opened(server)).said.put_nowait(UpstreamUnreachable("gone"))
    server.failure = UpstreamUnreachable("gone")
    await eventually(lambda: len(server.asked_for(Verb.LISTEN)) > 4)
    server.failure = None
    again = await opened(server)
    home.change(switches=(switch(Scope.SERVER, "a"),))
    with anyio.fail_after(5):
        await again.closed.wait()
    await stream.close()


@pytest.mark.requirement("several:watch")
def test_attempts_that_fail_come_later_and_later_until_one_has_lasted() -> None:
    clock = HandClock()
    backoff = Backoff(clock.monotonic, first_s=1.0, most_s=5.0)
    waits = []
    for lasted_s in (0.0, 0.0, 0.0, 0.0, 4.9, 5.0, 0.0):
        backoff.begin()
        clock.now += lasted_s
        waits.append(backoff.wait_s())
    assert waits == [1.0, 2.0, 4.0, 5.0, 5.0, 1.0, 2.0]


@pytest.mark.requirement("several:watch")
async def test_a_server_without_a_stream_is_not_asked_for_one_again(houses: list[House]) -> None:
    silent, other = telling("tools", era="legacy"), telling("tools")
    silent.streams = False
    home = house(houses, other=other, silent=silent)
    stream = home.open(streaming())
    await eventually(lambda: len(silent.asked_for(Verb.STREAM)) == 1)
    for _ in range(4):  # in which time it would have been asked again
        (await opened(other)).said.put_nowait(None)
    assert len(silent.asked_for(Verb.STREAM)) == 1
    await stream.close()


@pytest.mark.requirement("several:watch")
async def test_a_stream_that_asks_for_no_list_makes_nobody_listen(houses: list[House]) -> None:
    server = telling("tools")
    home = house(houses, a=server)
    quiet = home.open(listening())
    await quiet.message()
    loud = home.open(listening(toolsListChanged=True))
    await opened(server)
    assert len(server.asked_for(Verb.LISTEN)) == 1
    await quiet.close()
    await loud.close()


# Subscriptions


@pytest.mark.requirement("several:subscriptions")
async def test_updates_of_a_modern_subscription_come_from_the_right_server_under_the_callers_uri(
    houses: list[House],
) -> None:
    a, b = Server(), Server()
    home = house(houses, a=a, b=b)
    asked = listening({"a": ["test://x"], "b": ["test://x", "ui://y"]})
    stream = home.open(asked)
    at_a, at_b = await opened(a), await opened(b)
    acknowledged = (await stream.message())["params"]["notifications"]["resourceSubscriptions"]
    assert sorted(acknowledged) == ["mcpgw+a+test://x", "mcpgw+b+test://x", "ui://b/y"]
    at_b.tell(UPDATED, uri="ui://y")
    assert (await stream.message())["params"]["uri"] == "ui://b/y"
    at_a.tell("notifications/prompts/list_changed")  # which was not asked for
    at_a.tell(UPDATED, uri="test://x")
    assert (await stream.message())["params"]["uri"] == "mcpgw+a+test://x"
    children = home.children_of(asked)
    assert sorted((child.server or "", child.verb) for child in children) == [("a", Verb.LISTEN), ("b", Verb.LISTEN)]
    (sent,) = b.asked_for(Verb.LISTEN)
    assert json.loads(sent.forwarded["notifications"]) == {"resourceSubscriptions": ["test://x", "ui://y"]}
    assert sent.forwarded["#id"] == b'"sub-1"'
    await stream.close()
    for at in (at_a, at_b):
        with anyio.fail_after(5):
            await at.closed.wait()
    assert home.board.calls == {}


@pytest.mark.requirement("several:subscriptions")
async def test_what_a_caller_may_not_watch_is_not_acknowledged_and_costs_nothing_else(houses: list[House]) -> None:
    def rule(question: Any) -> Effect:
        return Effect.DENY if question.name == "test://secret" else Effect.ALLOW

    a, b, down = Server(), Server(), Server()
    down.failure = UpstreamUnreachable("gone")
    home = house(houses, Rules(rule), a=a, b=b, down=down)
    stream = home.open(listening({"a": ["test://secret"], "b": ["test://x"], "down": ["test://x"], "none": ["x:y"]}))
    acknowledged = await stream.message()
    assert acknowledged["params"]["notifications"] == {"resourceSubscriptions": ["mcpgw+b+test://x"]}
    assert a.asked_for(Verb.LISTEN) == []
    (await opened(b)).tell(UPDATED, uri="test://x")
    assert (await stream.message())["params"]["uri"] == "mcpgw+b+test://x"
    await stream.close()


@pytest.mark.requirement("several:subscriptions")
async def test_a_server_that_does_not_answer_holds_up_no_acknowledgement_for_long(
    houses: list[House], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcpgw.upstream.follow.OPEN_WITHIN_S", 0.05)
    slow, fine = Server(), Server()
    slow.hangs = True
    home = house(houses, fine=fine, slow=slow)
    stream = home.open(listening({"fine": ["test://x"], "slow": ["test://x"]}))
    acknowledged = await stream.message()
    assert acknowledged["params"]["notifications"] == {"resourceSubscriptions": ["mcpgw+fine+test://x"]}
    assert {call.action.server for call in home.board.calls.values()} == {None, "fine"}
    await stream.close()


@pytest.mark.requirement("several:subscriptions")
async def test_a_subscription_is_held_when_the_servers_stream_ends_and_given_up_when_it_is_killed(
    houses: list[House],
) -> None:
    server = Server()
    home = house(houses, a=server)
    stream = home.open(listening({"a": ["test://x"]}, toolsListChanged=True))
    await stream.message()
    (await opened(server)).said.put_nowait(None)
    again = await opened(server)
    again.tell(UPDATED, uri="test://x")
    assert (await stream.message())["params"]["uri"] == "mcpgw+a+test://x"
    home.change(switches=(switch(Scope.SERVER, "a"),))
    assert (await stream.message())["method"] == CHANGED.format("tools")
    with anyio.fail_after(5):
        await again.closed.wait()
    home.change()
    assert (await stream.message())["method"] == CHANGED.format("tools")
    (await opened(server)).tell(UPDATED, uri="test://x")
    assert (await stream.message())["params"]["uri"] == "mcpgw+a+test://x"
    await stream.close()


@pytest.mark.requirement("several:subscriptions")
@pytest.mark.parametrize("stream_first", [True, False])
async def test_updates_of_a_sessions_subscription_come_on_its_stream_until_it_unsubscribes(
    houses: list[House], stream_first: bool
) -> None:
    a, b = Server(), Server()
    home = house(houses, a=a, b=b)
    stream = None
    if stream_first:
        stream = home.open(streaming())
        await stream.next()
    for uri in ("test://x", "test://y"):
        await home.ask(subscribing(uri))
    if stream is None:
        stream = home.open(streaming())
        await stream.next()
    own = await opened(a)
    if stream_first:  # the server is heard before it is asked
        asked = [action.verb for action in a.asked if action.verb is not Verb.DISCOVER]
        assert asked == [Verb.STREAM, Verb.RESOURCES_SUBSCRIBE, Verb.RESOURCES_SUBSCRIBE]
    assert b.asked_for(Verb.STREAM) == []
    own.tell("notifications/tools/list_changed")  # which the gateway hears by itself
    own.tell(UPDATED, uri="test://x")
    assert (await stream.message())["params"] == {"uri": "mcpgw+a+test://x"}
    await home.ask(subscribing("test://x", verb=Verb.RESOURCES_UNSUBSCRIBE))
    own.tell("notifications/message", level="info", data="still there")
    assert (await stream.message())["method"] == "notifications/message"
    await home.ask(subscribing("test://y", verb=Verb.RESOURCES_UNSUBSCRIBE))
    with anyio.fail_after(5):
        await own.closed.wait()
    await stream.close()


@pytest.mark.requirement("several:subscriptions")
async def test_a_subscription_that_the_server_refuses_is_not_listened_for(houses: list[House]) -> None:
    server = Server()
    server.refusal = {Verb.RESOURCES_SUBSCRIBE: -32602}
    home = house(houses, a=server)
    stream = home.open(streaming())
    await stream.next()
    with pytest.raises(Refused):
        await home.ask(subscribing())
    with anyio.fail_after(5):
        await (await opened(server)).closed.wait()
    await stream.close()
    again = home.open(streaming())
    await again.next()
    assert len(server.asked_for(Verb.STREAM)) == 1
    await again.close()


@pytest.mark.requirement("several:subscriptions")
async def test_a_session_that_is_over_leaves_nothing(houses: list[House]) -> None:
    server = Server()
    home = house(houses, a=server)
    await home.ask(subscribing())
    home.streams.end_session("s-1")
    stream = home.open(streaming())
    await stream.next()
    home.notices.server_said("a", "tools")
    await stream.message()
    assert server.asked_for(Verb.STREAM) == []
    await stream.close()


@pytest.mark.requirement("several:subscriptions")
async def test_a_session_subscribes_to_so_much_and_no_more(
    houses: list[House], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcpgw.upstream.streams.MOST_URIS", 2)
    home = house(houses, a=Server())
    for uri in ("test://1", "test://2"):
        await home.ask(subscribing(uri))
    with pytest.raises(InvalidParams, match="at most"):
        await home.ask(subscribing("test://3"))
    await home.ask(subscribing("test://1", verb=Verb.RESOURCES_UNSUBSCRIBE))
    await home.ask(subscribing("test://3"))


@pytest.mark.requirement("several:subscriptions")
async def test_a_request_that_a_server_makes_on_a_sessions_stream_says_whose_it_is(houses: list[House]) -> None:
    server = Server()
    home = house(houses, a=server)
    await home.ask(subscribing())
    stream = home.open(streaming())
    asks = b'{"jsonrpc":"2.0","id":7,"method":"roots/list"}'
    (await opened(server)).said.put_nowait(Part(PartKind.EVENT, asks))
    while not (part := await stream.next()).body:
        pass
    assert (part.body, part.facts["server"]) == (asks, "a")
    await stream.close()
