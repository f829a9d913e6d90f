"""The HTTP connection of a client: what arrives in any pieces, in time or not, and what leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import anyio
import pytest
import uvicorn
from uvicorn.server import ServerState

from mcpgw.config import LimitsSection
from mcpgw.edge.asgi import BODY, App, Receive, Scope, Send, read_body, respond
from mcpgw.edge.http import MAX_HEAD_BYTES, MAX_WAITING, Deadlines, StrictHttp
from mcpgw.edge.http_exchange import HEAD

QUICK = LimitsSection(head_read_s=0.2, body_read_s=0.2, write_stall_s=0.2, idle_s=0.4)


class Client:
    """A connection in the raw."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            await asyncio.sleep(0)  # a turn of the loop, so that pieces arrive as pieces

    async def answer(self) -> tuple[int, bytes, bytes]:
        """Return status, head and body of the next answer that has a length."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or b"0")
        return int(head.split(b" ")[1]), head, await self.reader.readexactly(length)

    async def rest(self) -> bytes:
        """Return all that comes until the server closes the connection."""
        try:
            return await self.reader.read()
        except ConnectionResetError:
            return b""


@asynccontextmanager
async def served(app: App, limits: LimitsSection | None = None) -> AsyncIterator[Callable[[], Awaitable[Client]]]:
    """Serve an application; yields what opens a connection to it."""
    config = uvicorn.Config(app, ws="none", lifespan="off", access_log=False, log_config=None)
    config.load()
    state, deadlines = ServerState(), Deadlines(limits or LimitsSection())
    factory = partial(StrictHttp, deadlines, config=config, server_state=state, app_state={})
    server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    writers: list[asyncio.StreamWriter] = []

    async def connect() -> Client:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writers.append(writer)
        return Client(reader, writer)

    try:
        with anyio.fail_after(20):
            yield connect
    finally:
        server.close()
        for writer in writers:
            writer.close()
        for connection in list(state.connections):
            connection.transport.abort()
        await asyncio.gather(*state.tasks, return_exceptions=True)


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the method, the path and the body; equal heads go to it directly from the second request on."""
    head = scope.pop(HEAD, None)
    if head is not None:
        head.app = echo
    body = await read_body(receive, 1_000_000, 5.0)
    assert scope.get(BODY) in {None, body}
    await respond(send, 200, b"%b %b %b" % (scope["method"].encode(), scope["raw_path"], body))


def post(body: bytes, *headers: bytes, path: bytes = b"/a") -> bytes:
    lines = b"".join(header + b"\r\n" for header in headers)
    return b"POST %b HTTP/1.1\r\nhost: x\r\n%bcontent-length: %d\r\n\r\n%b" % (path, lines, len(body), body)


# Requests in any pieces


@pytest.mark.requirement("connection:pieces")
async def test_requests_with_equal_heads_have_each_their_own_body_and_answer() -> None:
    async with served(echo) as connect:
        client = await connect()
        for body in (b"one", b"two", b"six", b"seven", b"ten"):
            await client.send(post(body))
            status, head, answered = await client.answer()
            assert (status, answered) == (200, b"POST /a " + body)
            assert head.endswith(b"\r\ncontent-length: %d\r\n\r\n" % (8 + len(body)))


@pytest.mark.requirement("connection:pieces")
@pytest.mark.parametrize("size", [1, 7, 50, 1000])
async def test_a_request_may_arrive_in_pieces_of_any_size(size: int) -> None:
    text = post(b"a body") * 3
    async with served(echo) as connect:
        client = await connect()
        for start in range(0, len(text), size):
            await client.send(text[start : start + size])
        for _ in range(3):
            assert (await client.answer())[2] == b"POST /a a body"


@pytest.mark.requirement("connection:pieces")
async def test_a_head_that_is_known_may_come_again_without_its_body_or_with_the_next_request() -> None:
    async with served(echo) as connect:
        client = await connect()
        await client.send(post(b"1234"))
        assert (await client.answer())[2] == b"POST /a 1234"
        whole = post(b"5678")
        await client.send(whole[:-4], b"56", b"78")
        assert (await client.answer())[2] == b"POST /a 5678"
        await client.send(post(b"90ab") + post(b"cdef"))
        assert (await client.answer())[2] == b"POST /a 90ab"
        assert (await client.answer())[2] == b"POST /a cdef"


