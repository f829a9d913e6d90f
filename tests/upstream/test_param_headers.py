"""The parameter headers that a modern server gets: of the judged arguments, and those that only it may know."""

from __future__ import annotations

import json

import pytest

from mcpgw.domain import Arguments, Era, ToolPin, Verb
from mcpgw.upstream.mcp_http import McpHttpUpstream
from tests.upstream.calls import LEGACY, MODERN, Caller, permit, read, version
from tests.upstream.scripted import scripted
from tests.upstream.stateless import Stateless

SCHEMA = {
    "type": "object",
    "properties": {
        "region": {"type": "string", "x-mcp-header": "Region"},
        "count": {"type": "integer", "x-mcp-header": "Count"},
        "plain": {"type": "string"},
    },
}
PIN = ToolPin("find", "", json.dumps({"name": "find", "inputSchema": SCHEMA}).encode())
ARGUMENTS = b'{"region":"\xc3\xa9","count":42,"plain":"x"}'
OWN = {"mcp-param-region": "=?base64?w6k=?=", "mcp-param-count": "42.0", "mcp-param-tenant": "blue"}


async def sent(upstream: McpHttpUpstream, *, modern: bool = True, judged: bytes | None = None) -> dict[str, str]:
    """Return the parameter headers that the server gets."""
    async with scripted(Stateless()) as server:
        target = version(server.url, era=Era.MODERN)
        client = (
            Caller(upstream, target, client=MODERN if modern else LEGACY).known(headers=OWN if modern else {}).client
        )
        right = permit(
            target,
            Verb.TOOLS_CALL,
            name="find",
            client=client,
            session=None if modern else "s",
            arguments=Arguments(ARGUMENTS),
            judged=judged,
            tool=PIN,
        )
        await read(await upstream.send(right, {}, lambda: None))
    (call,) = server.of("tools/call")
    return {name: value for name, value in call.headers.items() if name.startswith("mcp-param-")}


@pytest.mark.requirement("params:anew")
@pytest.mark.requirement("params:unknown")
async def test_a_server_gets_headers_of_its_own_and_what_nobody_knows_as_it_came(upstream: McpHttpUpstream) -> None:
    assert await sent(upstream) == {
        "mcp-param-region": "=?base64?w6k=?=",
        "mcp-param-count": "42",
        "mcp-param-tenant": "blue",
    }


@pytest.mark.requirement("params:anew")
async def test_after_a_redaction_none_of_the_clients_own_headers_is_left(upstream: McpHttpUpstream) -> None:
    judged = b'{"region":"[redacted]","count":42,"plain":"x"}'
    assert await sent(upstream, judged=judged) == {"mcp-param-region": "[redacted]", "mcp-param-count": "42"}


@pytest.mark.requirement("params:anew")
async def test_for_a_client_of_the_handshake_era_they_are_made(upstream: McpHttpUpstream) -> None:
    assert await sent(upstream, modern=False) == {"mcp-param-region": "=?base64?w6k=?=", "mcp-param-count": "42"}
