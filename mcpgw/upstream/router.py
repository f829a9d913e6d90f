"""Which upstream a permit is for."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from mcpgw.domain import (
    OWN_UNTIL_CONNECTED,
    OWN_VERBS,
    Action,
    AuthMode,
    Judged,
    Part,
    PartKind,
    Permit,
    Route,
    ServerVersion,
    Transport,
    Verb,
)
from mcpgw.errors import EraCrossing, MethodNotAllowed, UpstreamFailed
from mcpgw.ports import Exchange, Gate, Upstream
from mcpgw.upstream.own import OwnUpstream
from mcpgw.upstream.streams import Streams

_HANDSHAKES = frozenset({Verb.INITIALIZE, Verb.DISCOVER})
_SUBSCRIPTIONS = frozenset({Verb.RESOURCES_SUBSCRIBE, Verb.RESOURCES_UNSUBSCRIBE})
_ADDED_TO = _HANDSHAKES | _SUBSCRIPTIONS | {Verb.STREAM, Verb.LISTEN}


Ask = Callable[[], Awaitable[Exchange]]


class Router:
    """Implements `ports.Upstream` over all of them."""

    def __init__(
        self,
        *,
        own: OwnUpstream,
        streams: Streams,
        http: Upstream,
        sse: Upstream,
        stdio: Upstream,
        openapi: Upstream,
        llm: Upstream,
    ) -> None:
        self._own = own
        self._streams = streams
        self._servers = {
            Transport.HTTP: http,
            Transport.SSE: sse,
            Transport.STDIO: stdio,
            Transport.OPENAPI: openapi,
        }
        self._llm = llm

    async def send(self, permit: Permit, credential: Mapping[str, str], gate: Gate) -> Exchange:
        if permit.spent:
            raise UpstreamFailed("a permit was used twice")

        def sending() -> None:
            gate()
            permit.spent.append(True)  # the first byte leaves in this very step

        action, version = permit.judged.action, permit.judged.version
        if action.route is Route.LLM:
            return await self._llm.send(permit, credential, sending)
        if version is None or (action.verb in OWN_UNTIL_CONNECTED and _is_own(action, version)):
            return await self._own.send(permit, credential, sending)
        server = self._servers[version.transport]
        if action.verb in _ADDED_TO and action.route is not Route.SYSTEM:
            return await self._added_to(permit.judged, version, partial(server.send, permit, credential, sending))
        return await server.send(permit, credential, sending)

    async def _added_to(self, judged: Judged, version: ServerVersion, send: Ask) -> Exchange:
        """Send what the gateway has something of its own to add to."""
        action = judged.action
        if action.verb in _HANDSHAKES:
            return _Handshake(await send())
        if action.verb in _SUBSCRIPTIONS:
            over_several = action.toolset is not None or action.resource == "/mcp"
            return await (self._streams.subscribing(action, send) if over_several else send())
        if action.parent is not None:
            return await send()  # it stands behind a stream of the gateway's already
        inner: Exchange | None
        try:
            inner = await send()
        except (MethodNotAllowed, EraCrossing):
            inner = None
        return self._streams.open(judged, inner)


def _is_own(action: Action, version: ServerVersion) -> bool:
    """Whether the gateway answers this itself; the server is asked it by the gateway alone."""
    if action.route is Route.SYSTEM:
        return False
    return action.verb in OWN_VERBS or (version.auth is not None and version.auth.mode is AuthMode.USER)


class _Handshake:
    """A server's handshake, saying too that the gateway tells when the list of tools changes."""

    def __init__(self, inner: Exchange) -> None:
        self._inner = inner

    async def __aiter__(self) -> AsyncIterator[Part]:
        async for part in self._inner:
            if part.kind in (PartKind.WHOLE, PartKind.LAST) and part.error_code is None:
                yield dataclasses.replace(part, body=_with_list_changed(part.body))
            else:
                yield part

    async def aclose(self, reason: BaseException | None) -> None:
        await self._inner.aclose(reason)


def _with_list_changed(body: bytes) -> bytes:
    result: dict[str, Any] = json.loads(body)
    capabilities = result.get("capabilities")
    if isinstance(capabilities, dict) and isinstance(capabilities.get("tools"), dict):
        capabilities["tools"]["listChanged"] = True
    return json.dumps(result, ensure_ascii=False, separators=(",", ":")).encode()
