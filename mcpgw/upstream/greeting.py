"""How a connection that carries many calls begins: what the server is told of its client, and tells of itself."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import msgspec
from msgspec import Raw

from mcpgw.domain import Action, ClientFacts, Judged, Kind, Verb
from mcpgw.ports import Gate
from mcpgw.upstream.frames import Frames
from mcpgw.upstream.mcp_for_modern_questions import SUSPENDABLE, declared
from mcpgw.upstream.mcp_parts import (
    CLIENT_INFO,
    LEGACY_VERSIONS,
    MODERN_VERSIONS,
    SERVER_INFO,
    Message,
    encode,
    members,
)
from mcpgw.upstream.mcp_sessions import handshake
from mcpgw.upstream.mcp_tasks import without_tasks
from mcpgw.upstream.mcp_translate import legacy_handshake

_NOT_BRIDGED = ("tasks",)
# Clients come over streamable HTTP, which no revision before this one has; it adds to those, and takes nothing away.
_STREAMABLE_SINCE = "2025-03-26"
# What callers that share a connection cannot be offered: log messages name no call.
_NOT_SHARED = ("logging",)
# Which capability a client declares for which request that a server may make of it.
_CAPABILITY = {"elicitation/create": "elicitation", "sampling/createMessage": "sampling", "roots/list": "roots"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Greeting:
    """What a server told of itself at the start; capabilities and info are raw objects, instructions a raw string."""

    modern: bool
    version: str
    capabilities: bytes = b"{}"
    info: bytes = b"{}"
    instructions: bytes | None = None

    @property
    def era(self) -> str:
        return "modern" if self.modern else "legacy"


@dataclasses.dataclass(frozen=True, slots=True)
class Hello:
    """What a server is told at the start: the `params` of `initialize`, and whether that is tried before discovery."""

    params: bytes
    legacy_first: bool = False


class Link(Protocol):
    """A connection to a server that carries frames: one JSON-RPC message each."""

    @property
    def name(self) -> str: ...

    @property
    def frames(self) -> Frames: ...

    async def write(self, frame: bytes, gate: Gate, request_id: int = 0) -> None:
        """Write one frame, which holds the request of this id, if any; `gate` is called in the step that writes it.

        Raises UpstreamUnreachable when nothing was written, UpstreamFailed, and what `gate` raises.
        """
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Live:
    """A connection whose two sides have greeted each other. `exclusive`: one client has it for itself."""

    link: Link
    greeting: Greeting
    exclusive: bool = False

    def offers(self, capability: str) -> bool:
        """Whether its client can use this capability of a server of the handshake era."""
        return self.exclusive and not self.greeting.modern and capability in members(self.greeting.capabilities)

    def hears(self, judged: Judged, client: ClientFacts | None) -> bool:
        """Whether what belongs to no call goes to this call's client, of whom the server is told so."""
        if client is None or not self._is_for_client_of(judged):
            return False
        return not client.modern or client.log_level is not None

    def asks(self, judged: Judged) -> frozenset[str]:
        """Return the requests that the server may make of the client of this call."""
        client = judged.action.client
        if client is None or self.greeting.modern or not self._is_for_client_of(judged):
            return frozenset()
        if client.modern and judged.action.verb not in SUSPENDABLE:
            return frozenset()
        try:
            can = members(client.capabilities)
        except msgspec.DecodeError:
            return frozenset()
        return frozenset(method for method, capability in _CAPABILITY.items() if capability in can)

    def _is_for_client_of(self, judged: Judged) -> bool:
        """Whether the connection is one client's own, and it is that one who asks: not the gateway itself."""
        return self.exclusive and judged.principal.kind is not Kind.SYSTEM


class _Greeted(msgspec.Struct, gc=False):
    """A result of `initialize`, or of `server/discover`."""

    protocolVersion: str = ""
    supportedVersions: tuple[str, ...] = ()
    capabilities: Raw = Raw(b"{}")
    serverInfo: Raw = Raw(b"{}")
    instructions: str | None = None
    meta: dict[str, Raw] = msgspec.field(name="_meta", default_factory=dict)


