"""Which failed calls are made once more: those of tools that an administrator has marked, and never many at once.

A call that has failed may have taken effect. Only whoever knows the tool can say that twice is no worse than once; what
the server itself says of it (`idempotentHint`) is not trusted.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from mcpgw.domain import Action, ServerVersion, Verb
from mcpgw.errors import GatewayError, UpstreamFailed, UpstreamUnreachable
from mcpgw.ports import Clock

ALL = "*"
# What says that the connection, the session or the process was lost. Rubbish would be rubbish again, a server that is
# left alone stays so, and after a timeout the caller has waited long enough.
_PASSING = frozenset({None, "session_lost", "process_ended"})


@dataclass(frozen=True, slots=True)
class RetryLimits:
    """`most`: repetitions of one call; `per_s`: of all calls of one server, per worker; `pause_s`: before the first."""

    most: int = 2
    per_s: float = 5.0
    pause_s: float = 0.05


class Retries:
    """Repetitions of one worker. The budget of a server fills with time, up to one second's worth."""

    def __init__(
        self,
        clock: Clock,
        limits: RetryLimits | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._clock = clock
        self._limits = limits or RetryLimits()
        self._sleep = sleep
        self._spent: dict[str, tuple[float, float]] = {}

    def again(
        self, action: Action, version: ServerVersion | None, failure: GatewayError, repeated: int
    ) -> Action | None:
        """Return the child that repeats a failed call; None: it has failed for good.

        `repeated` counts the repetitions before. Nothing of an answer may have been delivered.
        """
        if repeated >= self._limits.most or version is None or not _repeatable(action, version, failure):
            return None
        if not self._affordable(version.server):
            return None
        return replace(action, id=self._clock.new_id(), parent=action.parent or action.id)

    async def pause(self, repeated: int) -> None:
        """Wait before a repetition, each time about twice as long; callers who failed together come back apart."""
        await self._sleep(self._limits.pause_s * 2**repeated * random.uniform(0.5, 1.5))  # noqa: S311 (no secret)

    def _affordable(self, server: str) -> bool:
        most = max(1.0, self._limits.per_s) if self._limits.per_s else 0.0
        now = self._clock.monotonic()
        left, since = self._spent.get(server, (most, now))
        left = min(most, left + (now - since) * self._limits.per_s)
        if left < 1.0:
            return False
        self._spent[server] = left - 1.0, now
        return True


def _repeatable(action: Action, version: ServerVersion, failure: GatewayError) -> bool:
    marked = version.idempotent
    if action.verb is not Verb.TOOLS_CALL or not marked or not (action.name in marked or ALL in marked):
        return False
    return isinstance(failure, UpstreamUnreachable | UpstreamFailed) and failure.data.get("cause") in _PASSING
