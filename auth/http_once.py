"""One HTTP/1.1 request on one connection of its own, to an address that has been vetted; its answer, within bounds."""

from __future__ import annotations

import asyncio
import socket
import ssl
import zlib
from collections.abc import Mapping

import httptools

from mcpgw.errors import FetchFailed

MAX_HEAD_BYTES = 32_768
_PIECE = 16_384
_GZIP = 16 + zlib.MAX_WBITS
# Two of these in one answer are two answers.
_SINGLE = frozenset({"content-length", "transfer-encoding", "content-encoding", "content-type", "location"})


class Answer:
    """The answer that a parser of httptools puts together; `complete` once it is whole."""

    def __init__(self, max_bytes: int) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.complete = False
        self._max_bytes = max_bytes
        self._head_bytes = 0
        self._head_done = False
        self._body = bytearray()
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, piece: bytes) -> None:
        """Read a piece; an empty one is the end of the connection. Raises FetchFailed."""
        try:
            if piece:
                self._parser.feed_data(piece)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if isinstance(error.__context__, FetchFailed):  # raised in a callback below
                raise error.__context__ from None
            raise FetchFailed("the answer is not HTTP/1.1", fix="check what listens there") from None
        if not self.complete and not self._head_done:
            self._count(len(piece))
        if not piece and not self.complete:
            framed = self.headers.keys() & {"content-length", "transfer-encoding"}
            if not self._head_done or framed:
                raise FetchFailed("the connection was closed within the answer", fix="try again")
            self.complete = True

    def body(self) -> bytes:
        """Return the body, inflated if need be. Raises FetchFailed."""
        coding = self.headers.get("content-encoding", "identity").strip().lower()
        if coding in ("", "identity"):
            return bytes(self._body)
        if coding not in ("gzip", "x-gzip"):
            raise FetchFailed("the answer has a content coding that was not asked for", fix="serve it as it is")
        inflater = zlib.decompressobj(_GZIP)
        try:
            inflated = inflater.decompress(self._body, self._max_bytes + 1)
        except zlib.error:
            raise FetchFailed("the answer says that it is gzip, and is not", fix="serve it as it is") from None
        if len(inflated) > self._max_bytes:
            raise self._too_large()
        if not inflater.eof or inflater.unused_data:
            raise FetchFailed("the answer's gzip is cut short, or more than one", fix="serve it as it is")
        return inflated

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head_done:  # a trailer says nothing that is read here (RFC 9110 §6.5.1)
            self._count(len(name) + len(value))
            return
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        if key in self.headers:
            if key in _SINGLE:
                raise FetchFailed("a header that says what the answer is stands there twice", fix="serve one")
            text = f"{self.headers[key]}, {text}"
        self.headers[key] = text

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status == 101:
            raise FetchFailed("the answer changes the protocol", fix="check what listens there")
        if status < 200:  # 100, 103: the answer itself is still to come
            self.headers.clear()
            return
        self.status = status
        self._head_done = True
        if int(self.headers.get("content-length", "0")) > self._max_bytes:  # digits: the parser refuses others
            raise self._too_large()

    def on_body(self, piece: bytes) -> None:
        if len(self._body) + len(piece) > self._max_bytes:
            raise self._too_large()
        self._body += piece

    def on_message_complete(self) -> None:
        self.complete = self._head_done

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            raise FetchFailed("the head of the answer is too large", fix="check what listens there")

    def _too_large(self) -> FetchFailed:
        return FetchFailed(f"the answer is larger than {self._max_bytes} bytes", fix="serve a smaller document")


class Wire:
    """A connection for one request; close it in any case."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, sock: socket.socket, name: str, tls: ssl.SSLContext | None) -> Wire:
        """Take over a connected socket; with `tls`, its peer proves to be `name`. Raises OSError."""
        opened = False
        try:
            streams = await asyncio.open_connection(
                sock=sock, ssl=tls, server_hostname=name if tls is not None else None, limit=_PIECE
            )
            opened = True
        finally:
            if not opened:
                sock.close()
        return cls(*streams)

    async def exchange(self, head: bytes, body: bytes, max_bytes: int) -> Answer:
        """Send a request and return its answer, once it is whole. Raises FetchFailed, OSError."""
        self._writer.write(head + body)
        answer = Answer(max_bytes)
        while not answer.complete:
            answer.feed(await self._reader.read(_PIECE))
        return answer

    def close(self) -> None:
        self._writer.transport.abort()


def request_head(method: str, authority: str, target: str, headers: Mapping[str, str], length: int) -> bytes:
    """Return the head of a request; what frames the message is written here alone."""
    lines = [
        f"{method} {target} HTTP/1.1",
        f"host: {authority}",
        "connection: close",
        "accept-encoding: identity",
        "user-agent: mcpgw",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    if length or method in ("POST", "PUT", "PATCH"):
        lines.append(f"content-length: {length}")
    return "\r\n".join([*lines, "", ""]).encode("ascii")
