"""Servers that answer rubbish: each costs its own call, and says what was wrong."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from typing import Any

import anyio
import pytest

from mcpgw.domain import SYSTEM, ClientFacts, Era, Verb
from mcpgw.errors import UpstreamFailed, UpstreamTimeout
from mcpgw.upstream.http import HttpClient
from mcpgw.upstream.mcp_http import McpHttpUpstream
from tests.fixtures.raw_http import Peer, answer
from tests.upstream.calls import LEGACY, LIMITS, MODERN, Caller, HandClock, mcp_http, version
from tests.upstream.scripted import (
    ACCEPTED,
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

JSON_TYPE = b"content-type: application/json"
EVENTS = b"content-type: text/event-stream"


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return "asyncio", {"use_uvloop": request.param}


def ok(asked: Asked) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": asked.id, "result": plain("fine")}).encode()


RUBBISH = {
    "not_json": lambda a: answer(b"<html>hello</html>", b"content-type: text/html"),
    "not_jsonrpc": lambda a: answer(b"<html>hello</html>", JSON_TYPE),
    "not_jsonrpc:batch": lambda a: answer(b"[" + ok(a) + b"]", JSON_TYPE),
    "not_jsonrpc:version": lambda a: answer(ok(a).replace(b"2.0", b"1.0"), JSON_TYPE),
    "not_jsonrpc:utf8": lambda a: answer(ok(a).replace(b"fine", b"\xff\xfe"), JSON_TYPE),
    "not_jsonrpc:cut": lambda a: answer(ok(a)[:-1], JSON_TYPE),
    "not_jsonrpc:deep": lambda a: answer(b'{"jsonrpc":"2.0","id":1,"result":' + b"[" * 100_000, JSON_TYPE),
    "empty": lambda a: answer(b"", JSON_TYPE),
    "empty:blank": lambda a: answer(b" \n", JSON_TYPE),
    "not_json:none": lambda a: answer(b"", status=b"204 No Content"),
    "not_json:accepted": lambda a: ACCEPTED,
    "foreign_id": lambda a: answer(ok(a).replace(b'"id": %d' % a.id, b'"id": %d' % (a.id + 1)), JSON_TYPE),
    "foreign_id:text": lambda a: answer(ok(a).replace(b'"id": %d' % a.id, b'"id": "%d"' % a.id), JSON_TYPE),
    "foreign_id:null": lambda a: answer(ok(a).replace(b'"id": %d' % a.id, b'"id": null'), JSON_TYPE),
    "no_outcome": lambda a: reply_members(a, data=1),
    "no_outcome:both": lambda a: reply_members(a, result={}, error={"code": 1, "message": "x"}),
    "malformed": lambda a: reply_members(a, result=[]),
    "malformed:failed": lambda a: reply_members(a, result={"isError": "yes"}),
    "malformed:error": lambda a: reply_members(a, error="no"),
    "malformed:code": lambda a: reply_members(a, error={"code": "1", "message": "x"}),
    "redirect": lambda a: answer(b"", b"location: http://127.0.0.1:1/", status=b"302 Found"),
    "http_5xx": lambda a: answer(b"oops", b"content-type: text/plain", status=b"500 Internal Server Error"),
    "http_5xx:json": lambda a: answer(ok(a), JSON_TYPE, status=b"503 Service Unavailable"),
    "credential": lambda a: answer(b"", status=b"401 Unauthorized"),
    "cut": lambda a: STREAM + event(said("notifications/progress", progressToken=1, progress=1)) + END,
    "not_jsonrpc:event": lambda a: STREAM + event("nonsense") + END,
    "foreign_id:event": lambda a: STREAM + event({"jsonrpc": "2.0", "id": 10**9, "result": {}}) + END,
}


def reply_members(asked: Asked, **members: Any) -> bytes:
    return answer(json.dumps({"jsonrpc": "2.0", "id": asked.id, **members}).encode(), JSON_TYPE)


@pytest.mark.requirement("upstream:rubbish")
@pytest.mark.parametrize("case", RUBBISH)
@pytest.mark.parametrize("client", [MODERN, LEGACY], ids=["modern", "legacy"])
async def test_rubbish_fails_its_own_call_with_its_cause(
    upstream: McpHttpUpstream, client: ClientFacts, case: str
) -> None:
    async def call(asked: Asked, peer: Peer) -> bytes:
        return reply(asked, plain("fine")) if asked.params["name"] == "good" else RUBBISH[case](asked)

    async with scripted(Handshaking(tools_call=call)) as server:
        caller = Caller(upstream, version(server.url, era=Era.DUAL), client=client, session="s")
        assert (await caller.call("good")).text == "fine"
        with anyio.fail_after(5), pytest.raises(UpstreamFailed, match="`srv`") as failed:
            await caller.call("bad")
        assert failed.value.data["cause"] == case.partition(":")[0]
        assert "fine" not in str(failed.value)
        assert (await caller.call("good")).text == "fine"
        assert len(server.of("tools/call")) == 3  # an unsafe call is never repeated


@pytest.mark.requirement("upstream:rubbish")
@pytest.mark.parametrize("client", [MODERN, LEGACY], ids=["modern", "legacy"])
async def test_an_answer_to_another_call_on_the_same_stream_is_nobodys(
    upstream: McpHttpUpstream, client: ClientFacts
) -> None:
    both = asyncio.Event()
    ids: list[int] = []

    async def call(asked: Asked, peer: Peer) -> bytes:
        ids.append(asked.id)
        if len(ids) == 2:
            both.set()
        await both.wait()
        other = next(i for i in ids if i != asked.id)
        return reply(
            dataclasses.replace(asked, body=asked.body.replace(b":%d," % asked.id, b":%d," % other)), plain("x")
        )

    async with scripted(Handshaking(tools_call=call)) as server:
        caller = Caller(upstream, version(server.url, era=Era.DUAL), client=client, session="s")
        failed = await asyncio.gather(caller.call("a"), caller.call("b"), return_exceptions=True)
    assert [type(f) for f in failed] == [UpstreamFailed, UpstreamFailed]
    assert {f.data["cause"] for f in failed if isinstance(f, UpstreamFailed)} == {"foreign_id"}


@pytest.mark.requirement("upstream:judged-bytes")
@pytest.mark.parametrize("client", [MODERN, LEGACY], ids=["modern", "legacy"])
async def test_arguments_and_results_are_passed_as_the_very_bytes(
    upstream: McpHttpUpstream, client: ClientFacts
) -> None:
    arguments = b'{ "b" : 1.50,"a":123456789012345678901234567890, "u":"\\u00e9" }'
    result = b'{ "content" : [ ], "vendor":1.0E2 ,"n":null }'

    async def call(asked: Asked, peer: Peer) -> bytes:
        return answer(b'{"result": %b ,"id":%d,"jsonrpc":"2.0"}' % (result, asked.id), JSON_TYPE)

    async with scripted(Handshaking(tools_call=call)) as server:
        caller = Caller(upstream, version(server.url, era=Era.DUAL), client=client, session="s")
        seen = await caller.call("t", arguments)
        assert seen.last.body == result
        sent = server.of("tools/call")[0]
        assert b'"arguments":' + arguments in sent.body
        assert sent.params["name"] == "t"


@pytest.mark.requirement("upstream:envelope")
async def test_a_modern_request_says_in_its_headers_what_its_body_says(upstream: McpHttpUpstream) -> None:
    async def call(asked: Asked, peer: Peer) -> bytes:
        return reply(asked, plain("fine"))

    async with scripted(call) as server:
        caller = Caller(upstream, version(server.url, era=Era.MODERN), credential={"authorization": "Bearer ours"})
        told = caller.known(
            capabilities=b'{"sampling":{}}',
            meta=b'{"progressToken":7,"traceparent":"00-1","com.example/x":{"y":[1]}}',
            log_level="debug",
            headers={"mcp-param-region": "eu"},
        )
        await told.call("größe ", b'{"a":1}', forwarded={"requestState": b'"st"', "#id": b"9"})
        await told.ask(Verb.RESOURCES_READ, name="test://x")
        await told.ask(Verb.TOOLS_LIST, forwarded={"cursor": b'""'})
    called, read, listed = server.asked
    assert called.headers["mcp-protocol-version"] == "2026-07-28"
    assert called.headers["mcp-method"] == "tools/call"
    assert called.headers["mcp-name"] == "=?base64?Z3LDtsOfZSA=?="
    assert called.headers["mcp-param-region"] == "eu"
    assert called.headers["authorization"] == "Bearer ours"
    assert called.headers["accept"] == "application/json, text/event-stream"
    assert called.params == {
        "name": "größe ",
        "arguments": {"a": 1},
        "requestState": "st",
        "_meta": {
            "progressToken": 7,
            "traceparent": "00-1",
            "com.example/x": {"y": [1]},
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {"sampling": {}},
            "io.modelcontextprotocol/clientInfo": {"name": "tester", "version": "1"},
            "io.modelcontextprotocol/logLevel": "debug",
        },
    }
    assert (read.headers["mcp-name"], read.params["uri"]) == ("test://x", "test://x")
    assert "mcp-param-region" not in read.headers
    assert listed.params["cursor"] == ""
    assert "mcp-name" not in listed.headers
    assert len({a.id for a in server.asked}) == 3


@pytest.mark.requirement("upstream:era-detection")
async def test_calls_at_once_ask_a_server_for_its_era_once(upstream: McpHttpUpstream) -> None:
    asked_for_era = asyncio.Event()

    async def discover(asked: Asked, peer: Peer) -> bytes:
        await asked_for_era.wait()
        return reply(asked, {"supportedVersions": ["2026-07-28"], "capabilities": {}})

    async with scripted(Handshaking(server_discover=discover)) as server:
        caller = Caller(upstream, version(server.url))
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(caller.call, "t")
            await anyio.wait_all_tasks_blocked()
            asked_for_era.set()
        assert len(server.of("server/discover")) == 1
        assert len(server.of("tools/call")) == 5


@pytest.mark.requirement("upstream:era-detection")
async def test_a_probe_that_its_own_caller_gives_up_is_made_by_the_next_in_line(upstream: McpHttpUpstream) -> None:
    probed = asyncio.Event()

    async def discover(asked: Asked, peer: Peer) -> bytes | None:
        if not probed.is_set():
            probed.set()
            await peer.gone()
            return None
        return reply(asked, {"supportedVersions": ["2026-07-28"], "capabilities": {}})

    async with scripted(Handshaking(server_discover=discover)) as server:
        caller = Caller(upstream, version(server.url))
        first = asyncio.create_task(caller.call("a"))
        second = asyncio.create_task(caller.call("b"))
        with anyio.fail_after(5):
            await probed.wait()
            first.cancel()
            assert (await second).text == "b"


@pytest.mark.requirement("upstream:era-detection")
@pytest.mark.parametrize(
    ("verdict", "modern"),
    [
        (lambda a: refusal(-32601, id=a.id, status=b"404 Not Found"), False),
        (lambda a: refusal(-32000, "Bad Request: Server not initialized"), False),
        (lambda a: refusal(-32600, "Bad Request: Missing session ID", id="server-error"), False),
        (lambda a: reply(a, {"supportedVersions": ["2025-11-25"], "capabilities": {}}), False),
        (lambda a: reply_members(a, error={"code": -32601, "message": "x"}), False),
        (lambda a: answer(b"", status=b"405 Method Not Allowed"), False),
        (lambda a: STREAM + event(result_of(a, {"supportedVersions": ["2026-07-28"]})) + END, True),
        (lambda a: refusal(-32020, id=a.id), True),
        (lambda a: refusal(-32021, id=a.id), True),
    ],
)
async def test_only_a_modern_answer_makes_a_server_modern(
    upstream: McpHttpUpstream, verdict: Any, modern: bool
) -> None:
    async def discover(asked: Asked, peer: Peer) -> bytes:
        return bytes(verdict(asked))

    async with scripted(Handshaking(server_discover=discover)) as server:
        caller = Caller(upstream, version(server.url), client=None, who=SYSTEM)
        assert (await caller.ask(Verb.TOOLS_LIST)).last.facts["era"] == ("modern" if modern else "legacy")


@pytest.mark.requirement("upstream:era-detection")
async def test_a_server_that_is_unwell_gives_no_verdict(upstream: McpHttpUpstream) -> None:
    well = False

    async def any_verb(asked: Asked, peer: Peer) -> bytes:
        if not well:
            return answer(b"", status=b"503 Service Unavailable")
        return reply(asked, {"supportedVersions": ["2026-07-28"], **plain("fine")})

    async with scripted(any_verb) as server:
        caller = Caller(upstream, version(server.url))
        with pytest.raises(UpstreamFailed, match="503"):
            await caller.call("t")
        well = True
        assert (await caller.call("t")).text == "fine"


@pytest.mark.requirement("upstream:era-detection")
async def test_what_is_no_mcp_server_is_not_taken_for_a_legacy_one(upstream: McpHttpUpstream) -> None:
    async def page(asked: Asked, peer: Peer) -> bytes:
        return answer(b"<html>", b"content-type: text/html")

    async with scripted(page) as server:
        for client in (MODERN, LEGACY, None):
            caller = Caller(upstream, version(server.url), client=client, who=SYSTEM if client is None else Caller.who)
            with pytest.raises(UpstreamFailed, match="text/html"):
                await caller.ask(Verb.TOOLS_LIST)


@pytest.mark.requirement("upstream:era-detection")
async def test_a_missing_era_is_looked_for_again_after_a_minute(upstream: McpHttpUpstream, clock: HandClock) -> None:
    upgraded = False

    async def discover(asked: Asked, peer: Peer) -> bytes:
        return reply(asked, {"supportedVersions": ["2026-07-28"]}) if upgraded else refusal(-32601, id=asked.id)

    async with scripted(Handshaking(server_discover=discover)) as server:
        caller = Caller(upstream, version(server.url))
        for _ in range(2):
            assert (await caller.call("t")).last.facts["era"] == "legacy"
        assert len(server.of("server/discover")) == 1
        upgraded = True
        clock.now += 61
        assert (await caller.call("t")).last.facts["era"] == "modern"


@pytest.mark.requirement("upstream:limits")
@pytest.mark.parametrize("client", [MODERN, LEGACY], ids=["modern", "legacy"])
async def test_a_stream_without_end_or_sound_is_ended(clock: HandClock, client: ClientFacts) -> None:
    limits = LIMITS.model_copy(update={"stream_s": 0.2, "stream_idle_s": 0.1})
    http = HttpClient(limits, lambda address: True)
    upstream = mcp_http(http, clock, limits)
    gone = asyncio.Event()

    async def call(asked: Asked, peer: Peer) -> None:
        await peer.write(STREAM)
        if asked.params["name"] == "endless":
            with anyio.move_on_after(5):
                while True:
                    await peer.write(event(said("notifications/progress", progressToken=1, progress=1)))
                    await asyncio.sleep(0.02)
        await peer.gone()
        gone.set()

    async with scripted(Handshaking(tools_call=call)) as server:
        caller = Caller(upstream, version(server.url, era=Era.DUAL), client=client, session="s")
        with anyio.fail_after(5), pytest.raises(UpstreamTimeout, match="lasted longer"):
            await caller.call("endless")
        with anyio.fail_after(5), pytest.raises(UpstreamTimeout, match="silent"):
            await caller.call("silent")
        with anyio.fail_after(5):
            await gone.wait()
    await upstream.aclose()
    await http.aclose()


@pytest.mark.requirement("upstream:limits")
@pytest.mark.parametrize("client", [MODERN, LEGACY], ids=["modern", "legacy"])
async def test_an_event_that_is_too_long_fails_its_call(clock: HandClock, client: ClientFacts) -> None:
    limits = LIMITS.model_copy(update={"result_bytes": 100_000})
    http = HttpClient(limits, lambda address: True)
    upstream = mcp_http(http, clock, limits)

    async def call(asked: Asked, peer: Peer) -> bytes:
        return STREAM + event(result_of(asked, plain("x" * 200_000))) + END

    async with scripted(Handshaking(tools_call=call)) as server:
        caller = Caller(upstream, version(server.url, era=Era.DUAL), client=client, session="s")
        with pytest.raises(UpstreamFailed, match="100000 bytes"):
            await caller.call("t")
    await upstream.aclose()
    await http.aclose()


@pytest.mark.requirement("upstream:parts")
async def test_a_comment_shows_that_the_server_lives_and_an_answer_alone_is_whole(upstream: McpHttpUpstream) -> None:
    async def call(asked: Asked, peer: Peer) -> bytes:
        comments = b"8\r\n: ping\n\n\r\n" * 2 if asked.params["name"] == "slow" else b""
        return STREAM + comments + event(result_of(asked, plain("fine"))) + END

    async with scripted(call) as server:
        caller = Caller(upstream, version(server.url, era=Era.MODERN))
        assert (await caller.call("quick")).kinds == ["whole"]
        slow = await caller.call("slow")
        assert (slow.kinds, slow.parts[1].body) == (["opened", "event", "last"], b"")


@pytest.mark.requirement("upstream:server-requests")
async def test_a_modern_server_cannot_ask_anything(upstream: McpHttpUpstream) -> None:
    async def call(asked: Asked, peer: Peer) -> bytes:
        question = {**said("sampling/createMessage"), "id": 1}
        return STREAM + event(question) + event(result_of(asked, plain("fine"))) + END

    async with scripted(call) as server:
        seen = await Caller(upstream, version(server.url, era=Era.MODERN)).call("t")
        assert (seen.kinds, seen.events, len(server.asked)) == (["whole"], [], 1)
