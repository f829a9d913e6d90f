"""One request on a connection and its answer, as an ASGI application sees them."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from mcpgw.edge.asgi import BODY, App, Message

if TYPE_CHECKING:
    from mcpgw.edge.http import StrictHttp

log = logging.getLogger("mcpgw.http")
_STATUS = {
    status: b"HTTP/1.1 %d %b\r\n"
    % (status, HTTPStatus(status).phrase.encode() if status in HTTPStatus._value2member_map_ else b"")
    for status in range(100, 600)
}
# All that a head may hold; a line ends where we end it, and nowhere else.
_HEAD = re.compile(rb"(?:[!#$%&'*+.^_`|~0-9a-zA-Z-]+: [\t\x20-\x7e\x80-\xff]*\r\n)*")
_BODILESS = frozenset({204, 304})
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Head:
    """The head of a request, as parsed. Equal bytes at the start of a message of one connection are an equal head.

    `scope` is the ASGI scope that each request gets a copy of, `length` what Content-Length says. `plain` means that
    nothing but the length frames the message. `app` is the application that the guard let requests with this head
    through to, once it has.
    """

    __slots__ = ("app", "expects", "keep_alive", "length", "plain", "scope")

    def __init__(self) -> None:
        self.scope: dict[str, Any] = {}
        self.length = 0
        self.keep_alive = self.expects = self.plain = False
        self.app: App | None = None


class HttpExchange:
    """Answers one request in a task of its own. It is the `send` of the application itself."""

    __slots__ = (
        "_chunked",
        "_connection",
        "_gone",
        "_left",
        "_more",
        "_pieces",
        "_read",
        "_start",
        "_started",
        "_task",
        "_waiter",
        "finished",
        "head",
        "unread",
    )

    def __init__(self, connection: StrictHttp, head: Head, body: bytes, *, more: bool) -> None:
        self.head = head
        self.finished = False  # the answer has been written
        self.unread = len(body)
        self._connection = connection
        self._pieces = [body] if body else []
        self._more = more
        self._read = False  # the application has the whole body
        self._gone = False
        self._waiter: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._start = b""  # the head of the answer, until the body begins
        self._started = False
        self._chunked = False
        self._left = 0

    def start(self) -> None:
        connection = self._connection
        self._task = task = connection.loop.create_task(self._run())
        connection.tasks.add(task)

    def feed(self, body: bytes) -> None:
        if not self.finished:
            self._pieces.append(body)
            self.unread += len(body)
            self._wake()

    def complete(self) -> None:
        self._more = False
        self._wake()

    def lost(self) -> None:
        """The client has gone."""
        self._gone = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _run(self) -> None:
        connection, head = self._connection, self.head
        try:
            # The scope is the application's to write into; the head that it came from stays as it was parsed.
            scope = head.scope.copy()
            if head.app is None:
                scope[HEAD] = head
            if not self._more:
                scope[BODY] = self._pieces[0] if self._pieces else b""
            await (head.app or connection.app)(scope, self.receive, self)
            if not self.finished and not self._gone:
                log.error("the application ended without a whole answer")
                self._fail()
        except Exception:
            log.exception("the application failed")
            self._fail()
        except asyncio.CancelledError:
            self._fail()
            raise
        finally:
            if self._task is not None:
                connection.tasks.discard(self._task)

    def _fail(self) -> None:
        """Answer 500 where nothing has been answered; otherwise cut the answer, so that it cannot pass for a whole."""
        if self.finished or self._gone:
            return
        if self._started:
            self._connection.transport.abort()
            return
        self.finished = True
        self._connection.keep_alive = False
        self._connection.transport.write(refusal(500, "Internal Server Error"))
        self._connection.answered(self)

    async def receive(self) -> Message:
        if self.head.expects and self._more and not self._started:
            self.head.expects = False
            self._connection.transport.write(_CONTINUE)
        while not (self._gone or self.finished):
            if self._pieces or not (self._more or self._read):
                pieces, self._pieces, self.unread = self._pieces, [], 0
                self._read = not self._more
                self._connection.resume()
                body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
                return {"type": "http.request", "body": body, "more_body": self._more}
            self._waiter = self._connection.loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return {"type": "http.disconnect"}

    def whole(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> None:
        """Send an answer that is there as a whole; `headers` have its length."""
        if self._gone:
            return
        if self._start or self._started:
            raise RuntimeError("an answer has one start")
        data = self._opening(status, headers) + self._framed(body, more=False)
        self._started = self.finished = True
        connection = self._connection
        connection.transport.write(data)
        self._wake()
        connection.answered(self)

    async def __call__(self, message: Message) -> None:
        """The `send` of ASGI."""
        if self._gone:
            return
        if message["type"] == "http.response.start":
            if self._start or self._started:
                raise RuntimeError("an answer has one start")
            self._start = self._opening(message["status"], list(message.get("headers", ())))
            return
        if self.finished or not (self._start or self._started):
            raise RuntimeError("a body follows the start of its answer")
        more = message.get("more_body", False)
        data = self._framed(message.get("body", b""), more=more)
        if not self._started:
            self._started = True
            data = self._start + data
        connection = self._connection
        if data:
            connection.transport.write(data)
        if not more:
            self.finished = True
            self._wake()
            connection.answered(self)
        else:
            await connection.drain()

    def _opening(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
        lines = b"".join([b"%b: %b\r\n" % header for header in headers])
        if not _HEAD.fullmatch(lines) or lines.count(b"\n") != len(headers):
            raise RuntimeError("a header of the answer cannot be sent")
        head = self.head
        framed = False
        for name, value in headers:
            if name == b"content-length":
                self._left, framed = int(value), True
            elif name == b"connection" and value.lower() == b"close":
                self._connection.keep_alive = False
        if head.scope["method"] == "HEAD" or status in _BODILESS:
            self._left, framed = -1, True
        if not framed:
            self._chunked = True
            lines += b"transfer-encoding: chunked\r\n"
        if not (self._connection.keep_alive and head.keep_alive) and b"connection: close" not in lines:
            lines += b"connection: close\r\n"
        return _STATUS[status] + lines + b"\r\n"

    def _framed(self, body: bytes, *, more: bool) -> bytes:
        if self._chunked:
            chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            return chunk if more else chunk + b"0\r\n\r\n"
        if self._left < 0:
            return b""  # an answer without a body
        self._left -= len(body)
        if self._left < 0 or (self._left and not more):
            raise RuntimeError("the body of the answer is not as long as its Content-Length")
        return body


HEAD = "mcpgw.head"
"""Scope key of a head that no request was let through with yet: the guard notes in it whom it let it through to."""


def refusal(status: int, words: str) -> bytes:
    """Return a whole answer after which the connection is closed."""
    return b"%bcontent-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b" % (
        _STATUS[status],
        len(words),
        words.encode(),
    )
