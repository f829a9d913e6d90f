"""The gateway's own catalogue as an upstream: lists from the pins, handshakes for all servers together."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from mcpgw import __version__
from mcpgw.domain import CALL_TOOL, FIND_TOOL, Judged, Part, PartKind, Permit, Selection, Verb
from mcpgw.errors import MethodNotFound
from mcpgw.ports import Exchange, Gate
from mcpgw.upstream.aggregate import TOGETHER, Aggregate
from mcpgw.upstream.own_tools import OwnTools
from mcpgw.upstream.streams import Streams

MODERN_VERSION = "2026-07-28"
_ACCEPTED = frozenset(
    {Verb.INITIALIZED, Verb.CANCELLED, Verb.PROGRESS, Verb.ROOTS_CHANGED, Verb.END_SESSION, Verb.RESUME}
)


class OneAnswer:
    """An exchange whose whole answer is known."""

    def __init__(self, part: Part) -> None:
        self._part = part

    async def __aiter__(self) -> AsyncIterator[Part]:
        yield self._part

    async def aclose(self, reason: BaseException | None) -> None:
        """Nothing to let go."""


class OwnUpstream:
    """Answers what the gateway itself knows."""

    def __init__(self, streams: Streams, tools: OwnTools, aggregate: Aggregate) -> None:
        self._streams = streams
        self._tools = tools
        self._aggregate = aggregate

    async def send(self, permit: Permit, credential: Mapping[str, str], gate: Gate) -> Exchange:
        judged = permit.judged
        action = judged.action
        gate()
        if action.verb in {Verb.STREAM, Verb.LISTEN}:
            return self._streams.open(judged, None)
        if action.server is None and action.verb in TOGETHER:
            return await self._aggregate.carry_out(judged)
        if action.verb in {Verb.INITIALIZE, Verb.DISCOVER}:
            return OneAnswer(Part(PartKind.WHOLE, _greeting(judged, await self._aggregate.capabilities(judged))))
        if judged.visible is not None:
            if action.verb is Verb.TOOLS_LIST:
                return OneAnswer(self._tools.listed(action, judged.visible))
            return OneAnswer(await self._tools.found(action, judged.visible))
        return OneAnswer(Part(PartKind.WHOLE, _answer(action.verb)))


def _answer(verb: Verb) -> bytes:
    if verb is Verb.PING:
        return b"{}"
    if verb in _ACCEPTED:
        return b""
    raise MethodNotFound(
        f"{verb.value} is not offered over several servers together", fix="use /mcp/{server} of one server"
    )


def _greeting(judged: Judged, capabilities: Mapping[str, Any]) -> bytes:
    client, version = judged.action.client, judged.version
    instructions = _instructions(judged.selection) if version is None else _CONNECTED.format(version.server)
    if judged.action.verb is Verb.INITIALIZE:
        return _dumped(
            {
                "protocolVersion": client.protocol_version if client is not None else "",
                "capabilities": capabilities,
                "serverInfo": _SERVER_INFO,
                "instructions": instructions,
            }
        )
    return _dumped(
        {
            "resultType": "complete",
            "supportedVersions": [MODERN_VERSION],
            "capabilities": capabilities,
            "instructions": instructions,
            "ttlMs": 0,
            "cacheScope": "private",
            "_meta": {"io.modelcontextprotocol/serverInfo": _SERVER_INFO},
        }
    )


_SERVER_INFO = {"name": "mcpgw", "version": __version__}
_INSTRUCTIONS = "Tools of several servers, named {server}__{tool}. What you may not use is not listed."
_CONNECTED = "The server {} is called in the name of its user, who agrees to that in a browser once."
_SEARCHED = f"Many tools of several servers: find one with {FIND_TOOL}, then call it with {CALL_TOOL}."


def _instructions(selection: Selection | None) -> str:
    own = selection.toolset.instructions if selection is not None and selection.toolset is not None else ""
    return own or (_SEARCHED if selection is not None and selection.search else _INSTRUCTIONS)


def _dumped(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
