"""Waiting for what nobody announces."""

from __future__ import annotations

from collections.abc import Callable

import anyio

POLL_S = 0.005


async def eventually(right: Callable[[], object], within_s: float = 5.0) -> None:
    """Return when something is so that other tasks, or another process, bring about. Raises TimeoutError."""
    with anyio.fail_after(within_s):
        while not right():
            await anyio.sleep(POLL_S)
