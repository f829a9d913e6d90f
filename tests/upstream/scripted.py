"""MCP servers that do what a test says, byte by byte, behind a real socket."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.fixtures.raw_http import Peer, answer, serve

STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it came."""

    method: str
    headers: dict[str, str]
    body: bytes
    target: str = ""

    @property
    def message(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body) if self.body else {}
        return found

    @property
    def verb(self) -> str:
        """The JSON-RPC method, or the HTTP method where there is none; `answer` for a response."""
        message = self.message
        return str(message.get("method", "answer")) if message else self.method

    @property
    def params(self) -> dict[str, Any]:
        found: dict[str, Any] = self.message.get("params", {})
        return found

    @property
    def id(self) -> Any:
        return self.message.get("id")

    @classmethod
    def of(cls, request: bytes) -> Asked:
        head, _, body = request.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        method, target, _ = first.split()
        return cls(method, headers, body, target)


def plain(text: str) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": text}]}


def reply(asked: Asked, result: Any, *headers: bytes) -> bytes:
    """Return a JSON answer with this result."""
    body = json.dumps({"jsonrpc": "2.0", "id": asked.id, "result": result}).encode()
    return answer(body, b"content-type: application/json", *headers)


def refusal(code: int, message: str = "no", *, id: Any = None, status: bytes = b"400 Bad Request") -> bytes:
    body = json.dumps({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": message}}).encode()
    return answer(body, b"content-type: application/json", status=status)


def event(message: Any, *lines: str) -> bytes:
    """Return one event of a stream as a chunk; `lines` stand before its data."""
    text = "".join(f"{line}\n" for line in lines)
    data = message if isinstance(message, str) else json.dumps(message)
    block = f"{text}data: {data}\n\n".encode()
    return b"%x\r\n%b\r\n" % (len(block), block)


def said(method: str, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "method": method, "params": params}


def result_of(asked: Asked, result: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": asked.id, "result": result}


ACCEPTED = answer(b"", status=b"202 Accepted")
Handler = Callable[[Asked, Peer], Awaitable[bytes | None]]
"""Returns the answer, or writes it to the peer itself and returns None."""


@dataclass
class Scripted:
    """A server that is listening, and all that it was asked."""

    url: str
    asked: list[Asked] = field(default_factory=list)

    @property
    def verbs(self) -> list[str]:
        return [a.verb for a in self.asked]

    def of(self, verb: str) -> list[Asked]:
        return [a for a in self.asked if a.verb == verb]


@asynccontextmanager
async def scripted(handler: Handler) -> AsyncIterator[Scripted]:
    found = Scripted("")

    async def script(peer: Peer) -> None:
        while request := await peer.request():
            asked = Asked.of(request)
            found.asked.append(asked)
            reply = await handler(asked, peer)
            if reply is not None:
                await peer.write(reply)

    async with serve(script) as server:
        found.url = server.url
        yield found


class Handshaking:
    """A server of the handshake era: grants a session, and gives every other verb to `handlers`."""

    def __init__(self, version: str = "2025-11-25", session: str | None = "session-1", **handlers: Handler) -> None:
        self.version = version
        self.session = session
        self.opened = 0
        self.handlers = {name.replace("_", "/", 1): handler for name, handler in handlers.items()}

    async def __call__(self, asked: Asked, peer: Peer) -> bytes | None:
        handler = self.handlers.get(asked.verb)
        if handler is not None:
            return await handler(asked, peer)
        if asked.verb == "initialize":
            self.opened += 1
            result = {
                "protocolVersion": self.version,
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "scripted", "version": "1"},
            }
            headers = [b"mcp-session-id: %b" % self.session.encode()] if self.session else []
            return reply(asked, result, *headers)
        if "id" not in asked.message or asked.verb == "answer":
            return ACCEPTED
        if asked.verb == "server/discover":
            return refusal(-32600, "Bad Request: Missing session ID")
        return reply(asked, plain(asked.params.get("name", "")))