_greeted = msgspec.json.Decoder(_Greeted).decode


def greeting(message: Message) -> Greeting | None:
    """Return what an answer to `server/discover` or `initialize` says; None when it is not such an answer."""
    try:
        result = _greeted(message.result) if message.result else None
        if result is None:
            return None
        capabilities: dict[str, Any] = members(result.capabilities)
    except msgspec.DecodeError:
        return None
    modern = [v for v in MODERN_VERSIONS if v in result.supportedVersions]
    if not modern and result.protocolVersion not in LEGACY_VERSIONS:
        return None
    bridged = encode({name: raw for name, raw in capabilities.items() if name not in _NOT_BRIDGED})
    return Greeting(
        modern=bool(modern),
        version=modern[-1] if modern else result.protocolVersion,
        capabilities=bridged if modern else without_tasks(bridged),
        info=bytes(result.meta.get(SERVER_INFO, b"{}") if modern else result.serverInfo),
        instructions=None if result.instructions is None else encode(result.instructions),
    )


def hello(action: Action | None, *, alone: bool = True) -> Hello:
    """Return how to greet a server in the name of the client behind `action`; None: of nobody in particular.

    `alone`: no other session will use the connection, so that its client's own generation is the best.
    """
    client = action.client if action is not None else None
    if action is not None and client is not None and not client.modern:
        return Hello(handshake(action), legacy_first=alone)
    capabilities, info = b"{}", CLIENT_INFO
    if client is not None:
        capabilities, info = declared(client), client.info if client.info != b"{}" else CLIENT_INFO
    version = encode(LEGACY_VERSIONS[-1])
    return Hello(b'{"protocolVersion":%b,"capabilities":%b,"clientInfo":%b}' % (version, capabilities, info))


def greet(found: Greeting, action: Action, *, exclusive: bool) -> bytes:
    """Return the result of a caller's own `initialize` or `server/discover`, in its generation."""
    client = action.client
    modern = client.modern if client is not None else found.modern
    result: dict[str, Any] = {"capabilities": _offered(found, exclusive=exclusive)}
    if found.instructions is not None:
        result["instructions"] = Raw(found.instructions)
    if modern:
        envelope = {"resultType": "complete", "supportedVersions": MODERN_VERSIONS, "ttlMs": 0, "cacheScope": "private"}
        return encode({**result, **envelope, "_meta": {SERVER_INFO: Raw(found.info)}})
    asked = client.protocol_version if client is not None else LEGACY_VERSIONS[-1]
    known = asked if asked in LEGACY_VERSIONS else LEGACY_VERSIONS[-1]
    if found.modern:
        return legacy_handshake(encode({**result, "_meta": {SERVER_INFO: Raw(found.info)}}), known, action.server or "")
    version = max(min(known, found.version), _STREAMABLE_SINCE)
    return encode({"protocolVersion": version, **result, "serverInfo": Raw(found.info)})


def answered_by(found: Greeting, action: Action, *, exclusive: bool) -> bytes | None:
    """Return the result of what the server is not asked, because it has told already; None for anything else."""
    if action.verb in {Verb.INITIALIZE, Verb.DISCOVER}:
        return greet(found, action, exclusive=exclusive)
    return b"{}" if action.verb is Verb.PING else None


def _offered(found: Greeting, *, exclusive: bool) -> dict[str, Any]:
    capabilities: dict[str, Any] = members(found.capabilities)
    if exclusive:
        return capabilities
    for name in _NOT_SHARED:
        capabilities.pop(name, None)
    if "resources" in capabilities and not found.modern:  # a modern server names the subscription in what it tells
        resources = members(capabilities["resources"])
        resources.pop("subscribe", None)
        capabilities["resources"] = resources
    return capabilities
