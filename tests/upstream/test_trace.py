"""Trace context (SEP-414): what a client says of it in `_meta` reaches the server untouched, on every path."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from mcpgw.clock import SystemClock
from mcpgw.config import StdioServer
from mcpgw.domain import ClientFacts, Era, Transport, Verb
from mcpgw.upstream.mcp_http import McpHttpUpstream
from mcpgw.upstream.stdio import StdioServers
from tests.upstream.calls import LEGACY, LIMITS, MODERN, Caller, version
from tests.upstream.scripted import Handshaking, scripted
from tests.upstream.stateless import Stateless

LINES = Path(__file__).with_name("line_server.py")
TRACE = {
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "tracestate": "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE",
    "baggage": "userId=alice,isProduction=false",
}
CALLS: list[tuple[Verb, dict[str, Any]]] = [
    (Verb.TOOLS_CALL, {"name": "t"}),
    (Verb.PROMPTS_GET, {"name": "p"}),
    (Verb.RESOURCES_READ, {"name": "test://x"}),
    (
        Verb.COMPLETE,
        {"forwarded": {"ref": b'{"type":"ref/prompt","name":"p"}', "argument": b'{"name":"a","value":"v"}'}},
    ),
    (Verb.PROMPTS_LIST, {}),
]


def tracing(client: ClientFacts) -> ClientFacts:
    return dataclasses.replace(client, meta=json.dumps(TRACE).encode())


def traced(params: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in params["_meta"].items() if name in TRACE}


@pytest.mark.requirement("several:trace")
@pytest.mark.parametrize("client", [MODERN, LEGACY], ids=["modern-client", "legacy-client"])
@pytest.mark.parametrize("era", [Era.MODERN, Era.LEGACY], ids=["modern-server", "legacy-server"])
@pytest.mark.parametrize(("verb", "facts"), CALLS, ids=[verb.value for verb, _ in CALLS])
async def test_over_http(
    upstream: McpHttpUpstream, client: ClientFacts, era: Era, verb: Verb, facts: dict[str, Any]
) -> None:
    async with scripted(Stateless() if era is Era.MODERN else Handshaking()) as server:
        session = None if client.modern else "s-1"
        caller = Caller(upstream, version(server.url, era=era), client=tracing(client), session=session)
        await caller.ask(verb, **facts)
        (asked,) = server.of(verb.value)
    assert traced(asked.params) == TRACE


@pytest.mark.requirement("several:trace")
@pytest.mark.parametrize("client", [MODERN, LEGACY], ids=["modern-client", "legacy-client"])
@pytest.mark.parametrize("era", ["modern", "legacy"])
async def test_to_a_process(client: ClientFacts, era: str) -> None:
    entry = StdioServer(name="lines", command=(sys.executable, "-IS", str(LINES), era))
    servers = StdioServers([entry], LIMITS, SystemClock(), lambda name, kind: None)
    caller = Caller(servers, version("lines", transport=Transport.STDIO), client=tracing(client), session="s-1")
    try:
        await caller.ask(Verb.RESOURCES_READ, name="test://x")
        told = json.loads((await caller.call("requests")).text)
    finally:
        await servers.aclose()
    sent = [request["params"] for request in told if request["method"] in {"resources/read", "tools/call"}]
    assert [traced(params) for params in sent] == [TRACE, TRACE]
