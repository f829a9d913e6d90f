"""One attempt at a time at what many callers need."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from mcpgw.errors import UpstreamFailed, UpstreamTimeout, UpstreamUnreachable

T = TypeVar("T")


class Flights(Generic[T]):
    """Attempts under way, by key.

    Whoever comes while one is under way shares its outcome. An attempt that its own caller ended (cancelled, refused
    by the gate) says nothing about the upstream: the next in line makes its own.
    """

    def __init__(self) -> None:
        self._flying: dict[Hashable, asyncio.Future[T]] = {}

    async def join(self, key: Hashable, attempt: Callable[[], Awaitable[T]]) -> T:
        """Return the outcome of the attempt under way, or of a new one."""
        while (flying := self._flying.get(key)) is not None:
            await asyncio.wait((flying,))  # not `await flying`: a waiter that is cancelled must not cancel it
            if flying.cancelled():
                continue
            failure = flying.exception()
            if isinstance(failure, UpstreamFailed | UpstreamUnreachable | UpstreamTimeout):
                # Each call has its own error: the journal puts a receipt on it.
                raise type(failure)(failure.message, fix=failure.fix, data=failure.data)
            return flying.result()
        flying = self._flying[key] = asyncio.get_running_loop().create_future()
        try:
            outcome = await attempt()
        except (UpstreamFailed, UpstreamUnreachable, UpstreamTimeout) as error:
            flying.set_exception(error)
            flying.exception()  # seen here: nobody else may be waiting
            raise
        except BaseException:
            flying.cancel()
            raise
        finally:
            del self._flying[key]
        flying.set_result(outcome)
        return outcome
