"""Modern clients that listen to processes and sessions of the handshake era, and want their log messages."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest

from mcpgw.domain import Part, PartKind, Transport, Verb
from mcpgw.errors import InvalidParams, Killed, MethodNotAllowed, WorldMoved
from mcpgw.ports import Exchange
from mcpgw.upstream.http import HttpClient
from mcpgw.upstream.mcp_sse import SseServers
from tests.eventually import eventually
from tests.upstream.calls import BOB, LIMITS, MODERN, Caller, CountingGate, HandClock, version
from tests.upstream.scripted import Asked, plain, said, scripted
from tests.upstream.sse_server import Conversation, EventServer

WATCHED, OTHER = "test://watched", "test://other"
ID = "io.modelcontextprotocol/subscriptionId"
Connect = Callable[..., Any]


class Offering(EventServer):
    """A server that tells of changed prompts and of resources, but of no tools, and refuses one resource."""

    def __init__(self) -> None:
        super().__init__(
            initialize=self._initialize, resources_subscribe=self._subscribe, change=self._change, hang=self._hang
        )

    async def _initialize(self, session: Conversation, asked: Asked) -> None:
        capabilities = {
            "logging": {},
            "tools": {},
            "prompts": {"listChanged": True},
            "resources": {"subscribe": True, "listChanged": False},
        }
        info = {"name": "events", "version": "1"}
        result = {"protocolVersion": "2024-11-05", "capabilities": capabilities, "serverInfo": info}
        await session.answer(asked, result)

    async def _subscribe(self, session: Conversation, asked: Asked) -> None:
        if asked.params["uri"] == OTHER:
            await session.say({"jsonrpc": "2.0", "id": asked.id, "error": {"code": -32002, "message": "no"}})
        else:
            await session.answer(asked, {})

    async def _change(self, session: Conversation, asked: Asked) -> None:
        await session.say(said("notifications/message", level="info", data="x"))
        await session.say(said("notifications/message", level="error", data="x"))
        for uri in (OTHER, WATCHED, f"{WATCHED}/part"):
            await session.say(said("notifications/resources/updated", uri=uri))
        for kind in ("tools", "prompts", "resources"):
            await session.say(said(f"notifications/{kind}/list_changed"))
        await session.answer(asked, plain("changed"))

    async def _hang(self, session: Conversation, asked: Asked) -> None:
        return None


@pytest.fixture
async def offering(clock: HandClock) -> AsyncIterator[tuple[Caller, Any, Offering]]:
    events = Offering()
    http = HttpClient(LIMITS, lambda address: True)
    servers = SseServers(http, LIMITS, clock, lambda name, kind: None)
    async with scripted(events) as server:
        yield Caller(servers, version(server.url, transport=Transport.SSE)), server, events
        await servers.aclose()
        await http.aclose()


Place = tuple[Caller, Any, Offering]


async def listen(caller: Caller, wanted: Any, own_id: str = "mine", **facts: Any) -> Exchange:
    forwarded = {"notifications": json.dumps(wanted).encode(), "#id": json.dumps(own_id).encode()}
    return await caller.send(Verb.LISTEN, forwarded=forwarded, **facts)


async def next_of(parts: AsyncIterator[Part]) -> dict[str, Any]:
    with anyio.fail_after(5):
        part = await anext(parts)
    found: dict[str, Any] = json.loads(part.body) if part.body else {"kind": part.kind}
    return found


async def until_asked(server: Any, verb: str, count: int = 1) -> list[Asked]:
    await eventually(lambda: len(server.of(verb)) >= count)
    found: list[Asked] = server.of(verb)
    return found


@pytest.mark.requirement("sse:listening")
async def test_a_client_is_granted_what_the_server_tells_and_told_just_that(offering: Place) -> None:
    caller, server, _ = offering
    everything = {f"{kind}ListChanged": True for kind in ("tools", "prompts", "resources")}
    exchange = await listen(caller, {**everything, "resourceSubscriptions": [WATCHED, OTHER]})
    parts = aiter(exchange)
    assert (await next_of(parts))["kind"] is PartKind.OPENED
    acknowledged = await next_of(parts)
    assert acknowledged["params"] == {
        "notifications": {
            "toolsListChanged": True,
            "promptsListChanged": True,
            "resourceSubscriptions": [WATCHED],
        },
        "_meta": {ID: "mine"},
    }
    assert (await caller.call("change")).kinds == ["whole"]
    told = [await next_of(parts) for _ in range(4)]
    assert [(message["method"], message["params"].get("uri")) for message in told] == [
        ("notifications/resources/updated", WATCHED),
        ("notifications/resources/updated", f"{WATCHED}/part"),
        ("notifications/tools/list_changed", None),
        ("notifications/prompts/list_changed", None),
    ]
    assert all(message["params"]["_meta"] == {ID: "mine"} for message in told)
    await exchange.aclose(None)
    assert [asked.params for asked in await until_asked(server, "resources/unsubscribe")] == [{"uri": WATCHED}]


@pytest.mark.requirement("sse:listening")
async def test_a_resource_is_subscribed_to_as_long_as_somebody_watches_it(offering: Place) -> None:
    caller, server, events = offering
    first, second = [await listen(caller, {"resourceSubscriptions": [WATCHED]}, own_id) for own_id in ("a", "b")]
    stranger = await listen(dataclasses.replace(caller, who=BOB), {"resourceSubscriptions": [WATCHED]})
    assert [len(session.asked) for session in events.sessions] == [3, 3]
    await first.aclose(None)
    await caller.call("change")
    parts = aiter(second)
    assert [(await next_of(parts)).get("method") for _ in range(3)][2] == "notifications/resources/updated"
    assert server.of("resources/unsubscribe") == []
    await second.aclose(None)
    await until_asked(server, "resources/unsubscribe")
    await stranger.aclose(Killed("killed"))
    await anyio.wait_all_tasks_blocked()
    assert len(server.of("resources/unsubscribe")) == 1


@pytest.mark.requirement("sse:listening")
async def test_a_stream_ends_in_good_order_with_the_session(offering: Place) -> None:
    caller, _, events = offering
    exchange = await listen(caller, {"promptsListChanged": True})
    parts = aiter(exchange)
    assert [(await next_of(parts)).get("method") for _ in range(2)][1] == "notifications/subscriptions/acknowledged"
    await events.sessions[0].end()
    assert await next_of(parts) == {"resultType": "complete", "_meta": {ID: "mine"}}
    await exchange.aclose(None)


@pytest.mark.requirement("sse:listening")
@pytest.mark.parametrize("wanted", [{}, {"resourcesListChanged": True}, {"toolsListChanged": True}])
async def test_where_the_server_has_nothing_to_tell_the_gateway_speaks_alone(offering: Place, wanted: Any) -> None:
    with pytest.raises(MethodNotAllowed):
        await listen(offering[0], wanted)
    with pytest.raises(InvalidParams):
        await listen(offering[0], {"resourceSubscriptions": 7})


@pytest.mark.requirement("sse:gate")
@pytest.mark.parametrize("closed", [Killed("killed"), WorldMoved()], ids=["killed", "moved"])
async def test_the_gate_stands_before_a_subscription_and_a_level(offering: Place, closed: BaseException) -> None:
    caller, server, _ = offering
    await caller.call("echo")
    with pytest.raises(type(closed)):
        await listen(caller, {"resourceSubscriptions": [WATCHED]}, gate=CountingGate(closed=closed))
    with pytest.raises(type(closed)):
        await caller.known(log_level="info").call("echo", gate=CountingGate(closed=closed))
    assert server.of("resources/subscribe") == server.of("logging/setLevel") == []
    exchange = await listen(caller, {"resourceSubscriptions": [WATCHED]})
    await exchange.aclose(None)
    await caller.known(log_level="info").call("echo")
    assert len(server.of("logging/setLevel")) == 1


@pytest.mark.requirement("sse:listening")
async def test_a_call_hears_log_messages_from_the_level_on_that_it_wants(offering: Place) -> None:
    caller, server, _ = offering
    assert (await caller.call("change")).kinds == ["whole"]
    levels = {}
    for wanted in ("error", "info", "warning"):
        seen = await caller.known(log_level=wanted).call("change")
        levels[wanted] = [event["params"]["level"] for event in seen.events]
    assert levels == {"error": ["error"], "info": ["info", "error"], "warning": ["error"]}
    assert [asked.params["level"] for asked in server.of("logging/setLevel")] == ["error", "info"]
    assert MODERN.log_level is None
