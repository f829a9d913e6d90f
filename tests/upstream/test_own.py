"""What the gateway answers itself, which upstream a permit goes to, and the streams that tell of changes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import anyio
import pytest

from mcpgw.domain import (
    SYSTEM,
    Action,
    ClientFacts,
    Effect,
    Era,
    Offer,
    Part,
    PartKind,
    Permit,
    Principal,
    Receipt,
    Route,
    Scope,
    ServerVersion,
    Transport,
    Verb,
)
from mcpgw.edge.mcp_prompts import PromptNames
from mcpgw.edge.mcp_shown import ShownNames
from mcpgw.errors import (
    EraCrossing,
    Killed,
    MethodNotAllowed,
    MethodNotFound,
    UpstreamFailed,
    UpstreamTimeout,
    WorldMoved,
)
from mcpgw.judge import judge
from mcpgw.pipeline import NOTHING_HELD
from mcpgw.ports import Capabilities, Exchange, Gate, World
from mcpgw.seals import Seals
from mcpgw.upstream.aggregate import Aggregate
from mcpgw.upstream.merged import Cursors, MergedLists
from mcpgw.upstream.notices import Notices
from mcpgw.upstream.own import OwnUpstream
from mcpgw.upstream.own_tools import OwnTools
from mcpgw.upstream.router import Router
from mcpgw.upstream.sight import Sight
from mcpgw.upstream.streams import Streams
from mcpgw.visible import visible_servers, visible_tools
from tests.parts import Rules, action, agent, published, switch, world_of

MODERN = ClientFacts(protocol_version="2026-07-28", modern=True)
LEGACY = ClientFacts(protocol_version="2025-06-18", modern=False)


def definition(offer: Offer) -> bytes:
    return b'{"name":"%b"}' % offer.name.encode()


def linked(server: str, definition: bytes) -> bytes:
    return definition


async def nothing_found(*asked: object) -> tuple[list[Offer], int]:
    return [], 0


def passed() -> None:
    """A gate that lets everything pass."""


class Answering:
    """An exchange of given parts; it remembers how it was let go. After its parts it fails, ends, or waits."""

    def __init__(self, *parts: Part, then: BaseException | None = None, ends: bool = False) -> None:
        self._parts = parts
        self._then = then
        self._ends = ends
        self.closed: list[BaseException | None] = []

    async def __aiter__(self) -> AsyncIterator[Part]:
        for part in self._parts:
            yield part
        if self._then is not None:
            raise self._then
        if not self._ends:
            await asyncio.Event().wait()

    async def aclose(self, reason: BaseException | None) -> None:
        self.closed.append(reason)


class Named:
    """An upstream that answers with its own name, or with what it is given."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked: list[Verb] = []
        self.answer: Answering | BaseException = Answering(Part(PartKind.WHOLE, name.encode()))

    async def send(self, permit: Permit, credential: Mapping[str, str], gate: Gate) -> Exchange:
        gate()
        self.asked.append(permit.judged.action.verb)
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


class Roads:
    """The router over an HTTP, a stdio and an LLM upstream, and the gateway's own catalogue."""

    def __init__(self) -> None:
        self.http, self.stdio, self.llm = Named("http"), Named("stdio"), Named("llm")
        self.world = world_of()
        sight = Sight(current=lambda: self.world, tools=visible_tools, servers=visible_servers)
        self.notices = Notices(sight, self, self)
        streams = Streams(self.notices, self, ShownNames(PromptNames()))
        lists = MergedLists(
            sight=sight,
            capabilities=self,
            children=self,
            shown=ShownNames(PromptNames()),
            cursors=Cursors(Seals(bytes(32), 0)),
            within_s=1.0,
        )
        aggregate = Aggregate(lists, lambda session: frozenset())
        own = OwnUpstream(streams, OwnTools(definition, nothing_found, 1000, linked), aggregate)
        self.router = Router(
            own=own,
            streams=streams,
            http=self.http,
            sse=self.http,
            stdio=self.stdio,
            openapi=self.http,
            llm=self.llm,
        )

    def known(self, version: ServerVersion) -> Capabilities:
        """Servers without anything but tools."""
        return Capabilities(era=Era.MODERN)

    def keep(self, versions: Sequence[ServerVersion]) -> None:
        """Nobody listens there."""

    async def permit(self, what: Action, world: World | None = None, who: Principal | None = None) -> Permit:
        judged = await judge(world or world_of(), who or agent(), what)
        return Permit(judged, NOTHING_HELD, Receipt("w0", 0, ""))

    async def send(self, what: Action, world: World | None = None, who: Principal | None = None) -> Exchange:
        return await self.router.send(await self.permit(what, world, who), {}, passed)

    async def whole(self, what: Action, world: World | None = None, who: Principal | None = None) -> bytes:
        [part] = [part async for part in OneOf(await self.send(what, world, who))]
        assert part.kind is PartKind.WHOLE
        return part.body


