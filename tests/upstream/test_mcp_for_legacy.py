"""Clients of the handshake era in front of servers of 2026-07-28: handshake, envelope, results."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from mcpgw.domain import Arguments, Era, ToolPin, Verb
from mcpgw.errors import InvalidParams, Killed, UpstreamFailed
from mcpgw.upstream.http import HttpClient
from mcpgw.upstream.mcp_http import McpHttpUpstream
from mcpgw.upstream.mcp_translate import legacy_tool
from tests.fixtures.raw_http import Peer
from tests.upstream.calls import BOB, LEGACY, LIMITS, Caller, CountingGate, HandClock, Seen, mcp_http, version
from tests.upstream.scripted import Asked, Handler, Handshaking, refusal, reply, scripted
from tests.upstream.stateless import DISCOVERED, Stateless, complete, wanting

REVISIONS = ("2025-03-26", "2025-06-18", "2025-11-25")
PREFIX = "io.modelcontextprotocol/"


def client_of(upstream: McpHttpUpstream, url: str, *, session: str = "s-1", **facts: Any) -> Caller:
    client = dataclasses.replace(LEGACY, **facts)
    return Caller(upstream, version(url, era=Era.MODERN), client=client, session=session)


@pytest.fixture
def legacy(upstream: McpHttpUpstream, modern_server: str) -> Caller:
    return client_of(upstream, modern_server)


# The handshake


@pytest.mark.requirement("for-legacy:handshake")
@pytest.mark.parametrize("revision", REVISIONS)
async def test_a_handshake_is_answered_from_what_the_server_tells_of_itself(legacy: Caller, revision: str) -> None:
    seen = await legacy.known(protocol_version=revision).ask(Verb.INITIALIZE)
    assert seen.kinds == ["whole"]
    assert seen.result == {
        "protocolVersion": revision,
        "capabilities": {
            "completions": {},
            "logging": {},
            "prompts": {"listChanged": True},
            "resources": {"listChanged": True, "subscribe": True},
            "tools": {"listChanged": True},
        },
        "serverInfo": {"name": "everything", "version": "1.0.0"},
        "instructions": "A server with everything in it, for tests.",
    }
    assert seen.last.facts["era"] == "modern"


@pytest.mark.requirement("for-legacy:handshake")
async def test_extensions_are_not_offered_and_a_server_without_a_name_is_called_by_its_slug(
    upstream: McpHttpUpstream,
) -> None:
    offered: dict[str, Any] = {
        "tools": {},
        "extensions": {PREFIX + "tasks": {}},
        "tasks": {},
        "experimental": {"x": {}},
    }
    discovered = {"resultType": "complete", "supportedVersions": ["2026-07-28"], "capabilities": offered}
    async with scripted(Stateless(discovered)) as server:
        seen = await client_of(upstream, server.url).ask(Verb.INITIALIZE)
    assert seen.result == {
        "protocolVersion": "2025-11-25",
        "capabilities": {"tools": {}, "experimental": {"x": {}}},
        "serverInfo": {"name": "srv", "version": "unknown"},
    }


@pytest.mark.requirement("for-legacy:handshake")
async def test_every_session_is_told_what_the_server_says_to_its_own_credential(upstream: McpHttpUpstream) -> None:
    async def discover(asked: Asked, peer: Peer) -> bytes:
        return reply(asked, {**DISCOVERED, "instructions": f"for {asked.headers['authorization']}"})

    async with scripted(Stateless(server_discover=discover)) as server:
        alice = dataclasses.replace(client_of(upstream, server.url), credential={"authorization": "alice"})
        bob = dataclasses.replace(alice, who=BOB, session="s-2", credential={"authorization": "bob"})
        told = [(await caller.ask(Verb.INITIALIZE)).result["instructions"] for caller in (alice, bob)]
    assert told == ["for alice", "for bob"]


@pytest.mark.requirement("for-legacy:handshake")
async def test_a_server_that_tells_nothing_that_can_be_read_fails_the_handshake(upstream: McpHttpUpstream) -> None:
    async def discover(asked: Asked, peer: Peer) -> bytes:
        return reply(asked, {**DISCOVERED, "capabilities": []})

    async with scripted(Stateless(server_discover=discover)) as server:
        with pytest.raises(UpstreamFailed, match="cannot be read"):
            await client_of(upstream, server.url).ask(Verb.INITIALIZE)


@pytest.mark.requirement("for-legacy:handshake")
async def test_what_belongs_to_a_session_alone_is_not_sent(upstream: McpHttpUpstream) -> None:
    async with scripted(Stateless()) as server:
        caller = client_of(upstream, server.url)
        await caller.call("t")
        before = len(server.asked)
        for verb in (Verb.ROOTS_CHANGED, Verb.PROGRESS, Verb.END_SESSION):
            seen = await caller.ask(verb)
            assert (seen.kinds, seen.last.body, seen.last.status) == (["whole"], b"", 202)
        assert len(server.asked) == before


# The envelope


async def sent(upstream: McpHttpUpstream, *, tool: ToolPin | None = None, level: bytes = b"", **facts: Any) -> Asked:
    """Return how one call reaches the server."""
    async with scripted(Stateless()) as server:
        caller = client_of(upstream, server.url, **facts)
        if level:
            assert (await caller.ask(Verb.SET_LEVEL, forwarded={"level": level})).result == {}
        arguments = Arguments(b'{"a":1.50,"region":"Zoe \\u2713"}')
        await caller.ask(Verb.TOOLS_CALL, name=tool.name if tool else "t", arguments=arguments, tool=tool)
        return server.of("tools/call")[0]


@pytest.mark.requirement("for-legacy:envelope")
async def test_each_call_says_again_what_the_client_said_once(upstream: McpHttpUpstream) -> None:
    stated = b'{"roots":{"listChanged":true},"elicitation":{"form":{},"url":{}},"sampling":{"tools":{}},"tasks":{}}'
    meta = b'{"progressToken":"tok","traceparent":"00-1","io.modelcontextprotocol/related-task":{"taskId":"1"}}'
    asked = await sent(upstream, level=b'"error"', capabilities=stated, meta=meta)
    assert asked.params["_meta"] == {
        PREFIX + "protocolVersion": "2026-07-28",
        PREFIX + "clientCapabilities": {"roots": {}, "elicitation": {"form": {}, "url": {}}, "sampling": {"tools": {}}},
        PREFIX + "clientInfo": {"name": "tester", "version": "1"},
        PREFIX + "logLevel": "error",
        "progressToken": "tok",
        "traceparent": "00-1",
    }
    assert b'"arguments":{"a":1.50,"region":"Zoe \\u2713"}' in asked.body


@pytest.mark.requirement("for-legacy:envelope")
async def test_headers_say_what_the_body_says_and_nothing_of_a_session(upstream: McpHttpUpstream) -> None:
    schema = {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}
    definition = json.dumps({"name": "where ✓", "inputSchema": schema}).encode()
    asked = await sent(upstream, tool=ToolPin("where ✓", "", definition))
    own = {name: value for name, value in asked.headers.items() if name.startswith("mcp-")}
    assert own == {
        "mcp-protocol-version": "2026-07-28",
        "mcp-method": "tools/call",
        "mcp-name": "=?base64?d2hlcmUg4pyT?=",
        "mcp-param-region": "=?base64?Wm9lIOKckw==?=",
    }


@pytest.mark.requirement("for-legacy:envelope")
@pytest.mark.parametrize(
    ("revision", "declared"),
    [
        ("2025-03-26", {"experimental": {"x": {}}}),
        ("2025-06-18", {"roots": {}, "elicitation": {}, "sampling": {}, "experimental": {"x": {}}}),
        (
            "2025-11-25",
            {"roots": {}, "elicitation": {"url": {}}, "sampling": {"context": {}}, "experimental": {"x": {}}},
        ),
    ],
)
async def test_of_what_a_client_declared_its_revision_has_only_that_is_told(
    upstream: McpHttpUpstream, revision: str, declared: dict[str, Any]
) -> None:
    stated = b'{"roots":{},"elicitation":{"url":{}},"sampling":{"context":{}},"experimental":{"x":{}},"other":{}}'
    asked = await sent(upstream, capabilities=stated, protocol_version=revision)
    assert asked.params["_meta"][PREFIX + "clientCapabilities"] == declared
    assert PREFIX + "logLevel" not in asked.params["_meta"]


@pytest.mark.requirement("for-legacy:envelope")
async def test_a_client_of_this_era_cannot_answer_what_it_was_not_asked(upstream: McpHttpUpstream) -> None:
    async with scripted(Stateless()) as server:
        forged = {"inputResponses": b'{"k":{"action":"accept"}}', "requestState": b'"stolen"'}
        await client_of(upstream, server.url).call("t", forwarded=forged)
        assert server.of("tools/call")[0].params.keys() == {"name", "arguments", "_meta"}


@pytest.mark.requirement("for-legacy:envelope")
async def test_a_log_level_is_that_of_its_session_alone(upstream: McpHttpUpstream) -> None:
    async with scripted(Stateless()) as server:
        caller = client_of(upstream, server.url)
        others = [dataclasses.replace(caller, session="s-2"), dataclasses.replace(caller, who=BOB)]
        await caller.ask(Verb.SET_LEVEL, forwarded={"level": b'"error"'})
        for wrong in (b'"loud"', b"7", b"null"):
            with pytest.raises(InvalidParams, match="log level"):
                await caller.ask(Verb.SET_LEVEL, forwarded={"level": wrong})
        for one in (caller, *others):
            await one.call("t")
        levels = [asked.params["_meta"].get(PREFIX + "logLevel") for asked in server.of("tools/call")]
    assert levels == ["error", None, None]


@pytest.mark.requirement("for-legacy:envelope")
async def test_messages_and_progress_arrive_on_the_stream_of_their_call(legacy: Caller) -> None:
    await legacy.ask(Verb.SET_LEVEL, forwarded={"level": b'"critical"'})
    logged = await legacy.call("test_logging_tool")
    assert [message["params"]["level"] for message in logged.events] == ["critical", "alert", "emergency"]
    assert (logged.kinds[0], logged.kinds[-1]) == ("opened", "last")
    progressed = await legacy.known(meta=b'{"progressToken":"tok"}').call("test_tool_with_progress")
    assert [(m["params"]["progressToken"], m["params"]["progress"]) for m in progressed.events] == [
        ("tok", 0),
        ("tok", 50),
        ("tok", 100),
    ]


# Results


def serving(verb: Verb, handler: Handler) -> Stateless:
    handlers = {verb.value.replace("/", "_", 1): handler}
    return Stateless(**handlers)


async def result_of(upstream: McpHttpUpstream, result: Any, verb: Verb = Verb.TOOLS_CALL) -> Seen:
    async def given(asked: Asked, peer: Peer) -> bytes:
        return reply(asked, result)

    async with scripted(serving(verb, given)) as server:
        return await client_of(upstream, server.url).ask(verb, name="n")


TEXT = {"type": "text", "text": "four"}


@pytest.mark.requirement("for-legacy:results")
@pytest.mark.parametrize(
    ("given", "read"),
    [
        ({"content": [TEXT], "structuredContent": {"n": 4}}, {"content": [TEXT], "structuredContent": {"n": 4}}),
        ({"content": [TEXT], "structuredContent": [4]}, {"content": [TEXT]}),
        ({"content": [TEXT], "structuredContent": None}, {"content": [TEXT]}),
        ({"content": [], "structuredContent": [4, 5]}, {"content": [{"type": "text", "text": "[4, 5]"}]}),
        ({"content": [TEXT], "isError": True}, {"content": [TEXT], "isError": True}),
        (
            {"content": [], "_meta": {PREFIX + "serverInfo": {"name": "x"}, "own": 1}, "vendor": 1},
            {"content": [], "_meta": {"own": 1}, "vendor": 1},
        ),
        ({"content": [], "_meta": {PREFIX + "serverInfo": {"name": "x"}}}, {"content": []}),
    ],
)
async def test_a_result_loses_what_only_a_modern_client_can_read(
    upstream: McpHttpUpstream, given: dict[str, Any], read: dict[str, Any]
) -> None:
    seen = await result_of(upstream, {"resultType": "complete", **given})
    assert seen.result == read
    assert seen.last.failed is given.get("isError", False)


@pytest.mark.requirement("for-legacy:results")
async def test_a_list_loses_what_is_about_caches(upstream: McpHttpUpstream) -> None:
    listed = {"prompts": [{"name": "p"}], "nextCursor": ""}
    modern = {"resultType": "complete", "ttlMs": 5, "cacheScope": "public"}
    seen = await result_of(upstream, {**modern, **listed}, Verb.PROMPTS_LIST)
    assert seen.result == listed


@pytest.mark.requirement("for-legacy:results")
@pytest.mark.parametrize(
    ("verb", "code", "read"),
    [
        (Verb.RESOURCES_READ, -32602, -32002),
        (Verb.TOOLS_CALL, -32602, -32602),
        (Verb.TOOLS_CALL, -32020, -32603),
        (Verb.TOOLS_CALL, -32021, -32603),
        (Verb.PROMPTS_GET, -32099, -32603),
        (Verb.COMPLETE, -32601, -32601),
        (Verb.COMPLETE, 7, 7),
    ],
)
async def test_an_error_has_a_code_of_the_clients_era(
    upstream: McpHttpUpstream, verb: Verb, code: int, read: int
) -> None:
    async def refused(asked: Asked, peer: Peer) -> bytes:
        error = {"code": code, "message": "no", "data": {"uri": "x"}}
        body = json.dumps({"jsonrpc": "2.0", "id": asked.id, "error": error}).encode()
        return b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
            len(body),
            body,
        )

    async with scripted(serving(verb, refused)) as server:
        seen = await client_of(upstream, server.url).ask(verb, name="n")
    assert (seen.kinds, seen.last.error_code) == (["whole"], read)
    assert json.loads(seen.last.body) == {"code": read, "message": "no", "data": {"uri": "x"}}


@pytest.mark.requirement("for-legacy:results")
async def test_headers_that_the_server_does_not_expect_make_its_tools_be_compared(
    upstream: McpHttpUpstream, changed: list[tuple[str, str]]
) -> None:
    async def mismatch(asked: Asked, peer: Peer) -> bytes:
        return refusal(-32020, id=asked.id)

    async with scripted(Stateless(tools_call=mismatch)) as server:
        await client_of(upstream, server.url).call("t")
        assert len(server.of("tools/call")) == 1
    assert changed == [("srv", "tools")]


@pytest.mark.requirement("for-legacy:results")
@pytest.mark.parametrize(
    ("schema", "is_legal"),
    [({"type": "object"}, True), ({"type": "array"}, False), ({"anyOf": [{"type": "object"}]}, False), (True, False)],
)
def test_a_tool_promises_a_handshake_era_client_no_output_but_an_object(schema: Any, is_legal: bool) -> None:
    tool = {"name": "t", "inputSchema": {"type": "object"}, "outputSchema": schema, "vendor": {"outputSchema": 1}}
    definition = json.dumps(tool).encode()
    read = legacy_tool(definition)
    if is_legal:
        assert read is definition
    else:
        del tool["outputSchema"]
        assert json.loads(read) == tool


# What a session began with


@pytest.mark.requirement("for-legacy:sessions")
async def test_a_session_goes_on_as_it_began_when_its_server_learns_the_other_era(
    upstream: McpHttpUpstream, clock: HandClock
) -> None:
    upgraded = False
    modern, handshaking = Stateless(), Handshaking()

    async def either(asked: Asked, peer: Peer) -> bytes | None:
        is_modern = asked.headers.get("mcp-protocol-version") == "2026-07-28"
        return await (modern if is_modern or not upgraded else handshaking)(asked, peer)

    async with scripted(either) as server:
        caller = client_of(upstream, server.url)
        assert (await caller.ask(Verb.INITIALIZE)).last.facts["era"] == "modern"
        upgraded = True
        clock.now += 61
        assert (await caller.call("t")).last.facts["era"] == "modern"
        assert (await dataclasses.replace(caller, session="s-2").call("t")).last.facts["era"] == "legacy"


@pytest.mark.requirement("for-legacy:sessions")
async def test_a_session_finds_a_server_that_has_gone_back_an_era(upstream: McpHttpUpstream) -> None:
    went_back = False
    modern, handshaking = Stateless(), Handshaking()

    async def either(asked: Asked, peer: Peer) -> bytes | None:
        if went_back and asked.headers.get("mcp-protocol-version") == "2026-07-28":
            return refusal(-32600, "Bad Request: Missing session ID")
        return await (handshaking if went_back else modern)(asked, peer)

    async with scripted(either) as server:
        caller = client_of(upstream, server.url)
        assert (await caller.call("t")).last.facts["era"] == "modern"
        went_back = True
        seen = await caller.call("t")
        assert (seen.text, seen.last.facts["era"]) == ("t", "legacy")


@pytest.mark.requirement("for-legacy:sessions")
async def test_what_is_held_for_sessions_is_bounded_and_goes_with_them(clock: HandClock) -> None:
    limits = LIMITS.model_copy(update={"sessions": 2})
    http = HttpClient(limits, lambda address: True)
    upstream = mcp_http(http, clock, limits)

    async def levels(caller: Caller, *sessions: str) -> list[str | None]:
        before = len(server.asked)
        for session in sessions:
            await dataclasses.replace(caller, session=session).call("t")
        calls = [asked for asked in server.asked[before:] if asked.verb == "tools/call"]
        return [asked.params["_meta"].get(PREFIX + "logLevel") for asked in calls]

    async with scripted(Stateless()) as server:
        caller = client_of(upstream, server.url)
        for session in ("a", "b", "c"):
            await dataclasses.replace(caller, session=session).ask(Verb.SET_LEVEL, forwarded={"level": b'"error"'})
        assert await levels(caller, "b", "c", "a") == ["error", "error", None]
        upstream.end_session("c")
        assert await levels(caller, "c") == [None]
    await http.aclose()


# The gate


@pytest.mark.requirement("for-legacy:gate")
async def test_nothing_is_written_that_the_gate_forbids(upstream: McpHttpUpstream) -> None:
    async with scripted(Stateless()) as server:
        caller = client_of(upstream, server.url)
        await caller.ask(Verb.INITIALIZE)
        before = len(server.asked)
        shut = CountingGate(closed=Killed("stopped"))
        for verb in (Verb.INITIALIZE, Verb.TOOLS_CALL, Verb.STREAM, Verb.RESOURCES_SUBSCRIBE, Verb.SET_LEVEL):
            with pytest.raises(Killed):
                await caller.ask(verb, shut, name="n", forwarded={"level": b'"info"'})
        assert len(server.asked) == before


@pytest.mark.requirement("for-legacy:gate")
async def test_a_retry_passes_the_gate_of_its_call(upstream: McpHttpUpstream) -> None:
    async def again(asked: Asked, peer: Peer) -> bytes:
        return reply(asked, complete("done") if "requestState" in asked.params else wanting(state="s"))

    async with scripted(Stateless(tools_call=again)) as server:
        caller = client_of(upstream, server.url)
        await caller.ask(Verb.INITIALIZE)
        gate = CountingGate()
        assert (await caller.call("t", gate=gate)).text == "done"
        assert gate.passed == 2
        with pytest.raises(Killed):
            await caller.call("t", gate=CountingGate(closed=Killed("stopped"), closed_from=1))
        assert len(server.of("tools/call")) == 3
