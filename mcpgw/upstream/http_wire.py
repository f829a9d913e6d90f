"""One HTTP/1.1 connection and the answer that arrives on it (RFC 9112): strict where leniency admits forgeries."""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Callable, Mapping

import httptools

from mcpgw.config import LimitsSection
from mcpgw.errors import GatewayError, UpstreamFailed, UpstreamTimeout
from mcpgw.ports import Gate
from mcpgw.upstream.http_response import MAY_HAVE_TAKEN_EFFECT, Response

MAX_HEAD_BYTES = 65_536  # also of chunk extensions and trailers between two pieces of a body
# Two of these in one answer are two answers: whoever reads the other one sees something else than we judge.
SINGLE = frozenset(
    {
        b"content-length",
        b"transfer-encoding",
        b"content-encoding",
        b"content-type",
        b"location",
        b"mcp-session-id",
        b"mcp-protocol-version",
    }
)
# Kept connections are dropped before common servers drop them (uvicorn and Node: 5 s), because a request written
# into a closing connection is lost and must not be sent again.
KEPT_S = 4.0
KNOWN_HEADS, KNOWN_HEAD_BYTES = 16, 2048
MAX_KEPT_S = 60.0


class Refused(Exception):
    """An answer that breaks the rules; raised inside parser callbacks."""


class KnownHead:
    """A head that has been parsed, found flawless, and followed by its whole body; equal bytes say the same again."""

    __slots__ = ("headers", "length", "status")

    def __init__(self, status: int, headers: dict[bytes, bytes], length: int) -> None:
        self.status = status
        self.headers = headers
        self.length = length