class OneOf:
    """The first part of an exchange."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    async def __aiter__(self) -> AsyncIterator[Part]:
        async for part in self._exchange:
            yield part
            return


@pytest.fixture
def roads() -> Roads:
    return Roads()


# Which upstream


@pytest.mark.requirement("router:target")
async def test_a_call_goes_to_the_transport_of_its_version(roads: Roads) -> None:
    assert await roads.whole(action()) == b"http"
    stdio = world_of(published(transport=Transport.STDIO))
    assert await roads.whole(action(), stdio) == b"stdio"
    assert await roads.whole(action(Verb.CHAT, "acme", "large", route=Route.LLM)) == b"llm"


@pytest.mark.requirement("router:once")
async def test_a_permit_sends_once(roads: Roads) -> None:
    permit = await roads.permit(action())
    await roads.router.send(permit, {}, passed)
    with pytest.raises(UpstreamFailed, match="twice"):
        await roads.router.send(permit, {}, passed)
    assert roads.http.asked == [Verb.TOOLS_CALL]


@pytest.mark.requirement("router:target")
@pytest.mark.parametrize("verb", [Verb.PING, Verb.INITIALIZED, Verb.CANCELLED, Verb.TOOLS_LIST])
async def test_what_the_gateway_answers_itself_reaches_no_server_but_for_its_own_probes(
    roads: Roads, verb: Verb
) -> None:
    await roads.whole(action(verb, client=MODERN))
    assert roads.http.asked == []
    await roads.whole(action(verb, route=Route.SYSTEM), who=SYSTEM)
    assert roads.http.asked == [verb]


@pytest.mark.requirement("router:target")
@pytest.mark.parametrize("transport", Transport)
@pytest.mark.parametrize("verb", [Verb.PING, Verb.TOOLS_LIST])
async def test_the_gate_stands_before_what_the_gateway_answers_itself(
    roads: Roads, verb: Verb, transport: Transport
) -> None:
    def moved() -> None:
        raise WorldMoved

    permit = await roads.permit(action(verb, client=MODERN), world_of(published(transport=transport)))
    with pytest.raises(WorldMoved):
        await roads.router.send(permit, {}, moved)


# What the gateway answers


@pytest.mark.requirement("own:tools")
async def test_a_list_of_tools_is_the_pins_that_the_caller_may_see(roads: Roads) -> None:
    policy = Rules(lambda q: Effect.DENY if q.name == "write" else Effect.ALLOW)
    world = world_of(published("files", ["read"]), published("notes", ["read", "write"]), policy=policy)
    one = action(Verb.TOOLS_LIST, "notes", None, client=LEGACY)
    assert json.loads(await roads.whole(one, world)) == {"tools": [{"name": "read"}]}
    everything = action(Verb.TOOLS_LIST, None, None, client=MODERN)
    assert json.loads(await roads.whole(everything, world)) == {
        "resultType": "complete",
        "tools": [{"name": "files__read"}, {"name": "notes__read"}],
        "ttlMs": 0,
        "cacheScope": "private",
    }


@pytest.mark.requirement("own:tools")
async def test_a_killed_tool_is_listed_no_more(roads: Roads) -> None:
    world = world_of(switches=[switch(Scope.TOOL, "notes/read")])
    listed = json.loads(await roads.whole(action(Verb.TOOLS_LIST, name=None, client=LEGACY), world))
    assert listed == {"tools": [{"name": "write"}]}


@pytest.mark.requirement("own:handshake")
async def test_over_all_servers_the_gateway_shakes_hands_itself(roads: Roads) -> None:
    greeted = json.loads(await roads.whole(action(Verb.INITIALIZE, None, None, client=LEGACY)))
    assert greeted["protocolVersion"] == "2025-06-18"
    assert greeted["capabilities"] == {"tools": {"listChanged": True}}
    discovered = json.loads(await roads.whole(action(Verb.DISCOVER, None, None, client=MODERN)))
    assert discovered["resultType"] == "complete"
    assert discovered["supportedVersions"] == ["2026-07-28"]
    assert (discovered["ttlMs"], discovered["cacheScope"]) == (0, "private")


@pytest.mark.requirement("own:handshake")
@pytest.mark.parametrize("verb", [Verb.INITIALIZE, Verb.DISCOVER])
async def test_a_servers_handshake_says_too_that_the_gateway_tells_of_changes(roads: Roads, verb: Verb) -> None:
    answer = b'{"capabilities":{"tools":{},"prompts":{}},"serverInfo":{"name":"n","version":"1"},"x":[1.0]}'
    roads.http.answer = Answering(Part(PartKind.WHOLE, answer))
    told = json.loads(await roads.whole(action(verb, client=MODERN)))
    assert told["capabilities"] == {"tools": {"listChanged": True}, "prompts": {}}
    assert told["serverInfo"] == {"name": "n", "version": "1"}
    refusal = Part(PartKind.WHOLE, b'{"code":-32022,"message":"no"}', error_code=-32022)
    roads.http.answer = Answering(refusal)
    assert await roads.whole(action(verb, client=MODERN)) == refusal.body


@pytest.mark.requirement("own:handshake")
async def test_what_is_of_one_server_alone_is_not_found_over_all(roads: Roads) -> None:
    with pytest.raises(MethodNotFound):
        await roads.send(action(Verb.COMPLETE, None, None))


# Streams


class Reading:
    """A reader of a stream's parts."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._parts = aiter(exchange)

    async def next(self) -> Part:
        with anyio.fail_after(5):
            return await anext(self._parts)

    async def message(self) -> Any:
        return json.loads((await self.next()).body)

    async def close(self) -> None:
        await self._exchange.aclose(None)


