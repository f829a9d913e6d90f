"""The pooled client against servers that behave: the pool, the gate, bodies, cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from mcpgw.config import LimitsSection
from mcpgw.errors import Killed, UpstreamFailed, UpstreamTimeout, UpstreamUnreachable
from mcpgw.upstream.http import HttpClient, Response, Url
from tests.fixtures.raw_http import Peer, always, answer, once, serve

CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture
async def client() -> AsyncIterator[HttpClient]:
    made = HttpClient(LimitsSection(), lambda address: True)
    yield made
    await made.aclose()


def through() -> None:
    """A gate that lets everything pass."""


async def post(client: HttpClient, url: str, body: bytes = b"{}", **options: Any) -> Response:
    headers = [(b"content-type", b"application/json")]
    return await client.request(b"POST", Url.parse(url), headers, body, options.pop("gate", through), **options)


@pytest.mark.requirement("http:pool")
async def test_calls_one_after_another_share_a_connection(client: HttpClient) -> None:
    async with serve(always(answer(b'{"ok":1}', b"content-type: application/json"))) as server:
        for _ in range(3):
            response = await post(client, server.url, b'{"a":1}')
            assert response.status == 200
            assert response.headers[b"content-type"] == b"application/json"
            assert await response.body() == b'{"ok":1}'
            await response.aclose()
    assert server.connections == 1
    assert server.requests[0] == (
        b"POST /mcp HTTP/1.1\r\nhost: %b\r\naccept-encoding: identity\r\ncontent-type: application/json\r\n"
        b'content-length: 7\r\n\r\n{"a":1}' % server.url.split("/")[2].encode()
    )


@pytest.mark.requirement("http:pool")
async def test_calls_at_once_have_a_connection_each_and_the_last_used_is_used_first(client: HttpClient) -> None:
    both = asyncio.Barrier(2)

    async def script(peer: Peer) -> None:
        name = peer.writer.get_extra_info("peername")[1]
        while request := await peer.request():
            if request.startswith(b"POST"):
                await both.wait()
            await peer.write(answer(b"%d" % name))

    async with serve(script) as server:

        async def call() -> bytes:
            return await (await post(client, server.url)).body()

        ports = await asyncio.gather(call(), call())
        assert len(set(ports)) == server.connections == 2
        url = Url.parse(server.url)
        used = {await (await client.request(b"GET", url, [], b"", through)).body() for _ in range(4)}
    assert len(used) == 1


@pytest.mark.requirement("http:pool")
async def test_a_kept_connection_that_the_server_closed_is_replaced_before_anything_is_written(
    client: HttpClient,
) -> None:
    async with serve(once(answer(b"1"))) as server:
        for _ in range(5):
            assert await (await post(client, server.url)).body() == b"1"
    assert len(server.requests) == server.connections == 5


@pytest.mark.requirement("http:pool")
async def test_a_closing_server_is_seen_before_the_loop_reports_it(client: HttpClient) -> None:
    gone = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.write(answer(b"1"))
        peer.writer.transport.abort()
        gone.set()

    async with serve(script) as server:
        await (await post(client, server.url)).body()
        await gone.wait()
        assert await (await post(client, server.url)).body() == b"1"


@pytest.mark.requirement("http:no-repeat")
async def test_a_request_that_was_written_is_never_written_again(client: HttpClient) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.write(answer(b"1"))
        await peer.request()  # the second one is swallowed

    async with serve(script) as server:
        await (await post(client, server.url)).body()
        with pytest.raises(UpstreamFailed, match="may have taken effect"):
            await post(client, server.url)
    assert len(server.requests) == 2


@pytest.mark.requirement("http:pool")
async def test_connection_close_is_obeyed(client: HttpClient) -> None:
    async with serve(always(answer(b"1", b"connection: close"))) as server:
        for _ in range(2):
            assert await (await post(client, server.url)).body() == b"1"
    assert server.connections == 2


@pytest.mark.requirement("http:pool")
async def test_idle_connections_are_closed_in_time(client: HttpClient) -> None:
    ended = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.write(answer(b"1", b"keep-alive: timeout=1"))
        await peer.gone()
        ended.set()

    async with serve(script) as server:
        await (await post(client, server.url)).body()
        with anyio.fail_after(5):
            await ended.wait()


@pytest.mark.requirement("gate:first-write")
async def test_when_the_gate_raises_the_server_has_seen_nothing_and_the_connection_is_kept(client: HttpClient) -> None:
    async with serve(always(answer())) as server:

        def shut() -> None:
            raise Killed("stopped")

        with pytest.raises(Killed):
            await post(client, server.url, gate=shut)
        assert await (await post(client, server.url)).body() == b"{}"
        with pytest.raises(Killed):
            await post(client, server.url, gate=shut)
        assert await (await post(client, server.url)).body() == b"{}"
    assert server.connections == 1
    assert len(server.requests) == 2


@pytest.mark.requirement("gate:first-write")
async def test_the_gate_is_called_after_the_connect_in_the_callback_of_the_write(client: HttpClient) -> None:
    seen: list[str] = []
    connected = asyncio.Event()

    async def script(peer: Peer) -> None:
        connected.set()
        await peer.request()
        seen.append("request")
        await peer.write(answer())

    async with serve(script) as server:
        loop = asyncio.get_running_loop()

        def gate() -> None:
            (connection,) = client._live
            write = connection._transport.write

            def written(data: bytes) -> None:
                seen.append("write")
                write(data)

            connection._transport = _Writing(connection._transport, written)
            assert connection._transport.get_write_buffer_size() == 0
            seen.append("gate")
            loop.call_soon(seen.append, "next callback")

        await (await post(client, server.url, gate=gate)).body()
        await connected.wait()
    assert seen == ["gate", "write", "next callback", "request"]


class _Writing:
    """A transport whose `write` is watched."""

    def __init__(self, inner: asyncio.Transport, write: Any) -> None:
        self._inner = inner
        self.write = write

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@pytest.mark.requirement("http:bodies")
@pytest.mark.parametrize(
    ("pieces", "body"),
    [
        ((answer(b"whole"),), b"whole"),
        ((answer(b""),), b""),
        ((b"HTTP/1.1 204 No Content\r\n\r\n",), b""),
        ((CHUNKED, b"3\r\nabc\r\n", b"3;x=y\r\ndef\r\n", b"0\r\ntrailer: x\r\n\r\n"), b"abcdef"),
        ((b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n", answer(b"late")), b"late"),
        ((b"HTTP/1.1 200 OK\r\n\r\n", b"until", b" close"), b"until close"),
        ((b"HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\nold",), b"old"),
        (tuple(bytes([b]) for b in answer(b"byte by byte")), b"byte by byte"),
    ],
    ids=["length", "empty", "204", "chunked", "informational", "until-close", "http-1.0", "drip"],
)
async def test_every_framing_of_a_body_is_read(client: HttpClient, pieces: tuple[bytes, ...], body: bytes) -> None:
    async with serve(once(*pieces)) as server:
        assert await (await post(client, server.url)).body() == body
        streamed = await post(client, server.url)
        assert b"".join([piece async for piece in streamed.chunks()]) == body
        await streamed.aclose()


@pytest.mark.requirement("http:redirect")
async def test_a_redirect_is_returned_and_not_followed(client: HttpClient) -> None:
    async with serve(always(answer(b"", b"location: http://127.0.0.1:1/", status=b"307 Temporary Redirect"))) as server:
        response = await post(client, server.url)
        assert (response.status, response.headers[b"location"]) == (307, b"http://127.0.0.1:1/")
        await response.aclose()
    assert len(server.requests) == 1


@pytest.mark.requirement("http:stream")
async def test_chunks_arrive_as_they_are_sent(client: HttpClient) -> None:
    go_on = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.write(CHUNKED + b"3\r\none\r\n")
        await go_on.wait()
        await peer.write(b"3\r\ntwo\r\n0\r\n\r\n")
        await peer.gone()

    async with serve(script) as server:
        response = await post(client, server.url)
        seen = []
        async for chunk in response.chunks():
            seen.append(chunk)
            go_on.set()
        assert seen == [b"one", b"two"]
        await response.aclose()


@pytest.mark.requirement("http:stream")
async def test_a_reader_that_is_slow_stops_the_writer(client: HttpClient) -> None:
    block = b"%x\r\n%b\r\n" % (65_536, b"x" * 65_536)
    sent = 0

    async def script(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        await peer.write(CHUNKED)
        for _ in range(2_000):
            await peer.write(block)
            sent += 65_536
        await peer.write(b"0\r\n\r\n")

    async with serve(script) as server:
        response = await post(client, server.url)
        before = -1
        while before != sent:  # until the writer stands still
            before = sent
            await asyncio.sleep(0.1)
        assert sent < 32 * 1024 * 1024
        assert response.size < 1024 * 1024
        total = 0
        async for chunk in response.chunks():
            total += len(chunk)
        assert total == 2_000 * 65_536


@pytest.mark.requirement("http:let-go")
@pytest.mark.parametrize("how", ["aclose", "break", "cancel-body", "cancel-head"])
async def test_an_answer_that_is_given_up_is_cut_at_once(client: HttpClient, how: str) -> None:
    asked, cut = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        if how != "cancel-head":
            await peer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nbegin")
        asked.set()
        await peer.gone()
        cut.set()

    async def call() -> None:
        response = await post(client, server.url)
        if how == "aclose":
            await response.aclose()
        elif how == "break":
            async for _ in response.chunks():
                break
            await response.aclose()
        else:
            await response.body()

    async with serve(script) as server:
        task = asyncio.create_task(call())
        await asked.wait()
        if how.startswith("cancel"):
            await asyncio.sleep(0.02)
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        with anyio.fail_after(2):
            await cut.wait()
        assert client._kept.get(Url.parse(server.url).origin, []) == []


@pytest.mark.requirement("http:deadlines")
async def test_silence_ends_a_call_at_each_of_its_deadlines() -> None:
    limits = LimitsSection(first_byte_s=0.2, call_s=0.4, stream_idle_s=0.2)
    client = HttpClient(limits, lambda address: True)
    part: list[bytes] = []

    async def script(peer: Peer) -> None:
        await peer.request()
        for piece in part:
            await peer.write(piece)
        await peer.gone()

    async with serve(script) as server:
        with anyio.fail_after(5):
            with pytest.raises(UpstreamTimeout, match="did not begin"):
                await post(client, server.url)
            part.append(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n")
            with pytest.raises(UpstreamTimeout, match="did not begin"):
                await post(client, server.url, first_byte_s=0.05)
            part.append(b"\r\npart")
            with pytest.raises(UpstreamTimeout, match="did not finish"):
                await (await post(client, server.url)).body()
            response, seen = await post(client, server.url), []
            with pytest.raises(UpstreamTimeout, match="silent"):
                async for chunk in response.chunks():
                    seen.append(chunk)
            assert seen == [b"part"]
    await client.aclose()


@pytest.mark.requirement("http:deadlines")
async def test_a_stream_that_keeps_talking_outlives_the_idle_deadline() -> None:
    client = HttpClient(LimitsSection(stream_idle_s=0.3, call_s=0.3), lambda address: True)

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.write(CHUNKED)
        for _ in range(8):
            await peer.write(b"1\r\nx\r\n")
            await asyncio.sleep(0.1)
        await peer.write(b"0\r\n\r\n")

    async with serve(script) as server:
        response = await post(client, server.url)
        assert b"".join([chunk async for chunk in response.chunks()]) == b"x" * 8
    await client.aclose()


@pytest.mark.requirement("http:unreachable")
async def test_what_cannot_be_connected_to_was_sent_nothing(client: HttpClient) -> None:
    async with serve(always(answer())) as server:
        url = server.url
    with pytest.raises(UpstreamUnreachable, match="cannot connect"):
        await post(client, url)
    with pytest.raises(UpstreamUnreachable, match="cannot connect"):
        await post(client, "http://no-such-host.invalid/")


@pytest.mark.requirement("http:vetted")
async def test_every_address_is_vetted_at_every_connect() -> None:
    asked: list[str] = []
    open_to: set[str] = set()

    def allowed(address: str) -> bool:
        asked.append(address)
        return address in open_to

    client = HttpClient(LimitsSection(), allowed)
    async with serve(always(answer(b"", b"connection: close"))) as server:
        for spelling in ("127.0.0.1", "localhost"):
            url = server.url.replace("127.0.0.1", spelling)
            with pytest.raises(UpstreamUnreachable, match="no address that may be connected to"):
                await post(client, url)
        assert set(asked) <= {"127.0.0.1", "::1"}
        assert server.connections == 0
        open_to.add("127.0.0.1")
        for _ in range(2):
            asked.clear()
            await (await post(client, server.url)).body()
            assert asked == ["127.0.0.1"]
    await client.aclose()


@pytest.mark.requirement("http:unix")
async def test_a_unix_socket_is_spoken_to_like_any_server(client: HttpClient, tmp_path: Path) -> None:
    path = tmp_path / "w1.sock"
    async with serve(always(answer(b"relayed")), path=path) as server:
        for _ in range(2):
            url = Url.unix(str(path), "/mcp/notes?x=1", "gateway.example:8080")
            assert await (await client.request(b"POST", url, [], b"{}", through)).body() == b"relayed"
    assert server.connections == 1
    assert server.requests[0].startswith(b"POST /mcp/notes?x=1 HTTP/1.1\r\nhost: gateway.example:8080\r\n")


async def test_closing_the_client_cuts_what_is_running(client: HttpClient) -> None:
    asked = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        asked.set()
        await peer.gone()

    async with serve(script) as server:
        task = asyncio.create_task(post(client, server.url))
        await asked.wait()
        await client.aclose()
        with pytest.raises(UpstreamFailed):
            await task