@pytest.mark.requirement("connection:pieces")
async def test_requests_sent_at_once_are_answered_in_order_however_many() -> None:
    async with served(echo) as connect:
        client = await connect()
        many = 3 * MAX_WAITING
        await client.send(b"".join(post(b"%d" % n) for n in range(many)))
        assert [(await client.answer())[2] for _ in range(many)] == [b"POST /a %d" % n for n in range(many)]


@pytest.mark.requirement("connection:pieces")
async def test_a_chunked_body_is_put_together_and_the_client_that_asks_is_told_to_go_on() -> None:
    async with served(echo) as connect:
        client = await connect()
        for _ in range(2):
            head = b"POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\nexpect: 100-continue\r\n\r\n"
            await client.send(head)
            assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            await client.send(b"3\r\nabc\r\n", b"2;x=y\r\nde\r\n0\r\n", b"\r\n")
            assert (await client.answer())[2] == b"POST /a abcde"


@pytest.mark.requirement("connection:pieces")
async def test_what_asks_for_the_end_of_the_connection_gets_it() -> None:
    async with served(echo) as connect:
        for text in (post(b"a", b"connection: close"), b"GET /a HTTP/1.0\r\nhost: x\r\n\r\n"):
            client = await connect()
            await client.send(text)
            status, head, _ = await client.answer()
            assert (status, b"connection: close" in head, await client.rest()) == (200, True, b"")


@pytest.mark.requirement("connection:pieces")
async def test_an_offer_of_another_protocol_is_not_taken_up_and_the_request_answered() -> None:
    async with served(echo) as connect:
        client = await connect()
        text = post(b"hi", b"connection: upgrade, http2-settings", b"upgrade: h2c", b"http2-settings: AAMA")
        await client.send(text)
        assert (await client.answer())[2] == b"POST /a hi"
        client = await connect()
        await client.send(text[:-2], b"h", b"i and more")
        assert (await client.answer())[2] == b"POST /a hi"
        assert await client.rest() == b""


@pytest.mark.requirement("connection:malformed")
@pytest.mark.parametrize("rubbish", [
    b"\x16\x03\x01\x02\x00", b"GET http://evil/ HTTP/1.1\r\nhost: x\r\n\r\n", b"GET / HTTP/1.1\r\nhost : x\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\na",
    b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: +1\r\n\r\na",
])  # fmt: skip
async def test_what_is_no_request_is_refused_after_the_answers_that_are_due(rubbish: bytes) -> None:
    async with served(echo) as connect:
        client = await connect()
        await client.send(rubbish)
        assert (await client.rest()).startswith(b"HTTP/1.1 400 ")
        client = await connect()
        await client.send(post(b"good"))
        assert (await client.answer())[2] == b"POST /a good"
        await client.send(rubbish)
        assert (await client.rest()).startswith(b"HTTP/1.1 400 ")


@pytest.mark.requirement("connection:malformed")
async def test_a_head_without_end_is_refused() -> None:
    async with served(echo) as connect:
        client = await connect()
        await client.send(b"GET / HTTP/1.1\r\nhost: x\r\nx: ", b"y" * (MAX_HEAD_BYTES + 10))
        assert (await client.rest()).startswith(b"HTTP/1.1 400 ")


# Time


@pytest.mark.requirement("connection:deadlines")
@pytest.mark.parametrize("begin", [b"", b"POST /a HT", post(b"first") + b"POST /a HTTP/1.1\r\nhost: x\r\n"])
async def test_a_head_that_does_not_arrive_in_time_is_not_waited_for(begin: bytes) -> None:
    async with served(echo, QUICK) as connect:
        client = await connect()
        await client.send(begin)
        rest = await client.rest()
        assert rest == b"" if not begin else b"HTTP/1.1 408 " in rest