def listening(server: str | None = "notes", wanted: Mapping[str, Any] | None = None) -> Action:
    asked = json.dumps({"toolsListChanged": True} if wanted is None else wanted).encode()
    forwarded = {"notifications": asked, "#id": b'"sub-1"'}
    return action(Verb.LISTEN, server, None, client=MODERN, forwarded=forwarded)


def streaming(server: str | None = "notes") -> Action:
    return action(Verb.STREAM, server, None, client=LEGACY)


@pytest.mark.requirement("own:streams")
async def test_a_subscription_is_acknowledged_first_with_what_is_honoured(roads: Roads) -> None:
    wanted = {"toolsListChanged": True, "promptsListChanged": True, "resourceSubscriptions": ["notes://a"]}
    stream = Reading(await roads.send(listening(None, wanted)))
    assert (await stream.next()).kind is PartKind.OPENED
    assert await stream.message() == {
        "jsonrpc": "2.0",
        "method": "notifications/subscriptions/acknowledged",
        "params": {
            "notifications": {"promptsListChanged": True, "toolsListChanged": True},
            "_meta": {"io.modelcontextprotocol/subscriptionId": "sub-1"},
        },
    }
    await stream.close()


@pytest.mark.requirement("own:streams")
@pytest.mark.parametrize("server", [None, "notes"])
async def test_a_kill_is_told_to_those_whose_list_it_changes_and_to_no_one_else(
    roads: Roads, server: str | None
) -> None:
    roads.http.answer = MethodNotAllowed("no stream")
    sees = Rules(lambda q: Effect.ALLOW if q.principal.subject == "ada" or q.name == "write" else Effect.DENY)
    before = world_of(policy=sees)
    after = world_of(policy=sees, switches=[switch(Scope.TOOL, "notes/read")], epoch=2)
    ada = Reading(await roads.send(streaming(server), before, agent("ada")))
    bob = Reading(await roads.send(streaming(server), before, agent("bob")))
    for stream in (ada, bob):
        assert (await stream.next()).kind is PartKind.OPENED
    roads.notices.world_changed(before, after)
    assert await ada.message() == {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
    waiting = asyncio.ensure_future(bob.next())
    roads.notices.world_changed(before, before)
    for _ in range(20):
        await asyncio.sleep(0)
    assert not waiting.done()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await ada.close()
    await bob.close()


@pytest.mark.requirement("own:streams")
async def test_a_subscription_is_told_under_its_id_and_only_what_it_asked_for(roads: Roads) -> None:
    tools, nothing = Reading(await roads.send(listening(None))), Reading(await roads.send(listening(None, {})))
    for stream in (tools, nothing):
        await stream.next()
        await stream.next()
        stream._exchange.notify("prompts")
        stream._exchange.notify("tools")
    assert await tools.message() == {
        "jsonrpc": "2.0",
        "method": "notifications/tools/list_changed",
        "params": {"_meta": {"io.modelcontextprotocol/subscriptionId": "sub-1"}},
    }
    assert nothing._exchange._queue.empty()
    await tools.close()
    await nothing.close()


@pytest.mark.requirement("own:streams")
async def test_what_another_server_says_is_not_told(roads: Roads) -> None:
    roads.http.answer = MethodNotAllowed("no stream")
    stream = Reading(await roads.send(streaming("notes")))
    await stream.next()
    roads.notices.server_said("files", "tools")
    roads.notices.server_said("notes", "prompts")
    assert (await stream.message())["method"] == "notifications/prompts/list_changed"
    await stream.close()
    roads.notices.server_said("notes", "tools")
    assert stream._exchange._queue.empty()


@pytest.mark.requirement("own:streams")
@pytest.mark.parametrize("refusal", [MethodNotAllowed("no stream"), EraCrossing("other era")])
async def test_a_server_without_a_stream_leaves_the_gateways_own(roads: Roads, refusal: Exception) -> None:
    roads.http.answer = refusal
    stream = Reading(await roads.send(streaming()))
    assert (await stream.next()).kind is PartKind.OPENED
    await stream.close()


@pytest.mark.requirement("own:streams")
async def test_a_server_that_refuses_a_stream_for_another_reason_ends_it(roads: Roads) -> None:
    roads.http.answer = UpstreamTimeout("slow")
    with pytest.raises(UpstreamTimeout):
        await roads.send(streaming())


@pytest.mark.requirement("own:streams")
async def test_a_servers_own_stream_is_passed_on_and_ends_with_it(roads: Roads) -> None:
    said = b'{"jsonrpc":"2.0","method":"notifications/message"}'
    inner = Answering(
        Part(PartKind.OPENED), Part(PartKind.EVENT, said), Part(PartKind.LAST, b'{"resultType":"complete"}')
    )
    roads.http.answer = inner
    exchange = await roads.send(listening())
    parts = [part async for part in exchange]
    assert [part.kind for part in parts] == [PartKind.OPENED, PartKind.EVENT, PartKind.LAST]
    assert parts[1].body == said
    await exchange.aclose(None)
    assert inner.closed == [None]


@pytest.mark.requirement("own:streams")
async def test_a_servers_stream_that_ends_without_a_word_ends_the_clients(roads: Roads) -> None:
    said = Part(PartKind.EVENT, b'{"jsonrpc":"2.0","method":"notifications/message"}')
    roads.http.answer = Answering(Part(PartKind.OPENED), said, ends=True)
    exchange = await roads.send(streaming("notes"))
    with anyio.fail_after(5):
        assert [part async for part in exchange] == [Part(PartKind.OPENED), said, Part(PartKind.LAST)]
    await exchange.aclose(None)


@pytest.mark.requirement("own:streams")
async def test_a_servers_stream_that_fails_ends_the_clients_with_its_error(roads: Roads) -> None:
    inner = Answering(Part(PartKind.OPENED), then=UpstreamFailed("it died"))
    roads.http.answer = inner
    exchange = await roads.send(listening())
    with pytest.raises(UpstreamFailed, match="it died"):
        async for _ in exchange:
            pass
    reason = Killed("stopped")
    await exchange.aclose(reason)
    assert inner.closed == [reason]


@pytest.mark.requirement("own:streams")
async def test_a_stream_that_is_silent_is_kept_alive(roads: Roads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcpgw.upstream.notices.KEEP_ALIVE_S", 0.01)
    stream = Reading(await roads.send(streaming(None)))
    await stream.next()
    assert await stream.next() == Part(PartKind.EVENT)
    await stream.close()
