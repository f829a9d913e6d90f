"""Calls of handshake-era clients on their way to a process that speaks 2026-07-28."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any

from mcpgw.domain import Action, Judged, Verb
from mcpgw.ports import Gate
from mcpgw.upstream.framed import Framed
from mcpgw.upstream.greeting import Live
from mcpgw.upstream.holding import Turn
from mcpgw.upstream.mcp_modern import NotModern
from mcpgw.upstream.mcp_parts import Asked

_TOLD_ALREADY = frozenset({Verb.INITIALIZE, Verb.PING})


class FramedWay:
    """Implements `Way`. `live` returns the process that stands for the server now, started if need be."""

    facts: Mapping[str, Any] = MappingProxyType({"era": "modern"})

    def __init__(self, framed: Framed, judged: Judged, gate: Gate, live: Callable[[], Awaitable[Live]]) -> None:
        self.judged = judged
        self.action = judged.action
        self.server = judged.version.server if judged.version is not None else ""
        self.gate = gate
        self.live = live
        self._framed = framed

    def crosses(self, live: Live) -> bool:
        """Whether this call has to be carried across to be understood, and can be."""
        client, verb = self.action.client, self.action.verb
        if client is None or client.modern or not live.greeting.modern or verb in _TOLD_ALREADY:
            return False
        return live.exclusive or verb is not Verb.SET_LEVEL  # log messages of a shared process would reach nobody

    async def ask(self, asked: Asked, action: Action) -> Turn:
        live = await self.live()
        if not live.greeting.modern:
            raise NotModern(asked.failed("version", "does not speak 2026-07-28 any more"))
        return await self._framed.ask(live, self.judged, self.gate, asked, action)
