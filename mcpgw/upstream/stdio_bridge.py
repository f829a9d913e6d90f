"""Between a caller and a server process of different generations of the protocol.

A process has one session, which is the gateway's, and asks nothing of clients; so the translation is plain.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw

from mcpgw.domain import Action, Part, PartKind, Verb
from mcpgw.errors import EraCrossing, MethodNotAllowed, MethodNotFound
from mcpgw.upstream.mcp_parts import (
    CLIENT_INFO,
    LEGACY_VERSIONS,
    MODERN_VERSIONS,
    SERVER_INFO,
    Asked,
    Message,
    encode,
    members,
    modern_meta,
    notification,
    params_of,
)

# What a shared session cannot offer: log messages and updates that belong to no call reach nobody.
_NOT_SHARED = ("logging", "tasks")
_CACHEABLE = frozenset(
    {
        Verb.TOOLS_LIST,
        Verb.PROMPTS_LIST,
        Verb.RESOURCES_LIST,
        Verb.RESOURCE_TEMPLATES_LIST,
        Verb.RESOURCES_READ,
    }
)
_MODERN_MEMBERS = ("resultType", "ttlMs", "cacheScope")
_OLD_NOT_FOUND = -32002  # resource not found, until 2025-11-25


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Greeting:
    """What a process told of itself at its start; capabilities and info are raw objects, instructions a raw string."""

    modern: bool
    version: str
    capabilities: bytes = b"{}"
    info: bytes = b"{}"
    instructions: bytes | None = None

    @property
    def era(self) -> str:
        return "modern" if self.modern else "legacy"


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
    return Greeting(
        modern=bool(modern),
        version=modern[-1] if modern else result.protocolVersion,
        capabilities=_shared(capabilities),
        info=bytes(result.meta.get(SERVER_INFO, b"{}") if modern else result.serverInfo),
        instructions=None if result.instructions is None else encode(result.instructions),
    )


def _shared(capabilities: dict[str, Any]) -> bytes:
    for name in _NOT_SHARED:
        capabilities.pop(name, None)
    if "resources" in capabilities:
        resources = members(capabilities["resources"])
        resources.pop("subscribe", None)
        capabilities["resources"] = resources
    return encode(capabilities)


def greet(found: Greeting, action: Action) -> bytes:
    """Return the result of a caller's own `initialize` or `server/discover`, in its generation."""
    client = action.client
    result: dict[str, Any] = {"capabilities": Raw(found.capabilities)}
    if found.instructions is not None:
        result["instructions"] = Raw(found.instructions)
    if client.modern if client is not None else found.modern:
        modern = {"resultType": "complete", "supportedVersions": MODERN_VERSIONS, "ttlMs": 0, "cacheScope": "private"}
        return encode({**result, **modern, "_meta": {SERVER_INFO: Raw(found.info)}})
    asked = client.protocol_version if client is not None else LEGACY_VERSIONS[-1]
    known = asked if asked in LEGACY_VERSIONS else LEGACY_VERSIONS[-1]
    version = known if found.modern else min(known, found.version)
    return encode({"protocolVersion": version, **result, "serverInfo": Raw(found.info)})


def initialize_params() -> bytes:
    return b'{"protocolVersion":%b,"capabilities":{},"clientInfo":%b}' % (encode(LEGACY_VERSIONS[-1]), CLIENT_INFO)


def refuse(found: Greeting, action: Action, server: str) -> None:
    """Raise for what a shared process does not offer in the caller's generation."""
    if action.verb is Verb.STREAM:
        raise MethodNotAllowed(f"`{server}` offers no stream of its own")
    if action.verb in {Verb.SET_LEVEL, Verb.RESOURCES_SUBSCRIBE, Verb.RESOURCES_UNSUBSCRIBE}:
        raise MethodNotFound(f"`{server}` is one process for all callers: it does not offer {action.verb.value}")
    if action.verb is Verb.LISTEN and not found.modern:
        raise EraCrossing(
            f"`{server}` speaks {found.version} only: the translation of subscriptions is missing",
            fix="list again now and then",
            data={"supported": [found.version]},
        )


def call_params(found: Greeting, action: Action, arguments: bytes, own_id: int) -> tuple[bytes, bytes | None]:
    """Return the `params` of a call, and the caller's own progress token, raw, if it has one.

    Tokens of different callers may be equal, so upstream ours stands in their place.
    """
    client = action.client
    meta: Mapping[str, Any] = members(client.meta) if client is not None else {}
    token = meta.get("progressToken")
    if token is not None:
        meta = {**meta, "progressToken": own_id}
    raw = encode(meta)
    if found.modern:
        modern_client = client if client is not None and client.modern else None
        raw = modern_meta(modern_client, raw)
    params = params_of(action, arguments, raw if raw != b"{}" else b"")
    return params, None if token is None else bytes(token)


def own_token(event: Message, token: bytes) -> Message:
    """Return a progress notification with the caller's own token."""
    params = members(event.params)
    params["progressToken"] = Raw(token)
    raw = encode(params)
    return Message(notification(event.method or "", raw), method=event.method, params=raw)


def answer(found: Greeting, action: Action, asked: Asked, part: Part) -> Part:
    """Return the answer of a process in the caller's generation."""
    client = action.client
    if client is None or client.modern == found.modern:
        return part
    if part.error_code is not None:
        if part.error_code != _OLD_NOT_FOUND or not client.modern:
            return part
        error: dict[str, Any] = {**members(part.body), "code": -32602}
        return dataclasses.replace(part, body=encode(error), error_code=-32602)
    result: dict[str, Any] = members(part.body)
    if client.modern:
        result.setdefault("resultType", "complete")
        if action.verb in _CACHEABLE:
            result.setdefault("ttlMs", 0)
            result.setdefault("cacheScope", "private")
        return dataclasses.replace(part, body=encode(result))
    if bytes(result.get("resultType", b'"complete"')) != b'"complete"':
        raise asked.failed("not_complete", "asks for input that a client of 2025-11-25 and before cannot give here")
    for name in _MODERN_MEMBERS:
        result.pop(name, None)
    return dataclasses.replace(part, body=encode(result))


def answered_here(found: Greeting, action: Action) -> Part | None:
    """Return the answer to what the process is not asked, because it has told already; None for anything else."""
    facts = {"era": found.era}
    if action.verb in {Verb.INITIALIZE, Verb.DISCOVER}:
        return Part(PartKind.WHOLE, greet(found, action), facts=facts)
    if action.verb is Verb.PING:
        return Part(PartKind.WHOLE, b"{}", facts=facts)
    return None
