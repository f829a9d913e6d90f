"""Which upstream a permit is for."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from mcpgw.domain import Part, PartKind, Permit, Route, Transport, Verb
from mcpgw.errors import EraCrossing, MethodNotAllowed, UpstreamFailed
from mcpgw.ports import Exchange, Gate, Upstream
from mcpgw.upstream.own import OwnUpstream

# What the gateway answers itself, whatever server the endpoint names.
_OWN = frozenset({Verb.PING, Verb.INITIALIZED, Verb.CANCELLED, Verb.TOOLS_LIST, Verb.RESUME})
_HANDSHAKES = frozenset({Verb.INITIALIZE, Verb.DISCOVER})


class Router:
    """Implements `ports.Upstream` over all of them."""

    def __init__(self, *, own: OwnUpstream, http: Upstream, stdio: Upstream, llm: Upstream) -> None:
        self._own = own
        self._http = http
        self._stdio = stdio
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
        if version is None or (action.verb in _OWN and action.route is not Route.SYSTEM):
            return await self._own.send(permit, credential, sending)
        server = self._http if version.transport is Transport.HTTP else self._stdio
        if action.verb is Verb.STREAM or (action.verb is Verb.LISTEN and version.transport is Transport.STDIO):
            try:
                inner = await server.send(permit, credential, sending)
            except (MethodNotAllowed, EraCrossing):
                inner = None
            return self._own.stream(permit.judged, inner)
        exchange = await server.send(permit, credential, sending)
        if action.verb is Verb.LISTEN:
            return self._own.stream(permit.judged, exchange)
        if action.verb in _HANDSHAKES and action.route is not Route.SYSTEM:
            return _Handshake(exchange)
        return exchange


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
