"""Group commit: many waiters, one `fdatasync`."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


class GroupCommit:
    """Makes durable what was written before each `wait`.

    While one sync runs the next waiters gather, and the following sync serves them all; none waits for company, so
    the delay is at most the rest of one sync and the next. `flush` returns the work of one sync; it is asked for on
    the loop, which the writer lives on, and the work is done by one thread.
    """

    def __init__(self, flush: Callable[[], Callable[[], None]], failed: Callable[[str], None]) -> None:
        self._flush = flush
        self._failed = failed
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="audit-sync")
        self._waiting: list[asyncio.Future[None]] = []
        self._running = False

    async def wait(self) -> None:
        """Return once everything written before is on the disk. Raises OSError."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        if not self._running:
            self._start()
        await waiter

    def close(self) -> None:
        """Let a sync that is running end."""
        self._thread.shutdown()

    def _start(self) -> None:
        self._running = True
        waiting, self._waiting = self._waiting, []
        sync = asyncio.get_running_loop().run_in_executor(self._thread, self._flush())
        sync.add_done_callback(lambda done: self._done(done, waiting))

    def _done(self, sync: asyncio.Future[None], waiting: list[asyncio.Future[None]]) -> None:
        self._running = False
        error = OSError(errno.ECANCELED, "cancelled") if sync.cancelled() else sync.exception()
        if error is not None:
            self._failed(f"a sync of its file failed: {error}")
        for waiter in waiting:
            if waiter.done():
                continue
            if error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(error)
        if self._waiting:
            self._start()
