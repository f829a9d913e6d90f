"""What several servers behind one endpoint can do together, list together, and are told of together."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

from mcpgw.domain import Action, Era, Judged, Part, PartKind, ServerVersion, Verb
from mcpgw.errors import GatewayError, InvalidParams
from mcpgw.ports import Capabilities, Exchange
from mcpgw.task_ids import EXTENSION
from mcpgw.upstream.mcp_parts import Whole
from mcpgw.upstream.merged import AT_ONCE, MEMBER, MergedLists

log = logging.getLogger("mcpgw.aggregate")

TOGETHER = frozenset({*MEMBER, Verb.SET_LEVEL})
_LEVELS = frozenset({"debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"})
# Of a server that has not said what it can do: announced and missing costs an empty list, the reverse the whole server.
_UNSAID = Capabilities(era=Era.UNKNOWN, prompts=True, resources=True, subscribe=True, completions=True, logging=True)

SessionsOf = Callable[[str], frozenset[str]]
"""Return the servers with which something is open for a session of a client."""


class Aggregate:
    """Answers for several servers at once what no server is asked alone."""

    def __init__(self, lists: MergedLists, sessions_of: SessionsOf) -> None:
        self._lists = lists
        self._sessions_of = sessions_of

    async def capabilities(self, judged: Judged) -> dict[str, Any]:
        """Return what the server can do, or any of those that the caller sees; none of them is waited for."""
        one = judged.version
        seen = [one] if one is not None else await self._lists.sight.now(judged.principal, judged.action)
        able = [self._lists.capabilities.known(version) or _UNSAID for version in seen]
        found: dict[str, Any] = {"tools": {"listChanged": True}}
        if any(one.prompts for one in able):
            found["prompts"] = {"listChanged": True}
        if any(one.resources for one in able):
            found["resources"] = {"listChanged": True, "subscribe": any(one.subscribe for one in able)}
        if any(one.completions for one in able):
            found["completions"] = {}
        if any(one.logging for one in able):
            found["logging"] = {}
        client = judged.action.client
        if client is not None and client.modern and any(one.tasks for one in able):
            found["extensions"] = {EXTENSION: {}}
        return found

    async def carry_out(self, judged: Judged) -> Exchange:
        """Answer what is in TOGETHER."""
        if judged.action.verb is Verb.SET_LEVEL:
            await self._set_level(judged)
            return Whole(Part(PartKind.WHOLE, b"{}"))
        return self._lists.of(judged)

    async def _set_level(self, judged: Judged) -> None:
        """Tell the servers that the session is open with; those that it comes to use later are told then."""
        action = judged.action
        level = json.loads(action.forwarded.get("level", b"null"))
        if not isinstance(level, str) or level not in _LEVELS:
            raise InvalidParams("unknown log level", fix=f"one of: {', '.join(sorted(_LEVELS))}")
        opened = self._sessions_of(action.session or "")
        seen = await self._lists.sight.now(judged.principal, action)
        room = asyncio.Semaphore(AT_ONCE)

        async def tell(version: ServerVersion) -> None:
            async with room:
                await self._tell(action, version)

        told = [asyncio.create_task(tell(version)) for version in seen if version.server in opened]
        try:
            await asyncio.gather(*told)
        finally:
            for task in told:
                task.cancel()
            await asyncio.gather(*told, return_exceptions=True)

    async def _tell(self, action: Action, version: ServerVersion) -> None:
        able = self._lists.capabilities.known(version)
        if able is not None and not able.logging:
            return
        child = self._lists.children.of(action, Verb.SET_LEVEL, version.server, action.forwarded)
        try:
            await self._lists.children.carry_out(child, _ignored, self._lists.within_s)
        except GatewayError as error:
            log.info("%s was not told of a log level: %s", version.server, error)


async def _ignored(part: Part) -> None:
    """A server that takes no level goes on as it was."""
