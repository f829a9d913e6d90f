"""What stands in front of every route, on the real HTTP server and over raw sockets."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio
import pytest
import uvicorn
from uvicorn.server import ServerState

from mcpgw.config import LimitsSection, ServerSection
from mcpgw.edge.asgi import HEADERS, RELAYED, Receive, Scope, Send, respond
from mcpgw.edge.guard import Guard
from mcpgw.edge.http import Deadlines, StrictHttp

PORT = b"PORT"
"""Stands for the server's port in requests."""
HOST = b"Host: 127.0.0.1:PORT"


@dataclass
class Door:
    """A guarded application that answers 200; `inside` are the header mappings of the requests that reached it."""

    port: int
    inside: list[Mapping[str, str]] = field(default_factory=list)

    async def raw(self, request: bytes) -> list[tuple[int, Any]]:
        """Send these bytes; return status and body of every answer until the server closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            with anyio.fail_after(10):
                writer.write(request.replace(PORT, b"%d" % self.port))
                await writer.drain()
                return [answer async for answer in answers(reader)]
        finally:
            writer.close()

    async def get(self, *headers: bytes, line: bytes = b"GET /mcp HTTP/1.1") -> tuple[int, Any]:
        """Send one request with these header lines; return status and body of its answer."""
        [answer] = await self.raw(b"\r\n".join([line, *headers, b"Connection: close", b"", b""]))
        return answer


async def answers(reader: asyncio.StreamReader) -> AsyncIterator[tuple[int, Any]]:
    while True:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        lines = head.decode("latin-1").lower().split("\r\n")
        length = next(int(line.split(":")[1]) for line in lines if line.startswith("content-length:"))
        body = await reader.readexactly(length)
        yield int(lines[0].split()[1]), json.loads(body) if body.startswith(b"{") else body


@asynccontextmanager
async def door(*, relayed: bool = False, limits: LimitsSection | None = None, **server: Any) -> AsyncIterator[Door]:
    listener = socket.create_server(("127.0.0.1", 0))
    found = Door(listener.getsockname()[1])

    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        found.inside.append(scope[HEADERS])
        await respond(send, 200, b"{}")

    guard = Guard(lambda path: inner, ServerSection(**({"port": found.port} | server)), limits or LimitsSection())

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if relayed:
            scope[RELAYED] = True
        await guard(scope, receive, send)

    config = uvicorn.Config(application, ws="none", lifespan="off", access_log=False, log_config=None)
    config.load()
    state = ServerState()
    deadlines = Deadlines(limits or LimitsSection())
    protocol = partial(StrictHttp, deadlines, config=config, server_state=state, app_state={})
    listening = await asyncio.get_running_loop().create_server(protocol, sock=listener)
    try:
        yield found
    finally:
        listening.close()
        for connection in list(state.connections):
            connection.transport.abort()
        await asyncio.gather(*state.tasks, return_exceptions=True)


# Well-formed requests


@pytest.mark.requirement("guard:headers")
async def test_a_request_reaches_the_inside_with_its_headers_by_lower_case_name() -> None:
    async with door() as there:
        status, _ = await there.get(HOST, b"MCP-Method: tools/list", b"X-Latin: \xe4")
        assert status == 200
        assert there.inside[0]["mcp-method"] == "tools/list"
        assert there.inside[0]["x-latin"] == "ä"


@pytest.mark.requirement("guard:headers")
@pytest.mark.parametrize("value", [b"tools/list", b"tools/list \t ", b"  tools/list", b"\ttools/list\t"])
async def test_white_space_around_a_value_is_not_part_of_it(value: bytes) -> None:
    async with door() as there:
        assert (await there.get(HOST + b"  ", b"Mcp-Method:" + value))[0] == 200
        assert there.inside[0]["mcp-method"] == "tools/list"


@pytest.mark.requirement("guard:headers")
async def test_lines_of_one_list_are_read_as_one_list() -> None:
    """RFC 9110 §5.3: a recipient may combine them, in order; taking the last alone would lose what was said."""
    async with door() as there:
        assert (await there.get(HOST, b"Accept: application/json", b"Accept: text/event-stream"))[0] == 200
        assert there.inside[0]["accept"] == "application/json, text/event-stream"


# Host


@pytest.mark.requirement("guard:host")
@pytest.mark.parametrize("host", [b"127.0.0.1:PORT", b"localhost:PORT", b"[::1]:PORT", b"LocalHost:PORT"])
async def test_every_name_of_loopback_is_served_while_we_listen_there(host: bytes) -> None:
    async with door() as there:
        assert (await there.get(b"Host: " + host))[0] == 200


@pytest.mark.requirement("guard:host")
@pytest.mark.parametrize(
    "host",
    [
        b"evil.example",
        b"evil.example:PORT",
        b"localhost",
        b"127.0.0.1",
        b"127.0.0.1:1",
        b"127.0.0.1:PORT.evil.example",
        b"",
        b"localhost:PORT,evil.example",
        b"user@localhost:PORT",
        b"127.1:PORT",
        b"gateway.example:444",
    ],
)
async def test_a_name_that_is_not_ours_is_refused_against_rebinding(host: bytes) -> None:
    async with door(allowed_hosts=["gateway.example"]) as there:
        status, body = await there.get(b"Host: " + host)
        assert status == 421
        assert "allowed_hosts" in body["error"]["message"]
        assert there.inside == []


@pytest.mark.requirement("guard:host")
async def test_the_public_name_and_what_the_operator_allows_are_served() -> None:
    async with door(public_url="https://Gateway.example/base", allowed_hosts=["Alias.example:8443"]) as there:
        assert (await there.get(b"Host: gateway.example"))[0] == 200
        assert (await there.get(b"Host: alias.example:8443"))[0] == 200


@pytest.mark.requirement("guard:host")
@pytest.mark.parametrize(
    ("bound", "host"),
    [
        ("2001:db8::1", b"[2001:db8::1]:PORT"),
        ("Gateway.Example", b"gateway.example:PORT"),
        ("192.0.2.1", b"192.0.2.1:PORT"),
    ],
)
async def test_off_loopback_the_address_that_we_bind_is_served_and_loopback_is_not(bound: str, host: bytes) -> None:
    async with door(host=bound) as there:
        assert (await there.get(b"Host: " + host))[0] == 200
        assert (await there.get(HOST))[0] == 421


@pytest.mark.requirement("guard:host")
@pytest.mark.parametrize(
    "hosts", [[], [HOST, HOST], [HOST, b"Host: evil.example"], [b"host: 127.0.0.1:PORT", b"HOST: evil.example"]]
)
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_no_host_and_two_hosts_are_refused(hosts: list[bytes], version: bytes) -> None:
    async with door() as there:
        status, _ = await there.get(*hosts, line=b"GET /mcp HTTP/" + version)
        assert status == 400
        assert there.inside == []


@pytest.mark.requirement("guard:host")
async def test_another_worker_relays_whatever_host_it_has_checked() -> None:
    async with door(relayed=True) as there:
        assert (await there.get(b"Host: gateway.example"))[0] == 200
        assert (await there.get(b"Host: a", b"Host: b"))[0] == 400


@pytest.mark.requirement("guard:target")
@pytest.mark.parametrize(
    "line",
    [
        b"GET http://127.0.0.1:PORT/mcp HTTP/1.1",
        b"GET http://evil.example/mcp HTTP/1.1",
        b"GET https://127.0.0.1:PORT/mcp HTTP/1.1",
        b"OPTIONS * HTTP/1.1",
        b"CONNECT 127.0.0.1:PORT HTTP/1.1",
        b"GET mcp HTTP/1.1",
        b"GET  HTTP/1.1",
        b"GET /mcp\x00 HTTP/1.1",
        b"GET /m\xc3\xa4p HTTP/1.1",
    ],
)
async def test_a_target_that_is_not_a_plain_path_is_refused(line: bytes) -> None:
    async with door() as there:
        [(status, _)] = await there.raw(b"\r\n".join([line, HOST, b"Connection: close", b"", b""]))
        assert status == 400
        assert there.inside == []


# Origin


@pytest.mark.requirement("guard:origin")
@pytest.mark.parametrize(
    "origin",
    [
        b"https://evil.example",
        b"null",
        b"",
        b"http://localhost",
        b"http://127.0.0.1:1",
        b"http://127.0.0.1:PORT.evil",
        b"file://",
        b"http://127.0.0.1:PORT/",
        b"https://app.example.evil",
        b"http://app.example",
    ],
)
async def test_a_foreign_origin_is_refused(origin: bytes) -> None:
    async with door(allowed_origins=["https://app.example"]) as there:
        status, body = await there.get(HOST, b"Origin: " + origin)
        assert status == 403
        assert body["jsonrpc"] == "2.0"
        assert there.inside == []


@pytest.mark.requirement("guard:origin")
@pytest.mark.parametrize(
    "origin", [b"http://127.0.0.1:PORT", b"http://localhost:PORT", b"https://App.example", b"http://[::1]:PORT"]
)
async def test_our_own_pages_and_allowed_ones_may_call(origin: bytes) -> None:
    async with door(allowed_origins=["https://app.example"]) as there:
        assert (await there.get(HOST, b"Origin: " + origin))[0] == 200


# Sizes


@pytest.mark.requirement("guard:limits")
async def test_a_header_of_100_kilobytes_is_refused() -> None:
    async with door() as there:
        status, body = await there.get(HOST, b"X-Long: " + b"x" * 100_000)
        assert status == 413
        assert "x-long" in body["error"]["message"]
        assert there.inside == []


@pytest.mark.requirement("guard:limits")
async def test_a_name_of_100_kilobytes_is_refused_and_not_repeated() -> None:
    async with door() as there:
        status, body = await there.get(HOST, b"x" * 100_000 + b": 1")
        assert status == 413
        assert len(body["error"]["message"]) < 200


@pytest.mark.requirement("guard:limits")
async def test_2000_headers_are_refused() -> None:
    async with door() as there:
        status, _ = await there.get(HOST, *(b"X-%d: 1" % n for n in range(2000)))
        assert status == 413
        assert there.inside == []


@pytest.mark.requirement("guard:limits")
@pytest.mark.parametrize("endless", [b"x" * 65_536, b"X: 1\r\n" * 10_000])
async def test_headers_without_end_are_cut_off_before_they_are_complete(endless: bytes) -> None:
    async with door() as there:
        reader, writer = await asyncio.open_connection("127.0.0.1", there.port)
        writer.write(b"GET /mcp HTTP/1.1\r\nX: ")
        sent = 0
        with anyio.fail_after(10), suppress(ConnectionError):
            while not reader.at_eof() and sent < 50_000_000:
                writer.write(endless)
                await writer.drain()
                sent += len(endless)
                await asyncio.sleep(0)
        writer.close()
        assert sent < 10_000_000
        assert there.inside == []


@pytest.mark.requirement("guard:limits")
async def test_a_large_body_does_not_count_as_head() -> None:
    async with door() as there:
        head = POST + b"Connection: close\r\nContent-Length: 900000\r\n\r\n"
        assert [status for status, _ in await there.raw(head + b"x" * 900_000)] == [200]


@pytest.mark.requirement("guard:limits")
@pytest.mark.parametrize(("lines", "expected"), [(62, 200), (63, 413)])
async def test_64_headers_are_served_and_65_refused(lines: int, expected: int) -> None:
    """`Host` and `Connection` count too."""
    async with door() as there:
        assert (await there.get(HOST, *(b"X-%d: 1" % n for n in range(lines))))[0] == expected
        assert (await there.get(HOST, *[b"X-Same: 1"] * lines))[0] == expected


@pytest.mark.requirement("guard:limits")
@pytest.mark.parametrize(("size", "expected"), [(4000, 200), (5000, 413)])
async def test_all_headers_together_are_bounded(size: int, expected: int) -> None:
    async with door() as there:
        assert (await there.get(HOST, *(b"X-%d: %b" % (n, b"x" * size) for n in range(7))))[0] == expected


@pytest.mark.requirement("guard:limits")
async def test_the_operators_bound_is_the_one_that_counts() -> None:
    async with door(limits=LimitsSection(header_bytes=1024)) as there:
        assert (await there.get(HOST, b"X: " + b"x" * 1024))[0] == 413


# Said once


@pytest.mark.requirement("guard:once")
@pytest.mark.parametrize(
    "name",
    [
        b"Authorization",
        b"Content-Type",
        b"Origin",
        b"MCP-Protocol-Version",
        b"Mcp-Method",
        b"Mcp-Name",
        b"Mcp-Session-Id",
        b"Last-Event-ID",
        b"Mcp-Param-Region",
        b"mcp-param-x",
    ],
)
@pytest.mark.parametrize("second", [b"a", b"b", b""])
async def test_a_header_that_decides_is_said_once(name: bytes, second: bytes) -> None:
    async with door() as there:
        status, body = await there.get(HOST, name + b": a", name.upper() + b": " + second)
        assert status == 400
        assert name.decode().lower() in body["error"]["message"]
        assert there.inside == []


@pytest.mark.requirement("guard:once")
async def test_different_parameters_are_different_headers() -> None:
    async with door() as there:
        assert (await there.get(HOST, b"Mcp-Param-A: 1", b"Mcp-Param-B: 1"))[0] == 200


# Framing: one request is one request for everybody


POST = b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n"
HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n\r\n"
SMUGGLED = {
    "length and chunks": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "chunks and length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + HIDDEN,
    "two lengths": POST + b"Content-Length: 0\r\nContent-Length: 5\r\n\r\n" + HIDDEN,
    "a list of lengths": POST + b"Content-Length: 0, 5\r\n\r\n" + HIDDEN,
    "a signed length": POST + b"Content-Length: +0\r\n\r\n" + HIDDEN,
    "a length in hex": POST + b"Content-Length: 0x0\r\n\r\n" + HIDDEN,
    "chunks that are not last": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + HIDDEN,
    "an unknown coding": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "a space before the colon": POST + b"Content-Length : 0\r\n\r\n" + HIDDEN,
    "a folded line": POST + b"X: a\r\n Content-Length: 5\r\n\r\n" + HIDDEN,
    "a bare line feed": POST + b"X: a\nContent-Length: 0\r\n\r\n" + HIDDEN,
    "a bare carriage return": POST + b"X: a\rContent-Length: 5\r\n\r\n" + HIDDEN,
    "a null": POST + b"X: a\x00b\r\n\r\n" + HIDDEN,
    "a name with a space": POST + b"X Y: a\r\n\r\n" + HIDDEN,
    "an unknown version": b"GET /mcp HTTP/3.7\r\nHost: 127.0.0.1:PORT\r\n\r\n" + HIDDEN,
}


@pytest.mark.requirement("guard:framing")
@pytest.mark.parametrize("how", SMUGGLED)
async def test_a_request_whose_end_can_be_read_in_two_ways_is_refused(how: str) -> None:
    async with door() as there:
        [(status, _)] = await there.raw(SMUGGLED[how])
        assert status == 400
        assert there.inside == []


@pytest.mark.requirement("guard:framing")
@pytest.mark.parametrize(
    "encodings",
    [[b"gzip"], [b"br"], [b"deflate"], [b"identity", b"gzip"], [b"gzip", b"identity"], [b"gzip, identity"]],
)
async def test_a_compressed_body_is_refused(encodings: list[bytes]) -> None:
    async with door() as there:
        status, _ = await there.get(HOST, *(b"Content-Encoding: " + encoding for encoding in encodings))
        assert status == 415
        assert there.inside == []


@pytest.mark.requirement("guard:framing")
async def test_requests_of_one_connection_are_judged_each_by_itself() -> None:
    good = b"GET /mcp HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n\r\n"
    last = good.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    bad = b"GET /mcp HTTP/1.1\r\nHost: evil.example\r\n\r\n"
    async with door() as there:
        assert [status for status, _ in await there.raw(good + bad + last)] == [200, 421, 200]
        assert len(there.inside) == 2
