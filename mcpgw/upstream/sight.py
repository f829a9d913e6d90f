"""What callers see, as the verdict has it: the questions of those who answer for several servers at once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from mcpgw.domain import Action, Listing, Principal, ServerVersion
from mcpgw.ports import World


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """`current` is the world now; `tools` and `servers` are what a caller sees of an action's endpoint in a world."""

    current: Callable[[], World]
    tools: Callable[[World, Principal, Action], Awaitable[Listing]]
    servers: Callable[[World, Principal, Action], Awaitable[Sequence[ServerVersion]]]

    async def now(self, who: Principal, action: Action) -> Sequence[ServerVersion]:
        """Return the servers that a caller sees now."""
        return await self.servers(self.current(), who, action)