@pytest.mark.requirement("connection:deadlines")
async def test_bytes_that_drip_in_buy_no_time() -> None:
    async with served(echo, QUICK) as connect:
        client = await connect()
        ended = asyncio.create_task(client.rest())
        for byte in b"POST /a HTTP/1.1\r\nhost: x\r\nx: " + b"a" * 3000:
            if (await asyncio.wait((ended,), timeout=0.01))[0]:
                break
            with suppress(ConnectionError):
                await client.send(bytes((byte,)))
        else:
            pytest.fail("all of it was waited for")
        # What is sent to a connection that has been closed may take the answer back.
        assert ended.result()[:13] in {b"HTTP/1.1 408 ", b""}


@pytest.mark.requirement("connection:deadlines")
async def test_a_connection_that_asks_nothing_more_is_closed() -> None:
    async with served(echo, QUICK) as connect:
        client = await connect()
        await client.send(post(b"one"))
        assert (await client.answer())[0] == 200
        assert await client.rest() == b""


@pytest.mark.requirement("connection:deadlines")
async def test_the_rest_of_a_body_that_nobody_wants_is_not_waited_for() -> None:
    async def refuses(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, 403, b"no")

    async with served(refuses, QUICK) as connect:
        client = await connect()
        await client.send(post(b"x" * 1000)[:-500])
        assert (await client.answer())[0] == 403
        assert await client.rest() == b""


@pytest.mark.requirement("connection:deadlines")
async def test_a_client_that_does_not_read_is_cut_off_and_the_application_told() -> None:
    told = asyncio.Event()

    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        waiting = asyncio.create_task(gone(receive))
        while not waiting.done():
            await send({"type": "http.response.body", "body": b"x" * 65_536, "more_body": True})
            await asyncio.sleep(0)
        told.set()

    async def gone(receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    async with served(endless, QUICK) as connect:
        client = await connect()
        await client.send(post(b""))
        await told.wait()


@pytest.mark.requirement("connection:deadlines")
async def test_a_client_that_asks_and_asks_and_does_not_read_is_cut_off_with_what_it_asked_unanswered() -> None:
    answered = 0

    async def large(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal answered
        answered += 1
        await respond(send, 200, b"x" * 4_000_000)

    async with served(large, QUICK) as connect:
        client = await connect()
        client.reader._transport.pause_reading()
        with pytest.raises(ConnectionError):
            while True:
                await client.send(post(b"") * 10)
        assert answered < MAX_WAITING


# Answers


@pytest.mark.requirement("connection:answers")
async def test_an_answer_without_a_length_is_chunked_and_one_without_a_body_has_none() -> None:
    async def streams(scope: Scope, receive: Receive, send: Send) -> None:
        status = 204 if scope["raw_path"] == b"/none" else 200
        await send({"type": "http.response.start", "status": status, "headers": [(b"x-a", b"b")]})
        for piece in (b"", b"one", b"two"):
            await send({"type": "http.response.body", "body": piece if status == 200 else b"", "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async with served(streams) as connect:
        client = await connect()
        await client.send(post(b"", path=b"/none"))
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 204 No Content\r\nx-a: b\r\n\r\n"
        await client.send(post(b""))
        assert await client.reader.readuntil(b"0\r\n\r\n") == (
            b"HTTP/1.1 200 OK\r\nx-a: b\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"
        )


@pytest.mark.requirement("connection:answers")
@pytest.mark.parametrize("header", [(b"x", b"a\r\nset-cookie: b"), (b"x y", b"a"), (b"x", b"a\0"), (b"", b"a")])
async def test_a_header_that_would_be_two_is_not_sent(header: tuple[bytes, bytes]) -> None:
    async def splits(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, 200, b"{}", [header])

    async with served(splits) as connect:
        client = await connect()
        await client.send(post(b""))
        assert (await client.rest()).startswith(b"HTTP/1.1 500 ")


@pytest.mark.requirement("connection:answers")
async def test_an_application_that_fails_has_answered_500_or_cut_its_answer() -> None:
    async def fails(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["raw_path"] == b"/late":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"10")]})
            await send({"type": "http.response.body", "body": b"12345", "more_body": True})
        raise ValueError("a secret")

    async with served(fails) as connect:
        client = await connect()
        await client.send(post(b""))
        early = await client.rest()
        assert early.startswith(b"HTTP/1.1 500 ") and b"secret" not in early
        client = await connect()
        await client.send(post(b"", path=b"/late"))
        assert b"12345" in await client.reader.readuntil(b"12345")
        assert await client.rest() == b""
