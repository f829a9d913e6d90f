"""Telling servers, in the background, that nobody waits for an answer any more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from mcpgw.errors import Cancelled, ClientGone, GatewayError, Killed, UpstreamTimeout, WorldMoved
from mcpgw.ports import Gate

MAX_FAREWELLS = 100  # on their way; one more is not sent: it is a courtesy


def last_word() -> None:
    """The gate of what may be said though no call stands behind it any more, also after a kill: that it is over."""


def patient(gate: Gate) -> Gate:
    """Return a gate for what is written although nobody waits any more; what else forbids it, forbids it."""

    def passed() -> None:
        try:
            gate()
        except (ClientGone, Cancelled, UpstreamTimeout):
            return

    return passed


class Farewells:
    """All that are on their way."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing: set[asyncio.Task[None]] = set()

    def say(self, send: Callable[[Gate], Awaitable[object]], gate: Gate, reason: BaseException | None) -> None:
        """Send through the call's own gate; after a kill, which let nothing more of the call go on, not at all."""
        if isinstance(reason, Killed) or len(self._tasks) >= MAX_FAREWELLS:
            return
        task = asyncio.get_running_loop().create_task(_said(send, patient(gate)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def let_go(self, closing: Coroutine[Any, Any, None]) -> None:
        """Let go of a call in the background. However many there are, each is."""
        task = asyncio.get_running_loop().create_task(closing, name="let go of a held call")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def aclose(self) -> None:
        """Wait until all calls are let go of, and drop the farewells that are still on their way."""
        await asyncio.gather(*self._closing)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _said(send: Callable[[Gate], Awaitable[object]], gate: Gate) -> None:
    try:
        await send(gate)
    except (GatewayError, WorldMoved):
        return  # the server finds out when it answers, or from the closed connection
