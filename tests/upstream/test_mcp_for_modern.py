"""Modern clients in front of servers of the handshake era: discovery, results, sessions, what belongs to a request."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from typing import Any

import anyio
import pytest

from mcpgw.domain import Arguments, Verb
from mcpgw.errors import ClientGone, UpstreamFailed
from mcpgw.upstream.http import HttpClient
from mcpgw.upstream.mcp_http import McpHttpUpstream
from mcpgw.upstream.mcp_translate import modern_tool
from tests.eventually import eventually
from tests.fixtures.raw_http import Peer, answer
from tests.upstream.calls import ALICE, BOB, LIMITS, MODERN, Caller, CountingGate, HandClock, mcp_http, version
from tests.upstream.scripted import (
    END,
    STREAM,
    Asked,
    Handshaking,
    event,
    plain,
    refusal,
    reply,
    result_of,
    said,
    scripted,
)

SERVER_INFO = "io.modelcontextprotocol/serverInfo"
EVERYTHING = {"name": "everything", "version": "1.0.0"}
REF = {"ref": b'{"type":"ref/prompt","name":"test_prompt_with_arguments"}', "argument": b'{"name":"arg1","value":"p"}'}


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture
def modern(upstream: McpHttpUpstream, legacy_server: str) -> Caller:
    return Caller(upstream, version(legacy_server))


# Discovery and results


@pytest.mark.requirement("for-modern:results")
async def test_a_client_discovers_what_the_server_told_at_its_handshake(modern: Caller) -> None:
    discovered = (await modern.ask(Verb.DISCOVER)).result
    assert discovered == {
        "resultType": "complete",
        "supportedVersions": ["2026-07-28"],
        "capabilities": {
            "completions": {},
            "logging": {},
            "prompts": {"listChanged": True},
            "resources": {"listChanged": True, "subscribe": True},
            "tools": {"listChanged": True},
        },
        "instructions": "A server with everything in it, for tests.",
        "ttlMs": 0,
        "cacheScope": "private",
        "_meta": {SERVER_INFO: EVERYTHING},
    }


@pytest.mark.requirement("for-modern:results")
async def test_discovery_asks_the_server_once_and_tells_of_no_tasks(upstream: McpHttpUpstream) -> None:
    async def initialize(asked: Asked, peer: Peer) -> bytes:
        capabilities = {"tools": {}, "tasks": {"list": {}}, "extensions": {"x": {}}, "experimental": {"y": {}}}
        return reply(asked, {"protocolVersion": "2025-06-18", "capabilities": capabilities})

    async with scripted(Handshaking(initialize=initialize)) as server:
        caller = Caller(upstream, version(server.url))
        for _ in range(2):
            discovered = (await caller.ask(Verb.DISCOVER)).result
            assert discovered["capabilities"] == {"tools": {}, "experimental": {"y": {}}}
            assert "_meta" not in discovered
        assert server.verbs == ["server/discover", "initialize", "notifications/initialized"]
        stated = server.of("initialize")[0].params
        assert stated == {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "tester", "version": "1"},
        }


@pytest.mark.requirement("for-modern:results")
async def test_every_result_is_a_modern_one(modern: Caller) -> None:
    lists = (Verb.RESOURCES_LIST, Verb.RESOURCE_TEMPLATES_LIST, Verb.PROMPTS_LIST)
    cacheable = [await modern.ask(verb) for verb in lists]
    cacheable.append(await modern.ask(Verb.RESOURCES_READ, name="test://static-text"))
    for seen in cacheable:
        assert (seen.result["ttlMs"], seen.result["cacheScope"]) == (0, "private")
    prompt = await modern.ask(
        Verb.PROMPTS_GET, name="test_prompt_with_arguments", arguments=Arguments(b'{"arg1":"x","arg2":"y"}')
    )
    others = [await modern.call("test_simple_text"), prompt, await modern.ask(Verb.COMPLETE, forwarded=REF)]
    for seen in others:
        assert "ttlMs" not in seen.result
    for seen in (*cacheable, *others):
        assert seen.result["resultType"] == "complete"
        assert seen.result["_meta"][SERVER_INFO] == EVERYTHING
        assert seen.last.facts == {"upstream_status": 200, "era": "legacy"}
    assert (await modern.call("test_error_handling")).last.failed


@pytest.mark.requirement("for-modern:results")
async def test_a_missing_resource_is_an_invalid_parameter(modern: Caller) -> None:
    last = (await modern.ask(Verb.RESOURCES_READ, name="test://none")).last
    assert last.error_code == -32602
    error = json.loads(last.body)
    assert (error["code"], error["data"]) == (-32602, {"uri": "test://none"})


@pytest.mark.requirement("for-modern:results")
@pytest.mark.parametrize(
    ("code", "told"), [(-32601, -32601), (-32602, -32602), (-32000, -32000), (-32020, -32603), (-32042, -32603), (7, 7)]
)
async def test_an_error_means_to_the_client_what_the_server_meant(
    upstream: McpHttpUpstream, code: int, told: int
) -> None:
    async def call(asked: Asked, peer: Peer) -> bytes:
        return refusal(code, "why", id=asked.id, status=b"200 OK")

    async with scripted(Handshaking(tools_call=call)) as server:
        last = (await Caller(upstream, version(server.url)).call("t")).last
    assert (last.error_code, json.loads(last.body)) == (told, {"code": told, "message": "why"})


@pytest.mark.requirement("for-modern:results")
async def test_what_a_result_says_of_itself_stands(upstream: McpHttpUpstream) -> None:
    async def call(asked: Asked, peer: Peer) -> bytes:
        return reply(
            asked, {"content": [], "structuredContent": {"n": 1}, "_meta": {"x": 1, SERVER_INFO: {"name": "me"}}}
        )

    async with scripted(Handshaking(tools_call=call)) as server:
        result = (await Caller(upstream, version(server.url)).call("t")).result
    assert result["_meta"] == {"x": 1, SERVER_INFO: {"name": "me"}}
    assert result["structuredContent"] == {"n": 1}


@pytest.mark.requirement("for-modern:results")
def test_a_tool_is_shown_without_what_its_client_would_drop_it_for() -> None:
    def tool(**properties: Any) -> dict[str, Any]:
        return {"name": "t", "inputSchema": {"type": "object", "properties": properties}}

    valid = {"type": "string", "x-mcp-header": "Region"}
    data = {"type": "object", "default": {"x-mcp-header": "kept"}, "enum": [{"x-mcp-header": "kept"}]}
    deep = {"type": "array", "items": {"anyOf": [{"type": "string", "x-mcp-header": "Deep"}]}}
    bare = {"type": "array", "items": {"anyOf": [{"type": "string"}]}}
    named = {"x-mcp-header": {"type": "string"}}
    shown = modern_tool(
        json.dumps(
            {
                **tool(a=valid, b={"type": "number", "x-mcp-header": "B"}, c=deep, d=data, **named),
                "execution": {"taskSupport": "required"},
            }
        ).encode()
    )
    assert json.loads(shown) == tool(a=valid, b={"type": "number"}, c=bare, d=data, **named)
    twice = tool(a=valid, b={"type": "string", "x-mcp-header": "region"})
    assert json.loads(modern_tool(json.dumps(twice).encode())) == tool(a={"type": "string"}, b={"type": "string"})
    for untouched in (tool(a=valid), tool()):
        definition = json.dumps(untouched).encode()
        assert modern_tool(definition) is definition


# Sessions


@pytest.mark.requirement("for-modern:sessions")
async def test_requests_share_a_session_with_those_that_are_alike(upstream: McpHttpUpstream) -> None:
    handshaking = Handshaking()
    async with scripted(handshaking) as server:
        one = Caller(upstream, version(server.url), credential={"authorization": "Bearer a"})
        alike = (one, one, one.known(meta=b'{"x":1}', log_level="info"), one.known(capabilities=b'{"experimental":{}}'))
        for caller in alike:
            await caller.call("t")
        assert handshaking.opened == 1
        for other in (
            dataclasses.replace(one, who=BOB),
            dataclasses.replace(one, who=dataclasses.replace(ALICE, client_id="other")),
            dataclasses.replace(one, credential={"authorization": "Bearer b"}),
            dataclasses.replace(one, target=dataclasses.replace(one.target, version="2.0.0")),
            one.known(capabilities=b'{"elicitation":{}}'),
            one.known(capabilities=b'{"elicitation":{"url":{}}}'),
            one.known(protocol_version="2027-01-01"),
        ):
            before = handshaking.opened
            await other.call("t")
            assert handshaking.opened == before + 1
            await other.call("t")
            assert handshaking.opened == before + 1
        spoken = [a.headers["authorization"] for a in server.of("initialize")]
        assert spoken.count("Bearer b") == 1


@pytest.mark.requirement("for-modern:sessions")
async def test_calls_at_once_open_one_session(upstream: McpHttpUpstream) -> None:
    handshaking = Handshaking()
    async with scripted(handshaking) as server:
        caller = Caller(upstream, version(server.url))
        seen = await asyncio.gather(*(caller.call(f"t{n}") for n in range(20)))
        assert [s.text for s in seen] == [f"t{n}" for n in range(20)]
        assert handshaking.opened == 1
        assert len(server.of("notifications/initialized")) == 1


@pytest.mark.requirement("for-modern:sessions")
async def test_sessions_are_bounded_and_end_when_idle(clock: HandClock) -> None:
    limits = LIMITS.model_copy(update={"sessions": 2})
    http = HttpClient(limits, lambda address: True)
    upstream = mcp_http(http, clock, limits)
    handshaking = Handshaking()
    async with scripted(handshaking) as server:
        callers = [
            Caller(upstream, version(server.url), who=dataclasses.replace(ALICE, subject=name)) for name in "abc"
        ]
        for n in (0, 1, 0, 2, 0, 1):
            await callers[n].call("t")
        assert handshaking.opened == 4  # the second was unused for longest when the third came
        clock.now += limits.session_idle_s + 1
        await callers[0].call("t")
        assert handshaking.opened == 5
    await upstream.aclose()
    await http.aclose()


@pytest.mark.requirement("for-modern:sessions")
async def test_a_session_of_a_legacy_client_is_nobody_elses(upstream: McpHttpUpstream) -> None:
    handshaking = Handshaking()
    async with scripted(handshaking) as server:
        caller = Caller(upstream, version(server.url))
        legacy = dataclasses.replace(MODERN, modern=False, protocol_version="2025-11-25")
        await caller.call("t")
        await dataclasses.replace(caller, client=legacy, session=None).call("t")
        await dataclasses.replace(caller, client=legacy, session="s").call("t")
        assert handshaking.opened == 3


@pytest.mark.requirement("for-modern:sessions")
async def test_opening_a_session_passes_the_gate_at_each_write(upstream: McpHttpUpstream) -> None:
    async with scripted(Handshaking()) as server:
        caller = Caller(upstream, version(server.url))
        for passed in (4, 1):  # what are you, initialize, initialized, the call
            gate = CountingGate()
            await caller.call("t", gate=gate)
            assert gate.passed == passed


# Lost sessions

LOST = [answer(b"", status=b"404 Not Found"), refusal(-32000, "No valid session ID provided", id=1)]


@pytest.mark.requirement("for-modern:lost")
@pytest.mark.parametrize("lost", LOST, ids=["404", "typescript-sdk"])
@pytest.mark.parametrize(
    ("verb", "facts"),
    [
        (Verb.RESOURCES_LIST, {}),
        (Verb.RESOURCES_READ, {"name": "test://x"}),
        (Verb.PROMPTS_GET, {"name": "p"}),
        (Verb.COMPLETE, {"forwarded": REF}),
    ],
)
async def test_what_may_be_asked_twice_is_asked_in_a_new_session(
    upstream: McpHttpUpstream, verb: Verb, facts: Any, lost: bytes
) -> None:
    async def asked_once(asked: Asked, peer: Peer) -> bytes:
        return lost if handshaking.opened == 1 else reply(asked, {"fine": True})

    handshaking = Handshaking()
    handshaking.handlers[verb.value] = asked_once
    async with scripted(handshaking) as server:
        assert (await Caller(upstream, version(server.url)).ask(verb, **facts)).result["fine"]
        assert server.verbs[1:] == ["initialize", "notifications/initialized", verb.value] * 2


@pytest.mark.requirement("for-modern:lost")
@pytest.mark.parametrize("lost", LOST, ids=["404", "typescript-sdk"])
async def test_a_tool_is_not_called_again_in_a_new_session(upstream: McpHttpUpstream, lost: bytes) -> None:
    async def call(asked: Asked, peer: Peer) -> bytes:
        return lost if handshaking.opened == 1 else reply(asked, plain("fine"))

    handshaking = Handshaking(tools_call=call)
    async with scripted(handshaking) as server:
        caller = Caller(upstream, version(server.url))
        with pytest.raises(UpstreamFailed) as failed:
            await caller.call("t")
        assert failed.value.data == {"cause": "session_lost"}
        assert len(server.of("tools/call")) == 1
        assert (await caller.call("t")).text == "fine"


@pytest.mark.requirement("for-modern:lost")
async def test_a_server_that_forgets_every_session_fails_its_calls(upstream: McpHttpUpstream) -> None:
    async def always(asked: Asked, peer: Peer) -> bytes:
        return LOST[0]

    async with scripted(Handshaking(prompts_list=always)) as server:
        with pytest.raises(UpstreamFailed, match="no longer has the session"):
            await Caller(upstream, version(server.url)).ask(Verb.PROMPTS_LIST)
        assert len(server.of("prompts/list")) == 2


@pytest.mark.requirement("for-modern:lost")
async def test_a_session_that_is_lost_before_the_call_costs_it_nothing(upstream: McpHttpUpstream) -> None:
    async def level(asked: Asked, peer: Peer) -> bytes:
        return LOST[0] if handshaking.opened == 1 else reply(asked, {})

    handshaking = Logging(logging_setLevel=level)
    async with scripted(handshaking) as server:
        assert (await Caller(upstream, version(server.url)).known(log_level="info").call("t")).text == "t"
        assert (handshaking.opened, len(server.of("tools/call"))) == (2, 1)


# What belongs to a request


class Logging(Handshaking):
    """A server with levels, whose calls log one message of each."""

    levels = ("debug", "info", "warning", "error")

    async def __call__(self, asked: Asked, peer: Peer) -> bytes | None:
        if asked.verb == "initialize":
            self.opened += 1
            capabilities = {"logging": {}, "tools": {}}
            return reply(asked, {"protocolVersion": self.version, "capabilities": capabilities}, b"mcp-session-id: s")
        if asked.verb == "logging/setLevel" and asked.verb not in self.handlers:
            return reply(asked, {})
        if asked.verb == "tools/call" and asked.params["name"] == "log":
            logged = [event(said("notifications/message", level=level, data=level)) for level in self.levels]
            nonsense = event(said("notifications/message", data="no level"))
            return STREAM + b"".join(logged) + nonsense + event(result_of(asked, plain("fine"))) + END
        return await super().__call__(asked, peer)


def levels_of(seen: Any) -> list[str]:
    return [e["params"]["level"] for e in seen.events]


@pytest.mark.requirement("for-modern:own-request")
async def test_log_messages_come_from_the_level_on_that_the_request_names(upstream: McpHttpUpstream) -> None:
    async with scripted(Logging()) as server:
        caller = Caller(upstream, version(server.url))
        assert (await caller.call("log")).kinds == ["whole"]
        assert server.of("logging/setLevel") == []
        assert levels_of(await caller.known(log_level="warning").call("log")) == ["warning", "error"]
        assert levels_of(await caller.known(log_level="debug").call("log")) == ["debug", "info", "warning", "error"]
        assert levels_of(await caller.known(log_level="error").call("log")) == ["error"]
        assert (await caller.call("log")).kinds == ["whole"]
        # A session has one level, the least that anybody wanted in it.
        assert [a.params["level"] for a in server.of("logging/setLevel")] == ["warning", "debug"]


@pytest.mark.requirement("for-modern:own-request")
@pytest.mark.parametrize("settled", [refusal(-32601, id=1), answer(b"", status=b"500 Oh")], ids=["refused", "failed"])
async def test_a_server_that_takes_no_level_is_called_all_the_same(upstream: McpHttpUpstream, settled: bytes) -> None:
    async def level(asked: Asked, peer: Peer) -> bytes:
        return settled

    async with scripted(Logging(logging_setLevel=level)) as server:
        assert (await Caller(upstream, version(server.url)).known(log_level="info").call("t")).text == "t"


@pytest.mark.requirement("for-modern:own-request")
async def test_a_server_without_levels_is_told_none(upstream: McpHttpUpstream) -> None:
    async with scripted(Handshaking()) as server:
        await Caller(upstream, version(server.url)).known(log_level="info").call("t")
        assert server.of("logging/setLevel") == []


@pytest.mark.requirement("for-modern:own-request")
async def test_progress_and_messages_of_a_real_server_arrive(modern: Caller) -> None:
    seen = await modern.known(meta=b'{"progressToken":"tok"}').call("test_tool_with_progress")
    assert seen.kinds == ["opened", "event", "event", "event", "last"]
    assert [e["params"]["progress"] for e in seen.events] == [0, 50, 100]
    assert {e["params"]["progressToken"] for e in seen.events} == {"tok"}
    assert (await modern.call("test_tool_with_logging")).events == []
    logged = await modern.known(log_level="info").call("test_tool_with_logging")
    assert [e["method"] for e in logged.events] == ["notifications/message"] * 3


@pytest.mark.requirement("for-modern:own-request")
async def test_progress_bears_the_clients_token_and_never_anothers(upstream: McpHttpUpstream) -> None:
    async def call(asked: Asked, peer: Peer) -> bytes:
        meta = asked.params.get("_meta", {})
        tokens = (meta.get("progressToken", 0), "other", 12345678)
        told = [event(said("notifications/progress", progressToken=t, progress=1)) for t in tokens]
        rest = event(said("notifications/progress")) + event(said("notifications/x/y"))
        return STREAM + b"".join(told) + rest + event(result_of(asked, plain(json.dumps(meta)))) + END

    async with scripted(Handshaking(tools_call=call)) as server:
        caller = Caller(upstream, version(server.url))
        mine = await caller.known(meta=b'{"progressToken":12345678,"traceparent":"00-x"}').call("t")
        assert [e["params"] for e in mine.events] == [{"progressToken": 12345678, "progress": 1}]
        sent = json.loads(mine.text)
        assert sent["traceparent"] == "00-x"
        assert sent["progressToken"] != 12345678
        assert (await caller.known(meta=b'{"traceparent":"00-x"}').call("t")).kinds == ["whole"]


@pytest.mark.requirement("for-modern:own-request")
async def test_a_clients_notifications_go_no_further(upstream: McpHttpUpstream) -> None:
    async with scripted(Handshaking()) as server:
        caller = Caller(upstream, version(server.url))
        await caller.call("t")
        before = len(server.asked)
        assert (await caller.ask(Verb.PROGRESS)).last.status == 202
        assert len(server.asked) == before


@pytest.mark.requirement("for-modern:cancellation")
async def test_a_client_that_leaves_cancels_its_request(upstream: McpHttpUpstream) -> None:
    gone = asyncio.Event()

    async def call(asked: Asked, peer: Peer) -> None:
        token = asked.params["_meta"]["progressToken"]
        await peer.write(STREAM + event(said("notifications/progress", progressToken=token, progress=1)))
        await peer.gone()
        gone.set()

    async with scripted(Handshaking(tools_call=call)) as server:
        caller = Caller(upstream, version(server.url)).known(meta=b'{"progressToken":1}')
        exchange = await caller.send(Verb.TOOLS_CALL, name="t")
        await anext(aiter(exchange))
        await exchange.aclose(ClientGone("gone"))
        with anyio.fail_after(5):
            await gone.wait()
        await eventually(lambda: server.of("notifications/cancelled"))
        [told] = server.of("notifications/cancelled")
        assert told.params == {"requestId": server.of("tools/call")[0].id}


@pytest.mark.requirement("for-modern:cancellation")
async def test_a_stream_that_the_server_closes_early_is_taken_up_again(modern: Caller) -> None:
    seen = await modern.call("test_reconnection")
    assert seen.text == "The result arrived after the stream had been closed."
