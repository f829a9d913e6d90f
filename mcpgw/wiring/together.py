"""What several servers are asked together with: in whose name, what they can do, and how their names are shown."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from mcpgw.capabilities import LearntCapabilities
from mcpgw.children import BoardChildren
from mcpgw.domain import ServerVersion, Transport
from mcpgw.edge.mcp_prompts import PromptNames
from mcpgw.edge.mcp_shown import ShownNames
from mcpgw.pipeline import Gateway
from mcpgw.ports import Clock
from mcpgw.running import Board
from mcpgw.watches import ListWatches


class Together:
    """The parts of one worker. `leads`: it is the one that speaks to processes.

    `on_list_changed` is told which list of which server may have changed unheard.
    """

    def __init__(
        self,
        board: Board,
        clock: Clock,
        *,
        leads: bool,
        on_list_changed: Callable[[str, str], None],
    ) -> None:
        def reaches(version: ServerVersion) -> bool:
            return leads or version.transport is not Transport.STDIO

        self.children = BoardChildren(board, clock)
        self.capabilities = LearntCapabilities(clock, reaches)
        self.watches = ListWatches(clock, self.capabilities, reaches, on_list_changed)
        self.prompts = PromptNames()
        self.shown = ShownNames(self.prompts)

    def serve(self, gateway: Gateway) -> Gateway:
        """Ask through this gateway, whose upstreams are made of these parts, and return it."""
        self.children.serve(gateway)
        self.capabilities.serve(gateway)
        self.watches.serve(gateway)
        return gateway

    async def aclose(self) -> None:
        await asyncio.gather(self.watches.aclose(), self.capabilities.aclose())
