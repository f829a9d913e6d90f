"""Modern clients that listen to servers of the handshake era: acknowledgement, what is told, and one stream for all."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from mcpgw.domain import Part, PartKind, Verb
from mcpgw.errors import ClientGone, InvalidParams, Killed, MethodNotAllowed, WorldMoved
from mcpgw.ports import Exchange
from mcpgw.upstream.mcp_http import McpHttpUpstream
from tests.eventually import eventually
from tests.fixtures.raw_http import Peer, answer
from tests.upstream.calls import Caller, CountingGate, version
from tests.upstream.scripted import (
    END,
    STREAM,
    Asked,
    Handler,
    Handshaking,
    event,
    plain,
    refusal,
    reply,
    result_of,
    said,
    scripted,
)

SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"
EVERYTHING = {"toolsListChanged": True, "promptsListChanged": True, "resourcesListChanged": True}
CHANGED = {kind: f"notifications/{kind}/list_changed" for kind in ("tools", "prompts", "resources")}
OFFERED: dict[str, Any] = {
    "tools": {"listChanged": True},
    "prompts": {"listChanged": True},
    "resources": {"listChanged": True, "subscribe": True},
}
OCCUPIED = answer(b"", status=b"409 Conflict")


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return "asyncio", {"use_uvloop": request.param}


class Telling(Handshaking):
    """A server that sends on its streams what a test puts in; None ends them."""

    def __init__(self, offered: dict[str, Any] | None = None, **handlers: Handler) -> None:
        super().__init__(**{"initialize": self._initialized, "GET": self._stream, **handlers})
        self.offered = OFFERED if offered is None else offered
        self.streams: list[asyncio.Queue[dict[str, Any] | None]] = []
        self.closed = 0

    def tell(self, message: dict[str, Any] | None) -> None:
        for stream in self.streams:
            stream.put_nowait(message)

    async def _initialized(self, asked: Asked, peer: Peer) -> bytes:
        self.opened += 1
        session = b"mcp-session-id: session-%d" % self.opened
        return reply(asked, {"protocolVersion": self.version, "capabilities": self.offered}, session)

    async def _stream(self, asked: Asked, peer: Peer) -> None:
        stream: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self.streams.append(stream)
        watch = asyncio.create_task(self._watch(peer))
        await peer.write(STREAM)
        while (message := await stream.get()) is not None:
            await peer.write(event(message))
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
        await peer.write(END)

    async def _watch(self, peer: Peer) -> None:
        await peer.gone()
        self.closed += 1


class Ear:
    """A client that listens; what it has heard comes in order, without signs of life."""

    def __init__(self, exchange: Exchange, gate: CountingGate) -> None:
        self.exchange = exchange
        self.gate = gate
        self.parts = aiter(exchange)

    async def next(self) -> Part:
        """Return the next part that says something."""
        while True:
            part = await anext(self.parts)
            if part.body or part.kind is not PartKind.EVENT:
                return part

    async def heard(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads((await self.next()).body)
        return message

    async def acknowledged(self) -> dict[str, Any]:
        assert (await self.next()).kind is PartKind.OPENED
        message = await self.heard()
        assert message["method"] == "notifications/subscriptions/acknowledged"
        granted: dict[str, Any] = message["params"]["notifications"]
        return granted

    async def leave(self, reason: BaseException | None = None) -> None:
        await self.exchange.aclose(reason or ClientGone("gone"))


async def listening(caller: Caller, wanted: dict[str, Any], listen_id: str = '"l-1"') -> Ear:
    gate = CountingGate()
    forwarded = {"notifications": json.dumps(wanted).encode(), "#id": listen_id.encode()}
    return Ear(await caller.send(Verb.LISTEN, gate, forwarded=forwarded), gate)


@asynccontextmanager
async def ear(caller: Caller, wanted: dict[str, Any], listen_id: str = '"l-1"') -> AsyncIterator[Ear]:
    """Listen; the acknowledgement has come."""
    found = await listening(caller, wanted, listen_id)
    await found.acknowledged()
    try:
        yield found
    finally:
        await found.leave()


@pytest.fixture(autouse=True)
async def _in_time() -> AsyncIterator[None]:
    with anyio.fail_after(10):
        yield


# What is acknowledged


@pytest.mark.requirement("for-modern:listens")
async def test_a_listen_is_acknowledged_first_and_told_under_its_own_id(upstream: McpHttpUpstream) -> None:
    server = Telling()
    async with scripted(server) as found:
        heard = await listening(
            Caller(upstream, version(found.url)), {**EVERYTHING, "resourceSubscriptions": ["x://1"]}
        )
        assert await heard.acknowledged() == {**EVERYTHING, "resourceSubscriptions": ["x://1"]}
        server.tell(said(CHANGED["tools"]))
        server.tell(said(CHANGED["prompts"], _meta={"y": 1}))
        server.tell(said("notifications/resources/updated", uri="x://1"))
        assert [await heard.heard() for _ in range(3)] == [
            said(CHANGED["tools"], _meta={SUBSCRIPTION: "l-1"}),
            said(CHANGED["prompts"], _meta={"y": 1, SUBSCRIPTION: "l-1"}),
            said("notifications/resources/updated", uri="x://1", _meta={SUBSCRIPTION: "l-1"}),
        ]
        await heard.leave()
        assert [a.params for a in found.of("resources/subscribe")] == [{"uri": "x://1"}]
        await eventually(lambda: found.of("resources/unsubscribe"))
        await eventually(lambda: server.closed)


@pytest.mark.requirement("for-modern:listens")
@pytest.mark.parametrize(
    ("offered", "wanted", "granted"),
    [
        (OFFERED, {"promptsListChanged": True}, {"promptsListChanged": True}),
        ({**OFFERED, "prompts": {}}, EVERYTHING, {"toolsListChanged": True, "resourcesListChanged": True}),
        (
            {**OFFERED, "resources": {"subscribe": False}},
            {"toolsListChanged": True, "resourcesListChanged": True, "resourceSubscriptions": ["x://1"]},
            {"toolsListChanged": True},
        ),
        (
            {"resources": {"subscribe": True}},
            {"resourceSubscriptions": ["x://1"]},
            {"resourceSubscriptions": ["x://1"]},
        ),
        # Of tools the gateway tells itself.
        ({**OFFERED, "tools": {}}, EVERYTHING, EVERYTHING),
    ],
)
async def test_only_what_the_server_tells_of_is_granted(
    upstream: McpHttpUpstream, offered: dict[str, Any], wanted: dict[str, Any], granted: dict[str, Any]
) -> None:
    async with scripted(Telling(offered)) as found:
        heard = await listening(Caller(upstream, version(found.url)), wanted)
        assert await heard.acknowledged() == granted
        await heard.leave()


@pytest.mark.requirement("for-modern:listens")
async def test_a_resource_that_cannot_be_watched_is_not_granted(upstream: McpHttpUpstream) -> None:
    async def subscribe(asked: Asked, peer: Peer) -> bytes:
        if asked.params["uri"] == "x://no":
            return refusal(-32002, id=asked.id, status=b"200 OK")
        return reply(asked, {})

    async with scripted(Telling(resources_subscribe=subscribe)) as found:
        heard = await listening(Caller(upstream, version(found.url)), {"resourceSubscriptions": ["x://no", "x://yes"]})
        assert await heard.acknowledged() == {"resourceSubscriptions": ["x://yes"]}
        await heard.leave()
        await eventually(lambda: found.of("resources/unsubscribe"))
        assert [a.params["uri"] for a in found.of("resources/unsubscribe")] == ["x://yes"]


@pytest.mark.requirement("for-modern:listens")
@pytest.mark.parametrize(
    ("offered", "wanted", "gets"),
    [(OFFERED, EVERYTHING, 1), ({"tools": {}}, EVERYTHING, 0), ({}, {}, 0)],
    ids=["no-stream", "tells-nothing", "wants-nothing"],
)
async def test_where_there_is_nothing_to_hear_it_says_so(
    upstream: McpHttpUpstream, offered: dict[str, Any], wanted: dict[str, Any], gets: int
) -> None:
    async def get(asked: Asked, peer: Peer) -> bytes:
        return answer(b"", status=b"405 Method Not Allowed")

    async with scripted(Telling(offered, GET=get)) as found:
        with pytest.raises(MethodNotAllowed):
            await listening(Caller(upstream, version(found.url)), wanted)
        assert len(found.of("GET")) == gets


@pytest.mark.requirement("for-modern:listens")
async def test_a_filter_that_is_none_is_refused(upstream: McpHttpUpstream) -> None:
    async with scripted(Telling()) as found:
        for wanted in ({"toolsListChanged": 1}, {"resourceSubscriptions": [1]}, {"resourceSubscriptions": "x"}):
            with pytest.raises(InvalidParams):
                await listening(Caller(upstream, version(found.url)), wanted)
        assert found.of("GET") == []


@pytest.mark.requirement("for-modern:listens")
async def test_a_client_is_told_what_it_asked_for_and_nothing_else(upstream: McpHttpUpstream) -> None:
    server = Telling()
    async with scripted(server) as found:
        wanted = {"promptsListChanged": True, "resourceSubscriptions": ["x://a", "x://dir/"]}
        async with ear(Caller(upstream, version(found.url)), wanted) as heard:
            for message in (
                said(CHANGED["tools"]),
                said(CHANGED["resources"]),
                said("notifications/message", level="error", data="x"),
                said("notifications/progress", progressToken=1, progress=1),
                said("notifications/resources/updated", uri="x://ab"),
                said("notifications/resources/updated"),
                said("notifications/resources/updated", uri="x://dir/part"),
                said(CHANGED["prompts"]),
            ):
                server.tell(message)
            assert (await heard.heard())["params"]["uri"] == "x://dir/part"
            assert (await heard.heard())["method"] == CHANGED["prompts"]


@pytest.mark.requirement("for-modern:listens")
async def test_a_server_can_ask_nothing_there(upstream: McpHttpUpstream) -> None:
    server = Telling()
    async with scripted(server) as found:
        caller = Caller(upstream, version(found.url)).known(capabilities=b'{"roots":{},"elicitation":{}}')
        async with ear(caller, EVERYTHING) as heard:
            server.tell({**said("roots/list"), "id": "q1"})
            server.tell({**said("ping"), "id": "q2"})
            server.tell(said(CHANGED["tools"]))
            await heard.heard()
            answered = {a.id: a.message for a in found.of("answer")}
            assert answered["q1"]["error"]["code"] == -32601
            assert answered["q2"]["result"] == {}


@pytest.mark.requirement("for-modern:listens")
async def test_a_stream_that_the_server_ends_is_ended_in_good_order(upstream: McpHttpUpstream) -> None:
    server = Telling()
    async with scripted(server) as found:
        caller = Caller(upstream, version(found.url))
        async with ear(caller, EVERYTHING) as heard:
            server.tell(None)
            last = await heard.next()
            assert last.kind is PartKind.LAST
            assert json.loads(last.body) == {"resultType": "complete", "_meta": {SUBSCRIPTION: "l-1"}}
        async with ear(caller, EVERYTHING) as heard:
            server.streams[-1].put_nowait(said(CHANGED["tools"]))
            await heard.heard()


@pytest.mark.requirement("for-modern:listens")
async def test_a_lost_session_is_opened_again_for_a_listen(upstream: McpHttpUpstream) -> None:
    async def subscribe(asked: Asked, peer: Peer) -> bytes:
        return answer(b"", status=b"404 Not Found") if server.opened == 1 else reply(asked, {})

    server = Telling(resources_subscribe=subscribe)
    async with scripted(server) as found:
        async with ear(Caller(upstream, version(found.url)), {"resourceSubscriptions": ["x://1"]}) as heard:
            server.streams[-1].put_nowait(said("notifications/resources/updated", uri="x://1"))
            await heard.heard()
        assert server.opened == 2


# One stream for all


@pytest.mark.requirement("for-modern:shared-stream")
async def test_all_who_listen_in_a_session_share_its_stream(upstream: McpHttpUpstream) -> None:
    server = Telling()
    async with scripted(server) as found:
        caller = Caller(upstream, version(found.url))
        one, two = await asyncio.gather(
            listening(caller, {"toolsListChanged": True}), listening(caller, EVERYTHING, "7")
        )
        await one.acknowledged()
        await two.acknowledged()
        server.tell(said(CHANGED["prompts"]))
        server.tell(said(CHANGED["tools"]))
        assert (await one.heard())["params"]["_meta"] == {SUBSCRIPTION: "l-1"}
        assert (await two.heard())["method"] == CHANGED["prompts"]
        assert (await two.heard())["params"]["_meta"] == {SUBSCRIPTION: 7}
        await one.leave()
        server.tell(said(CHANGED["tools"]))
        await two.heard()
        assert server.closed == 0
        await two.leave()
        await eventually(lambda: server.closed)
        assert len(found.of("GET")) == 1


@pytest.mark.requirement("for-modern:shared-stream")
async def test_a_resource_is_watched_as_long_as_somebody_wants_it(upstream: McpHttpUpstream) -> None:
    server = Telling()
    async with scripted(server) as found:
        caller = Caller(upstream, version(found.url))
        async with ear(caller, {"resourceSubscriptions": ["x://1"]}) as one:
            async with ear(caller, {"resourceSubscriptions": ["x://1", "x://2"]}):
                assert [a.params["uri"] for a in found.of("resources/subscribe")] == ["x://1", "x://2"]
            await eventually(lambda: found.of("resources/unsubscribe"))
            server.tell(said("notifications/resources/updated", uri="x://1"))
            await one.heard()
            assert [a.params["uri"] for a in found.of("resources/unsubscribe")] == ["x://2"]
        await eventually(lambda: len(found.of("resources/unsubscribe")) == 2)


@pytest.mark.requirement("for-modern:shared-stream")
async def test_what_a_call_brings_about_is_heard_by_those_who_listen_in_its_session(upstream: McpHttpUpstream) -> None:
    async def call(asked: Asked, peer: Peer) -> bytes:
        told = event(said(CHANGED["tools"])) + event(said("notifications/resources/updated", uri="x://1"))
        return STREAM + told + event(result_of(asked, plain("fine"))) + END

    async with scripted(Telling(tools_call=call)) as found:
        caller = Caller(upstream, version(found.url))
        async with ear(caller, {"toolsListChanged": True, "resourceSubscriptions": ["x://1"]}) as heard:
            assert (await caller.call("t")).kinds == ["whole"]
            assert (await heard.heard())["method"] == CHANGED["tools"]
            assert (await heard.heard())["params"]["uri"] == "x://1"


@pytest.mark.requirement("for-modern:shared-stream")
async def test_a_server_that_has_not_noticed_the_last_stream_is_gone_is_asked_again(upstream: McpHttpUpstream) -> None:
    occupied = 2

    async def get(asked: Asked, peer: Peer) -> bytes | None:
        nonlocal occupied
        occupied -= 1
        return OCCUPIED if occupied >= 0 else await server._stream(asked, peer)

    server = Telling(GET=get)
    async with scripted(server) as found, ear(Caller(upstream, version(found.url)), EVERYTHING):
        assert len(found.of("GET")) == 3


@pytest.mark.requirement("for-modern:shared-stream")
async def test_a_real_server_tells_what_a_call_changed(upstream: McpHttpUpstream, legacy_server: str) -> None:
    caller = Caller(upstream, version(legacy_server))
    watched = "test://watched-resource"
    async with ear(caller, {"toolsListChanged": True, "resourceSubscriptions": [watched]}) as heard:
        await caller.call("test_trigger_tool_change")
        told = [await heard.heard(), await heard.heard()]
    assert {m["method"] for m in told} == {CHANGED["tools"], "notifications/resources/updated"}
    assert {m["params"]["_meta"][SUBSCRIPTION] for m in told} == {"l-1"}


# The gate


@pytest.mark.requirement("for-modern:listen-gate")
async def test_each_write_passes_the_gate_of_the_call_that_listens(upstream: McpHttpUpstream) -> None:
    async with scripted(Telling()) as found:
        caller = Caller(upstream, version(found.url))
        async with ear(caller, {"resourceSubscriptions": ["x://1"]}) as one:
            assert one.gate.passed == 5  # what are you, initialize, initialized, the stream, the subscription
            async with ear(caller, {"resourceSubscriptions": ["x://1", "x://2"]}) as two:
                assert two.gate.passed == 1


@pytest.mark.requirement("for-modern:listen-gate")
async def test_a_reply_on_the_shared_stream_is_written_in_the_name_of_whoever_may(upstream: McpHttpUpstream) -> None:
    server = Telling()
    async with scripted(server) as found:
        caller = Caller(upstream, version(found.url))
        async with ear(caller, EVERYTHING) as one, ear(caller, EVERYTHING) as two:
            one.gate.closed = Killed("killed")
            server.tell({**said("ping"), "id": "q1"})
            await eventually(lambda: found.of("answer"))
            assert two.gate.passed == 1
            two.gate.closed = Killed("killed")
            server.tell({**said("ping"), "id": "q2"})
            for heard in (one, two):
                assert (await heard.next()).kind is PartKind.LAST
            assert len(found.of("answer")) == 1


@pytest.mark.requirement("for-modern:listen-gate")
async def test_when_the_world_moves_each_listener_is_judged_again_before_the_stream_is_written_to(
    upstream: McpHttpUpstream,
) -> None:
    server = Telling()
    async with scripted(server) as found, ear(Caller(upstream, version(found.url)), EVERYTHING) as heard:
        heard.gate.closed = WorldMoved()
        server.tell({**said("ping"), "id": "q1"})
        part = await anext(heard.parts)
        assert (part.kind, part.body) == (PartKind.EVENT, b"")
        assert found.of("answer") == []
        heard.gate.closed = None  # the pipeline has judged again
        await eventually(lambda: found.of("answer"))


@pytest.mark.requirement("for-modern:listen-gate")
async def test_after_a_kill_a_listener_writes_nothing_more(upstream: McpHttpUpstream) -> None:
    server = Telling()
    async with scripted(server) as found:
        heard = await listening(Caller(upstream, version(found.url)), {"resourceSubscriptions": ["x://1"]})
        await heard.acknowledged()
        heard.gate.closed = Killed("killed")
        await heard.leave(Killed("killed"))
        await eventually(lambda: server.closed)
        await upstream.aclose()
        assert found.of("resources/unsubscribe") == []
