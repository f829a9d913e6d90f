"""What changes on a modern server, told on the GET stream of a client of the handshake era."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import anyio
import pytest

from mcpgw.domain import Part, PartKind, Verb
from mcpgw.errors import InvalidParams, Killed, MethodNotAllowed, UpstreamFailed, UpstreamTimeout, WorldMoved
from mcpgw.ports import Gate
from mcpgw.upstream import mcp_for_legacy, mcp_for_legacy_stream
from mcpgw.upstream.http import HttpClient
from mcpgw.upstream.mcp_for_legacy_stream import Listening, Told
from mcpgw.upstream.mcp_http import McpHttpUpstream
from mcpgw.upstream.mcp_modern import ModernStream
from tests.fixtures.raw_http import Peer
from tests.upstream.calls import BOB, LIMITS, Caller, CountingGate, HandClock, mcp_http
from tests.upstream.scripted import STREAM, Asked, event, refusal, reply, said, scripted
from tests.upstream.stateless import Listens, Stateless
from tests.upstream.test_mcp_for_legacy import client_of

WATCHED, OTHER = "test://watched-resource", "test://static-text"
TOOLS, PROMPTS = "notifications/tools/list_changed", "notifications/prompts/list_changed"
UPDATED = "notifications/resources/updated"
LISTS = {"toolsListChanged": True, "promptsListChanged": True, "resourcesListChanged": True}


class Reading:
    """A client that reads its GET stream."""

    def __init__(self, parts: AsyncIterator[Part]) -> None:
        self._parts = parts
        self.alive = 0

    async def next(self) -> dict[str, Any]:
        """Return the next message."""
        with anyio.fail_after(10):
            async for part in self._parts:
                if part.kind is PartKind.EVENT and part.body:
                    message: dict[str, Any] = json.loads(part.body)
                    return message
                self.alive += 1
        raise AssertionError("the stream has ended")


@asynccontextmanager
async def reading(caller: Caller, gate: Gate | None = None) -> AsyncIterator[Reading]:
    exchange = await caller.send(Verb.STREAM, gate)
    try:
        yield Reading(aiter(exchange))
    finally:
        await exchange.aclose(None)


def subscription(uri: str, verb: Verb = Verb.RESOURCES_SUBSCRIBE) -> dict[str, Any]:
    return {"verb": verb, "name": uri}


@pytest.fixture
def legacy(upstream: McpHttpUpstream, modern_server: str) -> Caller:
    return client_of(upstream, modern_server)


# A real server


@pytest.mark.requirement("for-legacy:listens")
async def test_changed_lists_and_updates_are_told_without_the_subscription(legacy: Caller) -> None:
    assert (await legacy.ask(**subscription(WATCHED))).result == {}
    async with reading(legacy) as stream:
        await legacy.call("test_trigger_tool_change")
        await legacy.call("test_trigger_prompt_change")
        told = [await stream.next() for _ in range(4)]
    assert told == [
        {"jsonrpc": "2.0", "method": TOOLS},
        {"jsonrpc": "2.0", "method": UPDATED, "params": {"uri": WATCHED}},
        {"jsonrpc": "2.0", "method": PROMPTS},
        {"jsonrpc": "2.0", "method": UPDATED, "params": {"uri": WATCHED}},
    ]


@pytest.mark.requirement("for-legacy:listens")
async def test_a_resource_is_watched_from_its_subscription_until_that_is_taken_back(legacy: Caller) -> None:
    async with reading(legacy) as stream:
        await legacy.call("test_trigger_tool_change")
        assert (await stream.next())["method"] == TOOLS
        await legacy.ask(**subscription(WATCHED))
        await legacy.call("test_trigger_tool_change")
        assert [(await stream.next())["method"] for _ in range(2)] == [TOOLS, UPDATED]
        await legacy.ask(**subscription(WATCHED, Verb.RESOURCES_UNSUBSCRIBE))
        await legacy.call("test_trigger_tool_change")
        await legacy.call("test_trigger_prompt_change")
        assert [(await stream.next())["method"] for _ in range(2)] == [TOOLS, PROMPTS]


# One listen for each session


@pytest.mark.requirement("for-legacy:listens")
async def test_another_listen_begins_before_those_that_it_replaces_end(upstream: McpHttpUpstream) -> None:
    listens = Listens()
    async with scripted(Stateless(subscriptions_listen=listens)) as server:
        caller = client_of(upstream, server.url)
        async with reading(caller) as stream:
            await caller.ask(**subscription(WATCHED))
            await caller.ask(**subscription(OTHER))
            await caller.ask(**subscription(WATCHED, Verb.RESOURCES_UNSUBSCRIBE))
            assert listens.wanted == [
                LISTS,
                {**LISTS, "resourceSubscriptions": [WATCHED]},
                {**LISTS, "resourceSubscriptions": [OTHER, WATCHED]},
                {**LISTS, "resourceSubscriptions": [OTHER]},
            ]
            with anyio.fail_after(10):
                for older in listens.gone[:3]:
                    await older.wait()
            assert not listens.gone[3].is_set()
            listens.tell(3, UPDATED, uri=OTHER)
            assert (await stream.next())["params"] == {"uri": OTHER}
        with anyio.fail_after(5):
            await listens.gone[3].wait()


@pytest.mark.requirement("for-legacy:listens")
@pytest.mark.parametrize("first", [0, 1])
async def test_what_both_listens_tell_is_told_once(
    upstream: McpHttpUpstream, monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    monkeypatch.setattr(mcp_for_legacy_stream, "OVERLAP_S", 600.0)
    listens = Listens()
    async with scripted(Stateless(subscriptions_listen=listens)) as server:
        caller = client_of(upstream, server.url)
        async with reading(caller) as stream:
            await caller.ask(**subscription(WATCHED))
            listens.tell(first, TOOLS)
            assert (await stream.next())["method"] == TOOLS
            listens.tell(1 - first, TOOLS)
            listens.tell(1 - first, PROMPTS)
            assert (await stream.next())["method"] == PROMPTS
            listens.tell(1, UPDATED, uri=WATCHED)  # which the older one was not asked for
            assert (await stream.next())["method"] == UPDATED


@pytest.mark.requirement("for-legacy:listens")
async def test_a_client_that_subscribes_often_is_left_with_one_listen(
    upstream: McpHttpUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mcp_for_legacy_stream, "OVERLAP_S", 0.01)
    monkeypatch.setattr(mcp_for_legacy_stream, "MAX_OLDER", 1)
    listens = Listens()
    async with scripted(Stateless(subscriptions_listen=listens)) as server:
        caller = client_of(upstream, server.url)
        async with reading(caller) as stream:
            for number in range(5):
                await caller.ask(**subscription(f"test://{number}"))
            with anyio.fail_after(10):
                for older in listens.gone[:5]:
                    await older.wait()
            listens.tell(5, UPDATED, uri="test://0")
            assert (await stream.next())["params"] == {"uri": "test://0"}


@pytest.mark.requirement("for-legacy:listens")
@pytest.mark.parametrize(
    ("told", "passed"),
    [("ab", "a"), ("ba", "b"), ("aabb", "aa"), ("bbaa", "bb"), ("abba", "ab"), ("aabbb", "aab"), ("abcacbcba", "aac")],
)
def test_listens_side_by_side_add_up_to_one(told: str, passed: str) -> None:
    """Each letter is something that one of three listens tells, always the same."""
    side_by_side = Told()
    listens = {name: Listening(cast(ModernStream, None), frozenset()) for name in "abc"}
    for listening in listens.values():
        side_by_side.begins(listening, side_by_side.so_far())
    assert "".join(name for name in told if side_by_side.is_new(listens[name], b"x")) == passed
    assert side_by_side.is_new(listens["b"], b"y")


@pytest.mark.requirement("for-legacy:listens")
def test_what_was_told_before_a_listen_began_is_not_of_its_telling() -> None:
    side_by_side = Told()
    older, newer = (Listening(cast(ModernStream, None), frozenset()) for _ in range(2))
    assert side_by_side.is_new(older, b"x")
    side_by_side.begins(newer, side_by_side.so_far())
    assert side_by_side.is_new(newer, b"x")
    assert not side_by_side.is_new(older, b"x")


@pytest.mark.requirement("for-legacy:listens")
async def test_each_session_hears_what_it_subscribed_to(upstream: McpHttpUpstream) -> None:
    listens = Listens()
    async with scripted(Stateless(subscriptions_listen=listens)) as server:
        alice = client_of(upstream, server.url)
        bob = dataclasses.replace(alice, who=BOB)
        again = dataclasses.replace(alice, session="s-2")
        await alice.ask(**subscription(WATCHED))
        async with reading(alice) as first, reading(bob) as second, reading(again) as third:
            wanted = [{**LISTS, "resourceSubscriptions": [WATCHED]}] * 2 + [LISTS, LISTS]
            assert listens.wanted == wanted
            for number in (1, 2, 3):
                listens.tell(number, UPDATED, uri=WATCHED)
                listens.tell(number, TOOLS)
            assert (await first.next())["method"] == UPDATED
            for stream in (second, third):
                assert (await stream.next())["method"] == TOOLS


@pytest.mark.requirement("for-legacy:listens")
async def test_what_a_listen_should_not_tell_is_not_told(upstream: McpHttpUpstream) -> None:
    listens = Listens()
    async with scripted(Stateless(subscriptions_listen=listens)) as server:
        caller = client_of(upstream, server.url)
        await caller.ask(**subscription("test://dir/"))
        async with reading(caller) as stream:
            listens.tell(1, "notifications/message", level="error", data="x")
            listens.tell(1, "notifications/progress", progressToken=1, progress=1)
            listens.tell(1, UPDATED, uri=WATCHED)
            listens.tell(1, UPDATED)
            listens.tell(1, UPDATED, uri="test://dir/file")  # a part of what was subscribed to
            assert (await stream.next())["params"] == {"uri": "test://dir/file"}
            assert stream.alive == 2  # the opening, and a part that is there at once


@pytest.mark.requirement("for-legacy:listens")
async def test_a_stream_that_its_client_leaves_is_closed_upstream(upstream: McpHttpUpstream) -> None:
    listens = Listens()
    async with scripted(Stateless(subscriptions_listen=listens)) as server:
        caller = client_of(upstream, server.url)
        async with reading(caller):
            await caller.ask(**subscription(WATCHED))
        with anyio.fail_after(5):
            for gone in listens.gone:
                await gone.wait()
        async with reading(caller):
            assert listens.wanted[2] == {**LISTS, "resourceSubscriptions": [WATCHED]}


@pytest.mark.requirement("for-legacy:sessions")
async def test_a_session_with_a_stream_is_not_forgotten_for_want_of_room(clock: HandClock) -> None:
    limits = LIMITS.model_copy(update={"sessions": 1})
    http = HttpClient(limits, lambda address: True)
    listens = Listens()
    async with scripted(Stateless(subscriptions_listen=listens)) as server:
        caller = client_of(mcp_http(http, clock, limits), server.url)
        async with reading(caller) as stream:
            for session in ("s-2", "s-3"):
                await dataclasses.replace(caller, session=session).call("t")
            await caller.ask(**subscription(WATCHED))
            listens.tell(1, UPDATED, uri=WATCHED)
            assert (await stream.next())["method"] == UPDATED
    await http.aclose()


# Subscriptions


@pytest.mark.requirement("for-legacy:subscribe")
async def test_without_a_stream_the_server_is_asked_whether_it_tells(upstream: McpHttpUpstream) -> None:
    listens = Listens()
    async with scripted(Stateless(subscriptions_listen=listens)) as server:
        caller = client_of(upstream, server.url)
        assert (await caller.ask(**subscription(WATCHED))).result == {}
        with anyio.fail_after(5):
            await listens.gone[0].wait()
        assert (await caller.ask(**subscription(WATCHED))).result == {}
        assert (await caller.ask(**subscription(WATCHED, Verb.RESOURCES_UNSUBSCRIBE))).result == {}
        assert (await caller.ask(**subscription(WATCHED, Verb.RESOURCES_UNSUBSCRIBE))).result == {}
        assert len(listens.wanted) == 1
        async with reading(caller):
            assert listens.wanted[1] == LISTS


@pytest.mark.requirement("for-legacy:subscribe")
@pytest.mark.parametrize("has_stream", [False, True])
async def test_what_the_server_does_not_acknowledge_is_not_subscribed_to(
    upstream: McpHttpUpstream, has_stream: bool
) -> None:
    listens = Listens(honours={"toolsListChanged": True, "resourceSubscriptions": [OTHER]})
    async with scripted(Stateless(subscriptions_listen=listens)) as server:
        caller = client_of(upstream, server.url)
        await caller.call("t")
        stream = await caller.send(Verb.STREAM) if has_stream else None
        with pytest.raises(InvalidParams, match="does not tell"):
            await caller.ask(**subscription(WATCHED))
        with anyio.fail_after(5):
            await listens.gone[-1].wait()
        assert (await caller.ask(**subscription(OTHER))).result == {}
        assert listens.wanted[-1]["resourceSubscriptions"] == [OTHER]
        if stream is not None:
            listens.tell(2, TOOLS)
            assert (await Reading(aiter(stream)).next())["method"] == TOOLS
            await stream.aclose(None)


@pytest.mark.requirement("for-legacy:subscribe")
async def test_a_server_without_subscriptions_offers_neither_a_stream_nor_updates(upstream: McpHttpUpstream) -> None:
    async def unknown(asked: Asked, peer: Peer) -> bytes:
        return refusal(-32601, "Method not found", id=asked.id, status=b"404 Not Found")

    async with scripted(Stateless(subscriptions_listen=unknown)) as server:
        caller = client_of(upstream, server.url)
        with pytest.raises(MethodNotAllowed):
            await caller.ask(Verb.STREAM)
        assert (await caller.ask(**subscription(WATCHED))).last.error_code == -32601


@pytest.mark.requirement("for-legacy:subscribe")
@pytest.mark.parametrize("answer", ["refusal", "result", "other", "cut", "nothing"])
async def test_a_listen_that_is_not_acknowledged_is_none(clock: HandClock, answer: str) -> None:
    limits = LIMITS.model_copy(update={"first_byte_s": 0.2}) if answer == "nothing" else LIMITS
    http = HttpClient(limits, lambda address: True)
    upstream = mcp_http(http, clock, limits)

    async def listen(asked: Asked, peer: Peer) -> bytes | None:
        if answer == "refusal":
            return refusal(-32603, "Subscription limit reached", id=asked.id)
        if answer == "result":
            return reply(asked, {"resultType": "complete"})
        await peer.write(STREAM)
        if answer == "other":
            await peer.write(event(said(TOOLS)))
        if answer == "cut":
            peer.writer.close()
        else:
            await peer.gone()
        return None

    async with scripted(Stateless(subscriptions_listen=listen)) as server:
        caller = client_of(upstream, server.url)
        for verb in (Verb.STREAM, Verb.RESOURCES_SUBSCRIBE):
            if answer == "refusal" and verb is Verb.RESOURCES_SUBSCRIBE:
                assert (await caller.ask(verb, name=WATCHED)).last.error_code == -32603
                continue
            with pytest.raises(UpstreamTimeout if answer == "nothing" else UpstreamFailed):
                await caller.ask(verb, name=WATCHED)
    await http.aclose()


@pytest.mark.requirement("for-legacy:subscribe")
async def test_the_subscriptions_of_a_session_are_bounded(
    upstream: McpHttpUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mcp_for_legacy, "MAX_URIS", 1)
    async with scripted(Stateless(subscriptions_listen=Listens())) as server:
        caller = client_of(upstream, server.url)
        await caller.ask(**subscription(WATCHED))
        with pytest.raises(InvalidParams, match="1 resources"):
            await caller.ask(**subscription(OTHER))


@pytest.mark.requirement("for-legacy:gate")
async def test_a_subscription_that_its_gate_forbids_changes_nothing(upstream: McpHttpUpstream) -> None:
    listens = Listens()
    async with scripted(Stateless(subscriptions_listen=listens)) as server:
        caller = client_of(upstream, server.url)
        await caller.ask(Verb.INITIALIZE)
        async with reading(caller) as stream:
            with pytest.raises(Killed):
                await caller.ask(**subscription(WATCHED), gate=CountingGate(closed=Killed("stopped")))
            assert len(listens.wanted) == 1
            listens.tell(0, UPDATED, uri=WATCHED)
            listens.tell(0, TOOLS)
            assert (await stream.next())["method"] == TOOLS


# When the server ends a listen


@pytest.mark.requirement("for-legacy:relisten")
async def test_a_listen_that_the_server_ends_is_opened_again(
    upstream: McpHttpUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mcp_for_legacy_stream, "RELISTEN_S", 0.01)
    listens = Listens()
    async with scripted(Stateless(subscriptions_listen=listens)) as server:
        caller = client_of(upstream, server.url)
        async with reading(caller) as stream:
            await caller.ask(**subscription(WATCHED))
            listens.end(1)
            listens.end(0)
            read = asyncio.create_task(stream.next())
            await listens.opened(3)
            assert listens.wanted[2] == listens.wanted[1]
            listens.tell(2, TOOLS)
            assert (await read)["method"] == TOOLS


@pytest.mark.requirement("for-legacy:relisten")
async def test_a_server_that_ends_every_listen_ends_the_stream(
    upstream: McpHttpUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mcp_for_legacy_stream, "RELISTEN_S", 0.001)
    listens = Listens()

    async def at_once(asked: Asked, peer: Peer) -> bytes | None:
        if listens.queues:
            return refusal(-32603, "Subscription limit reached", id=asked.id)
        await listens(asked, peer)
        return None

    async with scripted(Stateless(subscriptions_listen=at_once)) as server:
        caller = client_of(upstream, server.url)
        async with reading(caller) as stream:
            listens.end(0)
            with pytest.raises(UpstreamFailed, match="-32603"):
                await stream.next()
        assert len(server.of("subscriptions/listen")) == 1 + mcp_for_legacy_stream.RELISTENS


@pytest.mark.requirement("for-legacy:relisten")
async def test_a_stream_whose_world_moved_is_judged_again_before_it_listens_again(
    upstream: McpHttpUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mcp_for_legacy_stream, "RELISTEN_S", 0.001)
    closed: BaseException | None = None

    def gate() -> None:
        if closed is not None:
            raise closed

    listens = Listens()
    async with scripted(Stateless(subscriptions_listen=listens)) as server:
        caller = client_of(upstream, server.url)
        await caller.ask(Verb.INITIALIZE)
        exchange = await caller.send(Verb.STREAM, gate)
        parts = aiter(exchange)
        assert [(await anext(parts)).kind for _ in range(2)] == [PartKind.OPENED, PartKind.EVENT]
        closed = WorldMoved()
        listens.end(0)
        with anyio.fail_after(5):
            judged_at = await anext(parts)
        assert (judged_at.kind, judged_at.body, len(listens.wanted)) == (PartKind.EVENT, b"", 1)
        closed = Killed("stopped")
        with pytest.raises(Killed):
            await anext(parts)
        await exchange.aclose(closed)
        assert len(listens.wanted) == 1
