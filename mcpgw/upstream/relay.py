"""Passing a request on, raw, to the worker that must handle it, over that worker's Unix socket."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from mcpgw.config import LimitsSection
from mcpgw.errors import UpstreamFailed
from mcpgw.upstream.http import HttpClient, Response, Url

_SOURCE = b"x-mcpgw-source"
_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"transfer-encoding",
        b"content-length",
        b"te",
        b"upgrade",
        b"expect",
        b"host",
        _SOURCE,
    }
)
Message = MutableMapping[str, Any]


class SocketRelay:
    """Relays to workers of this machine."""

    def __init__(self, client: HttpClient, socket_of: Callable[[int], Path], limits: LimitsSection) -> None:
        self._client = client
        self._socket_of = socket_of
        self._first_byte_s = limits.call_s + limits.connect_s

    async def __call__(
        self,
        worker: int,
        scope: MutableMapping[str, Any],
        body: bytes,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        """Send the request as it came, and its answer as it arrives; a client that goes away ends both."""
        url = Url.unix(str(self._socket_of(worker)), scope["raw_path"].decode("latin-1"))
        headers = [(n, v) for n, v in scope["headers"] if n not in _HOP_BY_HOP and n != b"accept-encoding"]
        if scope.get("client"):
            headers.append((_SOURCE, scope["client"][0].encode()))
        task = asyncio.current_task()
        watch = asyncio.create_task(_until_gone(receive), name="watch a relayed request's client")
        watch.add_done_callback(lambda done: task.cancel() if task and not done.cancelled() else None)
        response: Response | None = None
        try:
            response = await self._client.request(
                scope["method"].encode(), url, headers, body, _open, first_byte_s=self._first_byte_s
            )
            await send({"type": "http.response.start", "status": response.status, "headers": _kept(response)})
            async for chunk in response.chunks():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        except asyncio.CancelledError:
            if not watch.done() or task is None:
                raise
            task.uncancel()
            raise UpstreamFailed("the client went away") from None
        finally:
            watch.cancel()
            if response is not None:
                await response.aclose()


async def _until_gone(receive: Callable[[], Awaitable[Message]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue


def _open() -> None:
    """The gate of a relay: the request has not been handled yet, and will meet its own."""


def _kept(response: Response) -> Sequence[tuple[bytes, bytes]]:
    return [(n, v) for n, v in response.headers.items() if n not in _HOP_BY_HOP]
