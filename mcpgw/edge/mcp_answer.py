"""From the parts of an answer to the bytes an MCP client reads: one JSON object, or a stream of events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec

from mcpgw.domain import Part, PartKind, Verb
from mcpgw.edge.asgi import JSON, Message, Receive, Send, respond
from mcpgw.edge.mcp_consent import Told, not_asked
from mcpgw.edge.mcp_replay import Replay, one_line
from mcpgw.edge.mcp_request import McpRequest
from mcpgw.edge.mcp_sessions import Session
from mcpgw.edge.mcp_shown import shown_part
from mcpgw.edge.render import denied_result, envelope, is_tool_denial, jsonrpc_error, with_receipt
from mcpgw.errors import ClientGone, Denied, GatewayError, UnknownName, UnknownSession

_SSE = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]
_EMPTY = b"{}"
WATCHED_AFTER_S = 0.05
_KEEP_ALIVE = b": keep-alive\n\n"
_CANCELLED = b'"notifications/cancelled"'
# The protocol's own codes have a status of their own for modern clients; ours stand in errors.WIRE.
_MODERN_STATUS = {-32601: 404, -32700: 400, -32600: 400, -32602: 400, -32020: 400, -32021: 400, -32022: 400}
_split = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.encode


class Answer:
    """The answer to one request. `opened` turns true with the first byte of a stream."""

    def __init__(self, send: Send, request: McpRequest, session: Session | None) -> None:
        self.send = send
        self._request = request
        self.session = session
        self._id = request.id if request.id is not None else b"null"
        self.server: str | None = None
        self.over_several = False  # the endpoint; its clients know resources by other URIs than their server does
        self.name: str | None = None
        self.shown_name: str | None = request.name
        self.headers: list[tuple[bytes, bytes]] = []
        self.on_success: Callable[[Part], None] | None = None
        self.on_end: Callable[[], None] = _nothing
        self.opened = False
        self.ended = False
        self.rest: AsyncIterator[bytes] | None = None
        self._replay: Replay | None = None
        self._closed_early = False

    async def deliver(self, part: Part) -> None:
        """Send one part."""
        if self.rest is not None:
            await self._resume(self.rest)
        elif part.kind is PartKind.WHOLE:
            await self._whole(part)
        elif part.kind is PartKind.OPENED:
            await self._open()
        elif part.kind is PartKind.EVENT:
            if not self.opened:
                await self._open()
            if part.facts.get("closed") and self._replay is not None:
                await self._close_early()
            else:
                await self._event(self._relayed(part) if part.body else b"", more=True)
        else:
            if not self.opened:
                await self._open()
            self.ended = True
            await self._event(self._response(part) if part.body else b"", more=False)

    async def tell(self, said: Told) -> None:
        """Send what a caller is told who has to agree to something first."""
        self.ended = True
        message = envelope(self._id, said.member, said.raw)
        if self.opened:
            await self._event(message, more=False)
        else:
            await respond(self.send, said.status, message, [JSON, *self.headers])

    async def fail(self, error: GatewayError) -> None:
        """Send an error: as a status before the first byte, as the last event afterwards."""
        if self.ended:
            return
        self.ended = True
        if isinstance(error, UnknownSession) and self._request.modern:  # which has none, but the state of a call
            error = not_asked()
        if isinstance(error, UnknownName) and self.shown_name is not None:
            error.message = f"Unknown {_NOUNS.get(self._request.verb, 'name')}: {self.shown_name}"
        if isinstance(error, Denied) and is_tool_denial(error, self._request.verb):
            message = envelope(self._id, "result", denied_result(error, modern=self._request.modern))
            status = 200
        else:
            message = envelope(self._id, "error", jsonrpc_error(error))
            status = self._status(error)
        if self.opened:
            await self._event(b"" if isinstance(error, ClientGone) else message, more=False)
        elif self._request.id is None and status == 200:
            await respond(self.send, 202, b"", ())
        else:
            await respond(self.send, status, message, [JSON, *self.headers, *_retry_after(error)])

    def _status(self, error: GatewayError) -> int:
        protocols_own = -32768 <= error.wire.jsonrpc <= -32000
        if self._request.modern or not protocols_own or self._request.verb is Verb.INITIALIZE:
            return error.wire.status
        # A handshake-era client reads JSON-RPC errors from a 200, except for sessions and media.
        return 200 if error.code in {"invalid_params", "unknown_name", "method_not_found"} else error.wire.status

    async def _whole(self, part: Part) -> None:
        if part.error_code is None and self.on_success is not None:
            self.on_success(part)  # may refuse, which is still to be answered then
        self.ended = True
        if not part.body:
            # 202 is for messages; clients expect that a DELETE is done.
            status = 200 if self._request.verb is Verb.END_SESSION else 202
            await respond(self.send, status, b"", self.headers)
            return
        status = 200
        if part.error_code is not None and self._request.modern:
            status = _MODERN_STATUS.get(part.error_code, 200)
        if part.receipt is not None and (part.body == _EMPTY or part.error_code is not None):
            # The protocol wants some results empty, and an error is the server's own: their receipt goes beside them.
            receipt = part.receipt
            self.headers.append((b"mcpgw-receipt", f"{receipt.log}/{receipt.index}/{receipt.leaf}".encode()))
        await respond(self.send, status, self._response(part), [JSON, *self.headers])

    def _response(self, part: Part) -> bytes:
        body = part.body
        if self.over_several and self.server is not None:
            body = shown_part(self.server, self._request.verb, part)
        if part.error_code is not None:
            return envelope(self._id, "error", body)
        receipt = part.receipt if body != _EMPTY else None
        return envelope(self._id, "result", with_receipt(body, receipt, bare=part.bare))

    def _relayed(self, part: Part) -> bytes:
        """A request of the server gets an id of ours, by which the client answers it, and the server takes it back."""
        message, server = part.body, part.facts.get("server", self.server) or ""
        if self.over_several and self.server is not None:
            message = shown_part(self.server, self._request.verb, part)
        if self.session is None or (b'"id"' not in message and b'"requestId"' not in message):
            return message
        members = _split(message)
        if bytes(members.get("method", b"")) == _CANCELLED and "params" in members:
            params = _split(members["params"])
            known = self.session.shown(server, bytes(params.get("requestId", b"")))
            taken_back = params if known is None else {**params, "requestId": msgspec.Raw(known)}
            return _encode({**members, "params": taken_back})
        if "id" not in members or "method" not in members:
            return message
        shown = self.session.ask(server, bytes(members["id"]))
        return _encode({**members, "id": msgspec.Raw(shown)})

    async def _open(self) -> None:
        self.opened = True
        session = self.session
        if session is not None and session.resumable and self._request.verb is not Verb.STREAM:
            self._replay = session.replays.begin(self.server, self.name)
        first = self._replay.prime() if self._replay is not None else b""
        await self.send({"type": "http.response.start", "status": 200, "headers": [*_SSE, *self.headers]})
        await self.send({"type": "http.response.body", "body": first, "more_body": True})

    async def _resume(self, rest: AsyncIterator[bytes]) -> None:
        """Send a client that comes back the events that it has not seen, as long as their stream lasts."""
        self.opened = True
        await self.send({"type": "http.response.start", "status": 200, "headers": _SSE})
        async for event in rest:
            await self.send({"type": "http.response.body", "body": event, "more_body": True})
        self.ended = True
        await self.send({"type": "http.response.body", "body": b""})

    async def _close_early(self) -> None:
        """The server closed its stream for now: so does this one, and the client comes back for the rest."""
        if not self._closed_early:
            self._closed_early = True
            await self.send({"type": "http.response.body", "body": b""})

    async def _event(self, message: bytes, *, more: bool) -> None:
        if not message:
            body = _KEEP_ALIVE if more else b""
            if not more and self._replay is not None:
                self._replay.end()
        elif self._replay is not None:
            body = self._replay.add(message, last=not more)
        else:
            body = b"event: message\ndata: " + one_line(message) + b"\n\n"
        if not self._closed_early:
            await self.send({"type": "http.response.body", "body": body, "more_body": more})


class Watches:
    """Tells of clients that went away. Short calls, the many, pay for no task and no timer of their own."""

    def __init__(self) -> None:
        self._waiting: dict[DisconnectWatch, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, receive: Receive, gone: Callable[[], None]) -> DisconnectWatch:
        loop = asyncio.get_running_loop()
        watch = DisconnectWatch(self._waiting, receive, gone)
        self._waiting[watch] = loop.time() + WATCHED_AFTER_S
        if self._timer is None:
            self._timer = loop.call_later(WATCHED_AFTER_S, self._start_due)
        return watch

    def _start_due(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for watch in [w for w, due in self._waiting.items() if due <= now]:
            del self._waiting[watch]
            watch.start()
        self._timer = loop.call_later(WATCHED_AFTER_S, self._start_due) if self._waiting else None


class DisconnectWatch:
    """One client that is waited for."""

    __slots__ = ("_gone", "_receive", "_task", "_waiting")

    def __init__(self, waiting: dict[DisconnectWatch, float], receive: Receive, gone: Callable[[], None]) -> None:
        self._waiting = waiting
        self._receive = receive
        self._gone = gone
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._wait())

    async def _wait(self) -> None:
        message: Message = await self._receive()
        while message["type"] != "http.disconnect":
            message = await self._receive()
        self._gone()

    def close(self) -> None:
        self._waiting.pop(self, None)
        if self._task is not None:
            self._task.cancel()


_NOUNS = {
    Verb.TOOLS_CALL: "tool",
    Verb.TASKS_GET: "task",
    Verb.TASKS_UPDATE: "task",
    Verb.TASKS_CANCEL: "task",
    Verb.PROMPTS_GET: "prompt",
    Verb.RESOURCES_READ: "resource",
    Verb.RESOURCES_SUBSCRIBE: "resource",
    Verb.RESOURCES_UNSUBSCRIBE: "resource",
}


def _nothing() -> None:
    """Nothing to do."""


def _retry_after(error: GatewayError) -> list[tuple[bytes, bytes]]:
    if error.wire.status not in {429, 503}:
        return []
    seconds: Any = error.data.get("retry_after_s", 1)
    return [(b"retry-after", b"%d" % max(1, round(float(seconds))))]
