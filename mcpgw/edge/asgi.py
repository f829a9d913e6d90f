"""The little of ASGI that the two fast edges need: headers once as a mapping, a bounded body, one answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any

from mcpgw.config import LimitsSection
from mcpgw.errors import ClientGone, RequestTimeout, TooLarge

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = Mapping[str, str]

HEADERS = "mcpgw.headers"
"""Scope key under which the guard leaves the request's headers, by lower-case name."""
BODY = "mcpgw.body"
"""Scope key of a body that is there as a whole; `receive` has it too."""
KNOWN = "mcpgw.known"
"""Scope key of a mapping that outlives the request: what follows from its head alone, for all equal heads."""
RELAYED = "mcpgw.relayed"
"""Scope key that the listener of a worker's Unix socket sets: another worker passed this request on."""
SOURCE = "x-mcpgw-source"
"""Header in which a relaying worker names the caller's address; believed on a relayed request alone."""
JSON = (b"content-type", b"application/json")


async def body_of(scope: Scope, receive: Receive, limits: LimitsSection) -> bytes:
    """Return the request's body, as `read_body` does; nearly always all of it has come with the head."""
    whole: bytes | None = scope.get(BODY)
    if whole is not None and len(whole) <= limits.body_bytes:
        return whole
    return await read_body(receive, limits.body_bytes, limits.body_read_s)


async def read_body(receive: Receive, limit: int, within_s: float) -> bytes:
    """Return the request's body. Raises TooLarge, RequestTimeout (it came too slowly) and ClientGone."""
    deadline = _Deadline(within_s)
    try:
        message = await receive()
        parts = [_part(message, limit)]
        while message.get("more_body"):
            message = await receive()
            limit -= len(parts[-1])
            parts.append(_part(message, limit))
        return b"".join(parts)
    except asyncio.CancelledError:
        if deadline.passed():
            raise RequestTimeout(f"the request body did not arrive within {within_s:g} s", fix="send faster") from None
        raise
    finally:
        deadline.close()


def _part(message: Message, limit: int) -> bytes:
    if message["type"] == "http.disconnect":
        raise ClientGone("the client went away before its request was complete")
    body: bytes = message.get("body", b"")
    if len(body) > limit:
        raise TooLarge("the request body is larger than limits.body_bytes", fix="send less, or raise the limit")
    return body


class _Deadline:
    """Cancels the current task when time is up: `asyncio.timeout` at a quarter of its cost."""

    __slots__ = ("_fired", "_task", "_timer")

    def __init__(self, within_s: float) -> None:
        self._fired = False
        self._task = asyncio.current_task()
        self._timer = asyncio.get_running_loop().call_later(within_s, self._fire)

    def _fire(self) -> None:
        self._fired = True
        if self._task is not None:
            self._task.cancel()

    def passed(self) -> bool:
        """Say whether this deadline, and nothing else, cancelled the task; to be asked once, on CancelledError."""
        return self._fired and self._task is not None and self._task.uncancel() == 0

    def close(self) -> None:
        self._timer.cancel()


async def respond(send: Send, status: int, body: bytes, headers: Sequence[tuple[bytes, bytes]] = (JSON,)) -> None:
    """Send one whole answer."""
    framed = [*headers, (b"content-length", b"%d" % len(body))]
    at_once: Callable[[int, Sequence[tuple[bytes, bytes]], bytes], None] | None = getattr(send, "whole", None)
    if at_once is not None:
        at_once(status, framed, body)
        return
    await send({"type": "http.response.start", "status": status, "headers": framed})
    await send({"type": "http.response.body", "body": body})
