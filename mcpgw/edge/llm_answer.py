"""From the parts of a completion to the bytes that a client of OpenAI's API reads."""

from __future__ import annotations

from typing import Any

import msgspec

from mcpgw.domain import Part, PartKind, Receipt
from mcpgw.edge.asgi import JSON, Send, respond
from mcpgw.errors import GatewayError, UnknownName

Header = tuple[bytes, bytes]
SHOWN = 128

_SSE: list[Header] = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]


class CompletionAnswer:
    """The answer to one request.

    `shown` is the model as the caller named it. With `without_usage`, an event that holds nothing but the usage stays
    here: the gateway asked for it, the caller did not.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self.headers: list[Header] = []
        self.shown = ""
        self.without_usage = False
        self._opened = False
        self._ended = False

    async def deliver(self, part: Part) -> None:
        """Send one part, its bytes unchanged."""
        if part.kind is PartKind.WHOLE:
            self._ended = True
            await respond(self._send, part.status, part.body, [JSON, *self.headers, *_receipt(part.receipt)])
            return
        if not self._opened:
            self._opened = True
            await self._send({"type": "http.response.start", "status": 200, "headers": [*_SSE, *self.headers]})
        if part.kind is PartKind.LAST:
            self._ended = True
            # The head has left long ago, and readers of events skip comments.
            receipt = b"".join(b": %b: %b\n\n" % header for header in _receipt(part.receipt))
            await self._send({"type": "http.response.body", "body": receipt + part.body, "more_body": False})
        elif not (self.without_usage and part.facts.get("usage_only")):
            await self._send({"type": "http.response.body", "body": part.body, "more_body": True})

    async def fail(self, error: GatewayError) -> None:
        """Send an error: as a status before the first byte, as the last event afterwards."""
        if self._ended:
            return
        self._ended = True
        if isinstance(error, UnknownName):
            error.message = f"Unknown model: {self.shown[:SHOWN]}"  # not as the provider knows it
        body = openai_error(error)
        if self._opened:
            await self._send({"type": "http.response.body", "body": b"data: %b\n\n" % body, "more_body": False})
            return
        headers = [JSON, *self.headers, *_receipt(error.receipt)]
        if error.wire.status in {429, 503}:
            seconds = float(error.data.get("retry_after_s", 1))
            headers.append((b"retry-after", b"%d" % max(1, round(seconds))))
        await respond(self._send, error.wire.status, body, headers)


def openai_error(error: GatewayError) -> bytes:
    """Return OpenAI's error object. Its `data` is ours: the kill switch, the deciding rule."""
    known: dict[str, Any] = {k: v for k, v in error.data.items() if k not in {"scope", "param"}}
    told: dict[str, Any] = {
        "message": str(error),
        "type": error.wire.llm_type,
        "code": error.code,
        "param": error.data.get("param"),
    }
    if known:
        told["data"] = known
    return msgspec.json.encode({"error": told})


def _receipt(receipt: Receipt | None) -> list[Header]:
    if receipt is None:
        return []
    return [(b"mcpgw-receipt", f"{receipt.log}/{receipt.index}/{receipt.leaf}".encode())]
