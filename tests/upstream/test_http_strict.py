"""The pooled client against servers that misbehave, and against callers that do."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator
from typing import Any

import pytest

from mcpgw.config import LimitsSection
from mcpgw.errors import GatewayError, InvalidRequest, UpstreamFailed, UsageError
from mcpgw.upstream.http import HttpClient, Url
from tests.fixtures.raw_http import Peer, always, answer, once, serve

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture
async def client() -> AsyncIterator[HttpClient]:
    made = HttpClient(LimitsSection(result_bytes=100_000, first_byte_s=5.0), lambda address: True)
    yield made
    await made.aclose()


async def fetch(client: HttpClient, url: str, headers: list[tuple[bytes, bytes]] | None = None) -> bytes:
    response = await client.request(b"POST", Url.parse(url), headers or [], b"{}", lambda: None)
    return await response.body()


BROKEN = {
    "two-lengths": OK + b"content-length: 2\r\ncontent-length: 2\r\n\r\nhi",
    "length-list": OK + b"content-length: 2, 2\r\n\r\nhi",
    "length-signed": OK + b"content-length: +2\r\n\r\nhi",
    "length-hex": OK + b"content-length: 0x2\r\n\r\nhi",
    "length-empty": OK + b"content-length:\r\n\r\nhi",
    "length-overflow": OK + b"content-length: 99999999999999999999999\r\n\r\nhi",
    "length-then-coding": OK + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    "coding-then-length": OK + b"transfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    "coding-gzip": OK + b"transfer-encoding: gzip, chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    "coding-identity": OK + b"transfer-encoding: identity\r\n\r\nhi",
    "two-codings": OK + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    "coding-in-1.0": b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    "chunk-size-prefix": CHUNKED + b"0x2\r\nhi\r\n0\r\n\r\n",
    "chunk-size-negative": CHUNKED + b"-2\r\nhi\r\n0\r\n\r\n",
    "chunk-size-overflow": CHUNKED + b"fffffffffffffffff\r\nhi\r\n0\r\n\r\n",
    "chunk-bare-lf": CHUNKED + b"2\nhi\n0\n\n",
    "chunk-cut": CHUNKED + b"a\r\nhi",
    "chunk-no-end": CHUNKED + b"2\r\nhi\r\n",
    "chunk-too-long": CHUNKED + b"2\r\nhello\r\n0\r\n\r\n",
    "trailer-length": CHUNKED + b"2\r\nhi\r\n0\r\ncontent-length: 3\r\n\r\n",
    "length-cut": OK + b"content-length: 10\r\n\r\nhi",
    "compressed": OK + b"content-encoding: gzip\r\ncontent-length: 2\r\n\r\nhi",
    "two-types": OK + b"content-type: a/b\r\ncontent-type: c/d\r\ncontent-length: 2\r\n\r\nhi",
    "two-sessions": OK + b"mcp-session-id: a\r\nMcp-Session-Id: b\r\ncontent-length: 2\r\n\r\nhi",
    "switching": b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
    "informational": b"HTTP/1.1 102 Processing\r\n\r\n" + answer(b"hi"),
    "status-0": b"HTTP/1.1 000 None\r\ncontent-length: 2\r\n\r\nhi",
    "status-999": b"HTTP/1.1 999 Much\r\ncontent-length: 2\r\n\r\nhi",
    "http-2": b"HTTP/2.0 200 OK\r\ncontent-length: 2\r\n\r\nhi",
    "http-0.9": b"HTTP/0.9 200 OK\r\ncontent-length: 2\r\n\r\nhi",
    "other-protocol": b"SSH-2.0-OpenSSH_9.9\r\n",
    "html-only": b"<html>busy</html>",
    "bare-lf": b"HTTP/1.1 200 OK\ncontent-length: 2\n\nhi",
    "folded": OK + b"x: a\r\n b\r\ncontent-length: 2\r\n\r\nhi",
    "space-before-colon": OK + b"content-length : 2\r\n\r\nhi",
    "nul": OK + b"x: a\0b\r\ncontent-length: 2\r\n\r\nhi",
    "closed": b"",
    "head-cut": OK + b"content-le",
    "too-large": answer(b"x" * 100_001),
    "too-large-chunked": CHUNKED + b"186a1\r\n" + b"x" * 100_001 + b"\r\n0\r\n\r\n",
    "too-large-until-close": OK + b"\r\n" + b"x" * 100_001,
    "large-header": OK + b"x: " + b"y" * 70_000 + b"\r\ncontent-length: 2\r\n\r\nhi",
    "many-headers": OK + b"".join(b"x%d: y\r\n" % i for i in range(20_000)) + b"content-length: 2\r\n\r\nhi",
    "endless-informational": b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" * 10_000,
}


@pytest.mark.requirement("http:strict")
@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN.keys())
async def test_an_answer_with_two_readings_or_none_is_refused(client: HttpClient, broken: bytes) -> None:
    good = answer(b"good")
    served = 0

    async def script(peer: Peer) -> None:
        nonlocal served
        await peer.request()
        served += 1
        await peer.write(broken if served == 1 else good)

    async with serve(script) as server:
        with pytest.raises(UpstreamFailed):
            await fetch(client, server.url)
        assert await fetch(client, server.url) == b"good"
    assert server.connections == 2


@pytest.mark.requirement("http:surplus")
@pytest.mark.parametrize(
    "surplus", [answer(b"forged"), b"HTTP/1.1 2", b"x", b"\r\n\r\nHTTP/1.1 200 OK\r\n", b"\0" * 100_000]
)
@pytest.mark.parametrize("apart", [False, True], ids=["together", "apart"])
async def test_bytes_after_an_answer_never_become_the_next_answer(
    client: HttpClient, surplus: bytes, apart: bool
) -> None:
    first = True

    async def script(peer: Peer) -> None:
        nonlocal first
        await peer.request()
        if not first:
            await peer.write(answer(b"second"))
            return
        first = False
        if apart:
            await peer.write(answer(b"first"))
            await peer.write(surplus)
        else:
            await peer.write(answer(b"first") + surplus)
        await peer.gone()

    async with serve(script) as server:
        assert await fetch(client, server.url) == b"first"
        await asyncio.sleep(0.02)  # the surplus may arrive before or after the next request is written
        assert await fetch(client, server.url) == b"second"
    assert server.connections == 2


@pytest.mark.requirement("http:surplus")
async def test_an_answer_that_comes_before_the_request_was_read_ends_the_connection(client: HttpClient) -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.readexactly(10)
        await peer.write(answer(b"early", status=b"413 Content Too Large"))
        await peer.gone()

    async with serve(script) as server:
        url = Url.parse(server.url)
        for _ in range(2):
            response = await client.request(b"POST", url, [], b"x" * 16_000_000, lambda: None)
            assert (response.status, await response.body()) == (413, b"early")
    assert server.connections == 2


@pytest.mark.requirement("http:strict")
@pytest.mark.parametrize("before", [b"", OK + b"content-length: 9\r\n\r\nhalf"], ids=["head", "body"])
async def test_a_reset_costs_its_own_call_only(client: HttpClient, before: bytes) -> None:
    async def script(peer: Peer) -> None:
        if server.connections == 2:
            await always(answer(b"other"))(peer)
        await peer.request()
        if before:
            await peer.write(before)
            await asyncio.sleep(0.05)
        peer.reset()

    async with serve(script) as server:
        with pytest.raises(UpstreamFailed, match="may have taken effect"):
            await fetch(client, server.url)
        assert await fetch(client, server.url) == b"other"


@pytest.mark.requirement("http:strict")
async def test_what_arrived_of_a_cut_stream_is_delivered_before_the_error(client: HttpClient) -> None:
    async with serve(once(CHUNKED, b"5\r\nfirst\r\n", b"6\r\nsec")) as server:
        response = await client.request(b"POST", Url.parse(server.url), [], b"{}", lambda: None)
        seen = b""
        with pytest.raises(UpstreamFailed, match="inside its answer"):
            async for chunk in response.chunks():
                seen += chunk
        assert seen == b"firstsec"


@pytest.mark.requirement("http:strict")
@pytest.mark.parametrize("start", [OK + b"x: ", CHUNKED + b"0\r\nx: ", CHUNKED + b"2;x="], ids=["head", "trail", "ext"])
async def test_headers_without_end_cost_no_memory(client: HttpClient, start: bytes) -> None:
    sent = 0

    async def script(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        await peer.write(start)
        while sent < 1024 * 1024 * 1024:
            await peer.write(b"a" * 65_536)
            sent += 65_536

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with serve(script) as server:
        with pytest.raises(UpstreamFailed):
            await fetch(client, server.url)
    assert sent < 64 * 1024 * 1024
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40_000  # KiB


@pytest.mark.requirement("http:headers-out")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"x", b"a\r\nauthorization: b"),
        (b"x", b"a\nb: c"),
        (b"x", b"a\rb"),
        (b"x", b"a\0b"),
        (b"x\r\ny", b"a"),
        (b"x y", b"a"),
        (b"x:", b"a"),
        (b"", b"a"),
        (b"x: y\r\nz", b"a"),
        (b"Content-Length", b"0"),
        (b"transfer-encoding", b"chunked"),
        (b"Host", b"other.example"),
        (b"connection", b"x-secret"),
    ],
)
async def test_a_header_that_could_end_its_line_or_the_message_is_not_sent(
    client: HttpClient, name: bytes, value: bytes
) -> None:
    async with serve(always(answer())) as server:
        with pytest.raises(InvalidRequest):
            await fetch(client, server.url, [(b"good", b"1"), (name, value)])
    assert server.connections == 0


async def test_a_method_whose_answer_cannot_be_framed_is_refused(client: HttpClient) -> None:
    for method in (b"HEAD", b"CONNECT", b"get", b"GET / HTTP/1.1\r\nx: y\r\n\r\n"):
        with pytest.raises(InvalidRequest):
            await client.request(method, Url.parse("http://127.0.0.1:1/"), [], b"", lambda: None)


@pytest.mark.requirement("http:url")
@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("https://api.openai.com/v1", ("https", "api.openai.com", 443, b"/v1", b"api.openai.com")),
        ("HTTP://EXAMPLE.com:80", ("http", "example.com", 80, b"/", b"example.com")),
        ("http://127.0.0.1:9000/mcp?a=b/c", ("http", "127.0.0.1", 9000, b"/mcp?a=b/c", b"127.0.0.1:9000")),
        ("http://[::1]:9000/x", ("http", "::1", 9000, b"/x", b"[::1]:9000")),
        ("https://h?q", ("https", "h", 443, b"/?q", b"h")),
        ("https://h/@scope/pkg", ("https", "h", 443, b"/@scope/pkg", b"h")),
    ],
)
def test_a_url_is_taken_apart_once(text: str, fields: tuple[str, str, int, bytes, bytes]) -> None:
    url = Url.parse(text)
    assert (url.scheme, url.host, url.port, url.target, url.authority) == fields


@pytest.mark.requirement("http:url")
@pytest.mark.parametrize(
    "text",
    [
        "",
        "example.com",
        "ftp://example.com/",
        "file:///etc/passwd",
        "https://",
        "https://user:hunter2@example.com/",
        "https://hunter2@example.com/",
        "https://example.com/#hunter2",
        "https://exa mple.com/",
        "https://example.com/a b",
        "https://example.com/\r\nx: y",
        "https://exam\tple.com/",
        "https://example.com:0/",
        "https://example.com:99999/",
        "https://example.com:1x/",
        "https://0177.0.0.1/",
        "https://2130706433/",
        "https://0x7f.1/",
        "https://127.1/",
        "https://017700000001/",
        "https://127.0.0.1./",
        "https://①②⑦.⓪.⓪.①/",
        "https://127。0。0。1/",
        "https://bücher.example/",
        "https://[::1%25eth0]/",
        "https://[::g]/",
        "https:\\\\example.com/",
        "https://example.com\\@other/",
    ],
)
def test_a_url_that_two_readers_could_read_differently_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        Url.parse(text)
    assert "hunter2" not in str(refused.value)


async def test_errors_name_neither_address_nor_content(client: HttpClient) -> None:
    async with serve(once(OK + b"x-secret: hunter2\r\ncontent-length: zz\r\n\r\nhunter2")) as server:
        with pytest.raises(GatewayError) as failed:
            await fetch(client, server.url)
    assert "127.0.0.1" not in str(failed.value)
    assert "hunter2" not in str(failed.value)
