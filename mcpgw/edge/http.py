"""One client's HTTP/1.1 connection, as uvicorn's server runs it: parsed by httptools, answered by an ASGI application.

An own protocol, because much of what keeps a server standing cannot be had from inside ASGI: the form of the target,
heads without end, deadlines for those who send or read too slowly. And because it is a fifth of what a call costs: a
head that a connection has sent before is known by its bytes and not parsed again, and head and body of an answer leave
in one write.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from typing import Any
from urllib.parse import unquote

import httptools
import uvicorn
from uvicorn.server import ServerState

from mcpgw.config import LimitsSection
from mcpgw.edge.asgi import App
from mcpgw.edge.http_exchange import Head, HttpExchange, refusal

log = logging.getLogger("mcpgw.http")
MAX_HEAD_BYTES = 262_144
"""What the head of a request may take before it is complete; `limits.header_bytes` is held by the guard."""
HIGH_WATER_BYTES = 65_536  # of a body that nobody has read yet
KNOWN_HEADS = 16
KNOWN_HEAD_BYTES = 4096
MAX_WAITING = 16  # requests of one connection behind the one that is being answered
SWEEP_S = 0.5


class Deadlines:
    """Ends the connections of one listener that are past their due time; one timer for all of them."""

    def __init__(self, limits: LimitsSection) -> None:
        self.limits = limits
        self._connections: set[StrictHttp] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, connection: StrictHttp) -> None:
        self._connections.add(connection)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    def discard(self, connection: StrictHttp) -> None:
        self._connections.discard(connection)

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection in [c for c in self._connections if c.due <= now]:
            connection.overdue()
        self._timer = loop.call_later(SWEEP_S, self._sweep) if self._connections else None


class StrictHttp(asyncio.Protocol):
    """Answers 400 and closes, for a target that is not a path and for a head that does not end.

    `due` is the loop time at which the connection has waited long enough for whatever it is waiting for.
    """

    def __init__(
        self,
        deadlines: Deadlines,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,  # which uvicorn passes, always None
    ) -> None:
        self.app: App = config.loaded_app
        self.tasks = server_state.tasks
        self.loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport
        self.due = math.inf
        self.keep_alive = True
        self._state = server_state
        self._deadlines = deadlines
        self._limits = deadlines.limits
        self._parser = httptools.HttpRequestParser(self)
        self._known: dict[bytes, Head] = {}
        self._exchange: HttpExchange | None = None  # that is being answered
        self._arriving: HttpExchange | None = None  # whose body is not complete
        self._waiting: deque[HttpExchange] = deque()
        self._drained: asyncio.Future[None] | None = None
        self._message_bytes = 0  # of the message that is being parsed, 0 between messages
        self._unread = 0  # of a body that the parser does not read
        self._in_head = False
        self._paused = False
        self._head = Head()

    # The connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # a stream transport, by construction
        self._state.connections.add(self)  # type: ignore[arg-type]  # which asks for `shutdown` alone
        self._deadlines.add(self)
        self._peer = transport.get_extra_info("peername") or None
        self._name = transport.get_extra_info("sockname") or None
        self.due = self.loop.time() + self._limits.head_read_s

    def connection_lost(self, exc: Exception | None) -> None:
        self._state.connections.discard(self)
        self._deadlines.discard(self)
        for exchange in (self._exchange, self._arriving, *self._waiting):
            if exchange is not None:
                exchange.lost()
        self.resume_writing()

    def shutdown(self) -> None:
        """End gracefully: now when nothing is being answered, after the answer otherwise."""
        self.keep_alive = False
        if self._exchange is None:
            self.transport.close()

    def overdue(self) -> None:
        """End a connection that has waited for too long."""
        self.due = math.inf
        if self._in_head and self._exchange is None:
            self._refuse(408, "The head of the request did not arrive in time.")
        elif self._exchange is None and self._arriving is None and self._drained is None:
            self.transport.close()
        else:
            self.transport.abort()  # it does not read, or goes on sending what nobody wants

    def _refuse(self, status: int, words: str) -> None:
        self.keep_alive = False
        self.transport.write(refusal(status, words))
        self.transport.close()

    # What arrives

    def data_received(self, data: bytes) -> None:
        if not self._message_bytes and self._exchange is None:
            end = data.find(b"\r\n\r\n") + 4
            head = self._known.get(data[:end])
            if head is not None and len(data) - end == head.length:
                self._begin(HttpExchange(self, head, data[end:], more=False))
                return
        if self.keep_alive:
            self._parse(data)
        elif self._unread:
            self._unparsed(data)

    def _parse(self, data: bytes) -> None:
        fresh = not self._message_bytes
        if fresh and self._exchange is None:
            self.due = self.loop.time() + self._limits.head_read_s
        self._message_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            # The other protocol is not taken up, and the request answered; but httptools reads no further.
            self.keep_alive = False
            self._unparsed(data[offer.args[0] :])
        except httptools.HttpParserError:
            self._broken("Invalid HTTP request received.")
            return
        if self._in_head and self._message_bytes > MAX_HEAD_BYTES:
            self._broken("The head of the request is too large.")
        elif fresh and not self._message_bytes:
            self._remember(data)

    def _unparsed(self, data: bytes) -> None:
        """Take a body that has a length."""
        if self._arriving is not None and self._unread:
            body, self._unread = data[: self._unread], max(0, self._unread - len(data))
            self.on_body(body)
            if not self._unread:
                self._complete()

    def _broken(self, words: str) -> None:
        """What arrives is no request: an answer that is under way is the last one."""
        arriving, self._arriving = self._arriving, None
        self._waiting.clear()
        self.keep_alive = False
        if arriving is not None and arriving is self._exchange:
            arriving.lost()
        elif self._exchange is not None:
            return
        self._refuse(400, words)

    def _remember(self, data: bytes) -> None:
        """Know the head again, which came with its whole message and nothing else."""
        end = data.find(b"\r\n\r\n") + 4
        head = self._head
        if head.plain and end <= KNOWN_HEAD_BYTES and len(data) - end == head.length:
            if len(self._known) >= KNOWN_HEADS:
                self._known.clear()
            self._known[data[:end]] = head

    def on_message_begin(self) -> None:
        self._in_head = True
        self._message_bytes = self._message_bytes or 1
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        # The parser makes a 400 of these.
        if not self._url.startswith(b"/"):
            raise ValueError("the request target is not a path")
        if self._parser.should_upgrade() and any(name == b"transfer-encoding" for name, _ in self._headers):
            raise ValueError("a chunked body behind an offer of another protocol")
        self._in_head = False
        self._head = head = self._read_head()
        self._arriving = exchange = HttpExchange(self, head, b"", more=True)
        if self._exchange is None:
            self._begin(exchange)
            return
        self._waiting.append(exchange)
        if len(self._waiting) >= MAX_WAITING:
            self._pause()

    def _read_head(self) -> Head:
        parser, headers = self._parser, self._headers
        parsed = httptools.parse_url(self._url)
        path = parsed.path.decode("ascii")
        version = parser.get_http_version()
        framing = {name: value for name, value in headers if name in _FRAMING}
        head = Head()
        head.keep_alive = version == "1.1" and parser.should_keep_alive() and not parser.should_upgrade()
        head.expects = framing.get(b"expect", b"").lower() == b"100-continue"
        head.length = int(framing.get(b"content-length", b"0"))
        head.plain = head.keep_alive and not framing.keys() - {b"content-length"}
        head.scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": version,
            "method": parser.get_method().decode("ascii"),
            "scheme": "http",
            "path": unquote(path) if "%" in path else path,
            "raw_path": parsed.path,
            "query_string": parsed.query or b"",
            "root_path": "",
            "headers": headers,
            "client": self._peer,
            "server": self._name,
        }
        return head

    def on_body(self, body: bytes) -> None:
        exchange = self._arriving
        if exchange is not None:
            exchange.feed(body)
            if exchange.unread > HIGH_WATER_BYTES:
                self._pause()

    def on_message_complete(self) -> None:
        if self._parser.should_upgrade() and self._arriving is not None and not self._arriving.head.plain:
            self._unread = self._arriving.head.length
        if not self._unread:
            self._complete()

    def _complete(self) -> None:
        exchange, self._arriving = self._arriving, None
        self._message_bytes = 0
        if exchange is not None:
            exchange.complete()
            self._wait()

    # What is answered

    def _begin(self, exchange: HttpExchange) -> None:
        self._exchange = exchange
        if self._arriving is not None or self._drained is not None:
            self._wait()
        else:
            self.due = math.inf  # answering has deadlines of its own
        exchange.start()

    def answered(self, exchange: HttpExchange) -> None:
        """The answer of `exchange` has been written."""
        self._state.total_requests += 1
        self._exchange = None
        if not (self.keep_alive and exchange.head.keep_alive):
            self.keep_alive = False
            self.transport.close()
        elif self._waiting and self._drained is None:
            self._begin(self._waiting.popleft())
            self.resume()
        else:
            self._wait()

    def _wait(self) -> None:
        """Set the time until which this connection may go on with what it is doing."""
        limits, now = self._limits, self.loop.time()
        if self._drained is not None:
            self.due = now + limits.write_stall_s
        elif self._arriving is not None:
            self.due = now + limits.body_read_s + 1  # whoever reads the body says so first
        elif self._exchange is not None:
            self.due = math.inf
        else:
            self.due = now + limits.idle_s

    def _pause(self) -> None:
        if not self._paused:
            self._paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._paused and not self.transport.is_closing():
            self._paused = False
            self.transport.resume_reading()

    # What leaves

    def pause_writing(self) -> None:
        self._drained = self.loop.create_future()
        self._wait()

    def resume_writing(self) -> None:
        drained, self._drained = self._drained, None
        if drained is None:
            return
        if not drained.done():
            drained.set_result(None)
        if self._exchange is None and self._waiting and not self.transport.is_closing():
            self._begin(self._waiting.popleft())
            self.resume()
        else:
            self._wait()

    async def drain(self) -> None:
        """Return when there is room for more."""
        if self._drained is not None:
            await asyncio.wait((self._drained,))


_FRAMING = frozenset({b"content-length", b"transfer-encoding", b"expect", b"upgrade", b"connection"})
