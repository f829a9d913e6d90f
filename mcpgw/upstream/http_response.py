"""The answer to one request, as far as it has arrived, and who waits for the rest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from mcpgw.config import LimitsSection
from mcpgw.errors import GatewayError, UpstreamFailed

if TYPE_CHECKING:
    from mcpgw.upstream.http_wire import Connection

HIGH_WATER_BYTES = 262_144  # what is read ahead of a reader of chunks
MAY_HAVE_TAKEN_EFFECT = "the request was sent and may have taken effect: do not repeat it blindly"


class Response:
    """The answer to one request. Read it by `body` or by `chunks`, and always `aclose` it.

    `headers` are by lower-case name; of a name that came several times the values are joined with a comma.
    """

    __slots__ = (
        "_connection",
        "_limits",
        "_loop",
        "_started",
        "_waiter",
        "complete",
        "failure",
        "headers",
        "pieces",
        "room",
        "size",
        "status",
        "whole",
    )

    def __init__(
        self, connection: Connection, loop: asyncio.AbstractEventLoop, limits: LimitsSection, started: float
    ) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        # Between connection and reader:
        self.pieces: list[bytes] = []
        self.size = 0
        self.room = HIGH_WATER_BYTES
        self.whole = self.complete = False
        self.failure: GatewayError | None = None
        self._connection = connection
        self._loop = loop
        self._limits = limits
        self._started = started
        self._waiter: asyncio.Future[None] | None = None

    async def begun(self) -> None:
        """Return when the headers are there. Raises UpstreamFailed, UpstreamTimeout."""
        while not self.status or self.failure:
            await self._more(None)

    async def body(self, max_bytes: int | None = None) -> bytes:
        """Return the whole body, of at most `limits.result_bytes`, or fewer.

        Raises UpstreamFailed (cut, malformed, too large), UpstreamTimeout after `limits.call_s`.
        """
        self.room = min(self._limits.result_bytes, max_bytes or self._limits.result_bytes)
        self.whole = True
        if max(self.size, int(self.headers.get(b"content-length", b"0"))) > self.room:
            self._abandon()
            raise UpstreamFailed(
                f"the upstream sent an answer of more than {self.room} bytes", fix=MAY_HAVE_TAKEN_EFFECT
            )
        while not self.complete:
            await self._more(self._started + self._limits.call_s)
        return self._take()

    async def chunks(self, idle_s: float | None = None) -> AsyncIterator[bytes]:
        """Yield the body as it arrives; a reader that is slow slows the upstream down.

        Raises UpstreamFailed when it is cut, UpstreamTimeout after `idle_s` (None: `limits.stream_idle_s`) of silence.
        """
        silence_s = idle_s or self._limits.stream_idle_s
        while self.pieces or not self.complete:
            if self.pieces:
                yield self._take()
            else:
                await self._more(self._loop.time() + silence_s)

    async def aclose(self) -> None:
        """Let go: an unfinished answer's connection is closed at once, so that the upstream sees it."""
        self._abandon()

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _take(self) -> bytes:
        pieces, self.pieces, self.size = self.pieces, [], 0
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _more(self, deadline: float | None) -> None:
        if self.failure is not None:
            raise self.failure
        if deadline is not None:
            self._connection.listen(deadline)
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        except asyncio.CancelledError:
            self._abandon()
            raise
        finally:
            self._waiter = None

    def _abandon(self) -> None:
        if not self.complete and self.failure is None:
            self.failure = UpstreamFailed("the answer was given up before its end")
            self._connection.abandon(self)