class Connection(asyncio.Protocol):
    """A connection with at most one request on it.

    `free` is called when an answer is complete and the connection can serve another request, `lost` when it is gone.
    """

    def __init__(
        self,
        origin: str,
        name: str,
        sock: socket.socket,
        limits: LimitsSection,
        on: tuple[Callable[[Connection], None], Callable[[Connection], None]],
    ) -> None:
        self.origin = origin
        self.name = name
        self._sock = sock
        self._limits = limits
        self._free, self._lost = on
        self._loop = asyncio.get_running_loop()
        self.keep_until = self._loop.time() + KEPT_S
        self._parser = httptools.HttpResponseParser(self)
        self._known: dict[bytes, KnownHead] = {}
        self._transport: asyncio.Transport
        self._open = False
        self._paused = False
        self._response: Response | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = self._deadline = math.inf

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # a stream transport, by construction
        self._open = True

    def eof_received(self) -> None:
        self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc)
        if self._timer is not None:
            self._timer.cancel()
        self._lost(self)

    def _end(self, exc: Exception | None) -> None:
        self._open = False
        if self._response is None:
            return
        if exc is None and self._head and self._until_close:
            self._finish(reusable=False)
        else:
            self._refuse(f"closed the connection {'inside' if self._head else 'before'} its answer")

    def close(self) -> None:
        """End the connection now, whatever is on it."""
        self._open = False
        self._transport.abort()

    @property
    def ready(self) -> bool:
        """Whether a request can be written: connected, and nothing left to write."""
        return self._open and not self._transport.is_closing() and not self._transport.get_write_buffer_size()

    @property
    def quiet(self) -> bool:
        """Whether nothing has come that the loop has not read yet: the peer's end, or bytes that answer nothing."""
        try:
            self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def send(self, gate: Gate, request: bytes, first_byte_s: float) -> Response:
        """Write a request and return its answer to come. What `gate` raises is raised before a byte is written."""
        gate()
        self._transport.write(request)
        now = self._loop.time()
        self._fed = 0
        self._head = self._complete = self._informational = self._until_close = False
        self._refusal = ""
        self._response = response = Response(self, self._loop, self._limits, now)
        self._expect(now + first_byte_s)
        return response

    def _expect(self, deadline: float) -> None:
        """Fail the answer at this loop time; infinity: never. One timer is kept and armed again only when it fires."""
        self._deadline = deadline
        if deadline < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = deadline
            self._timer = self._loop.call_at(deadline, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._timer_at = math.inf
        response = self._response
        if response is None or self._deadline == math.inf:
            return
        if self._loop.time() < self._deadline - 0.001:
            self._expect(self._deadline)
            return
        if not self._head:
            late = "did not begin its answer in time"
        else:
            late = "did not finish its answer in time" if response.whole else "fell silent inside its answer"
        self._fail(UpstreamTimeout(f"{self.name} {late}", fix=MAY_HAVE_TAKEN_EFFECT))

    def _refuse(self, reason: str) -> None:
        self._fail(UpstreamFailed(f"{self.name} {reason}", fix=MAY_HAVE_TAKEN_EFFECT))

    def listen(self, deadline: float) -> None:
        """Read on, until this loop time."""
        self._resume()
        self._expect(deadline)

    def _resume(self) -> None:
        if self._paused and self._open:
            self._paused = False
            self._transport.resume_reading()

    def abandon(self, response: Response) -> None:
        """Close the connection if `response` is still arriving on it."""
        if self._response is response:
            self._response = None
            self.close()

    def _fail(self, error: GatewayError) -> None:
        response, self._response = self._response, None
        self.close()
        if response is not None:
            response.failure = error
            response.wake()

    def _finish(self, *, reusable: bool) -> None:
        response, self._response = self._response, None
        self._deadline = math.inf
        if reusable and self._open and not self._transport.get_write_buffer_size():
            self._resume()
            self._keep_for(response)
            self._free(self)
        else:
            self.close()
        if response is not None:
            response.complete = True
            response.wake()

    def _keep_for(self, response: Response | None) -> None:
        kept_s = KEPT_S
        stated = response.headers.get(b"keep-alive") if response is not None else None
        if stated is not None:
            for parameter in stated.split(b","):
                name, _, value = parameter.strip().partition(b"=")
                if name.lower() == b"timeout" and value.isdigit():
                    kept_s = min(float(value) - 1.0, MAX_KEPT_S)
        self.keep_until = self._loop.time() + kept_s

    def data_received(self, data: bytes) -> None:
        response = self._response
        if response is None:
            self.close()  # an answer to nothing would be taken for the answer to the next request
            return
        fresh = not (self._fed or self._head)
        if fresh:
            end = data.find(b"\r\n\r\n") + 4
            known = self._known.get(data[:end])
            if known is not None and len(data) - end == known.length:
                self._recognise(response, known, data[end:])
                return
        self._fed += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if self._complete:
                self._finish(reusable=False)
            else:
                self._refuse(self._refusal or f"does not speak HTTP/1.1: {error}")
            return
        if self._complete:
            if fresh and self._keep_alive:
                self._remember(data, response)
            self._finish(reusable=self._keep_alive)
        elif self._fed > MAX_HEAD_BYTES:
            self._refuse("sent headers without end" if not self._head else "sent chunk framing without end")
        elif self._head:
            self._buffered(response)

    def _remember(self, data: bytes, response: Response) -> None:
        """Know the head again, which came with its whole message: heads of one server are nearly always the same."""
        end = data.find(b"\r\n\r\n") + 4
        length = int(response.headers.get(b"content-length", b"-1"))
        if end <= KNOWN_HEAD_BYTES and len(data) - end == length:
            if len(self._known) >= KNOWN_HEADS:
                self._known.clear()
            self._known[data[:end]] = KnownHead(response.status, response.headers, length)

    def _recognise(self, response: Response, known: KnownHead, body: bytes) -> None:
        response.status, response.headers = known.status, known.headers
        response.pieces, response.size = [body], len(body)
        self._head = self._complete = True
        if response.whole and response.size > response.room:
            self._refuse(f"sent an answer of more than {response.room} bytes")
        else:
            self._finish(reusable=True)

    def _buffered(self, response: Response) -> None:
        if response.size > response.room:
            if response.whole:
                self._refuse(f"sent an answer of more than {response.room} bytes")
                return
            if not self._paused:
                self._paused = True
                self._transport.pause_reading()
        if not response.whole:
            self._deadline = math.inf  # silence counts while somebody listens
            response.wake()

    def on_message_begin(self) -> None:
        if self._complete:
            raise Refused  # bytes after the end of the answer: the answer stands, the connection does not

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head or self._response is None:
            return  # trailers
        name = name.lower()
        headers = self._response.headers
        if name in headers:
            if name in SINGLE:
                self._refusal = f"sent two {name.decode('ascii', 'replace')} headers"
                raise Refused
            value = headers[name] + b", " + value
        headers[name] = value

    def on_headers_complete(self) -> None:
        response = self._response
        if response is None:
            raise Refused
        status = self._parser.get_status_code()
        headers = response.headers
        self._refusal = self._flaw(status, headers)
        if self._refusal:
            raise Refused
        if status in {100, 103}:
            self._informational = True
            headers.clear()
            return
        response.status = status
        self._head = True
        self._fed = 0
        self._keep_alive = self._parser.should_keep_alive()
        self._until_close = b"content-length" not in headers and b"transfer-encoding" not in headers

    def _flaw(self, status: int, headers: Mapping[bytes, bytes]) -> str:
        version = self._parser.get_http_version()
        coding = headers.get(b"transfer-encoding")
        if version not in {"1.1", "1.0"}:
            return f"answered in HTTP/{version}"
        if not 200 <= status <= 599 and status not in {100, 103}:
            return f"answered with status {status}"
        if coding is not None and (coding.lower() != b"chunked" or b"content-length" in headers or version == "1.0"):
            return "sent a transfer coding other than chunked"
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            return "sent a content coding that was not asked for"
        if self._fed > MAX_HEAD_BYTES and sum(map(len, headers)) + sum(map(len, headers.values())) > MAX_HEAD_BYTES:
            return f"sent headers of more than {MAX_HEAD_BYTES} bytes"
        return ""

    def on_body(self, piece: bytes) -> None:
        response = self._response
        if response is not None:
            self._fed = 0
            response.pieces.append(piece)
            response.size += len(piece)

    def on_message_complete(self) -> None:
        if self._informational:
            self._informational = False
        else:
            self._complete = True
