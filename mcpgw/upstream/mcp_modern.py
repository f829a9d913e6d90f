"""MCP over streamable HTTP as of 2026-07-28: every request stands alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from types import MappingProxyType
from typing import Any

import msgspec

from mcpgw.config import LimitsSection
from mcpgw.domain import Action, Part, PartKind, Verb
from mcpgw.errors import UpstreamFailed
from mcpgw.mirrored import encoded, headers_of, others
from mcpgw.task_ids import TASK_VERBS, TaskIds
from mcpgw.upstream.http import HttpClient, Response
from mcpgw.upstream.mcp_parts import (
    MODERN_VERSIONS,
    Asked,
    ListChanged,
    Message,
    Whole,
    modern_meta,
    params_of,
    read_message,
    request,
)
from mcpgw.upstream.mcp_tasks import addressed
from mcpgw.upstream.mcp_wire import (
    ACCEPT,
    ALIVE,
    JSON,
    Header,
    Sending,
    events,
    final,
    media_type,
    opened_late,
    refuses_credential,
    tell,
    unusable,
)

ERA = "modern"
_NAMED = frozenset({Verb.TOOLS_CALL, Verb.PROMPTS_GET, Verb.RESOURCES_READ})
# Errors that only a server of this era can make: HeaderMismatch, MissingRequiredClientCapability, and the one below.
_HEADER_MISMATCH = -32020
_MODERN_ERRORS = frozenset({_HEADER_MISMATCH, -32021})
_UNSUPPORTED_VERSION = -32022
# What says nothing about an era: the server, or something in front of it, is unwell or wants a credential.
_SAYS_NOTHING = frozenset({401, 403, 407, 408, 429})
_NOT_MCP = frozenset({"empty", "not_jsonrpc"})


class NotModern(Exception):
    """The server answered a modern request as only a server of the other era would; nothing was carried out."""

    def __init__(self, failure: UpstreamFailed) -> None:
        super().__init__(str(failure))
        self.failure = failure


class _Versions(msgspec.Struct, gc=False):
    supportedVersions: tuple[str, ...] = ()


class _Unsupported(msgspec.Struct, gc=False):
    supported: tuple[str, ...] = ()


class _ProbeError(msgspec.Struct, gc=False):
    code: int
    data: msgspec.Raw = msgspec.Raw()


_supported_by_result = msgspec.json.Decoder(_Versions).decode
_supported_by_error = msgspec.json.Decoder(_Unsupported).decode
_probe_error = msgspec.json.Decoder(_ProbeError).decode


class ModernWire:
    """Sends calls to servers of this era."""

    def __init__(
        self, http: HttpClient, limits: LimitsSection, on_list_changed: ListChanged, task_ids: TaskIds | None = None
    ) -> None:
        self._http = http
        self._limits = limits
        self._on_list_changed = on_list_changed
        self._task_ids = task_ids

    async def ask(self, sending: Sending) -> Whole | ModernStream:
        """Send a call. Raises NotModern besides what every upstream raises."""
        action = addressed(sending.judged) if sending.action.tasks else sending.action
        # The gateway itself asks either era what it is by `initialize`: here that is `server/discover`.
        verb = Verb.DISCOVER if action.verb is Verb.INITIALIZE else action.verb
        listens_as = action.forwarded.get("#id") if verb is Verb.LISTEN else None
        asked = Asked(verb, sending.server, ERA, client_id=listens_as, judged=sending.judged, task_ids=self._task_ids)
        client = action.client if action.client is not None and action.client.modern else None
        meta = modern_meta(client, action.client.meta if action.client is not None else b"{}")
        params = params_of(action, sending.judged.arguments.raw, meta)
        version = client.protocol_version if client is not None else MODERN_VERSIONS[-1]
        return await self.send(sending, asked, version, params)

    async def send(self, sending: Sending, asked: Asked, version: str, params: bytes) -> Whole | ModernStream:
        """Send a request whose parameters are written. Raises NotModern besides what every upstream raises."""
        response = await self._post(sending, asked, version, params, _mirrored(sending))
        taken = False
        try:
            exchange = await self._exchange(asked, response)
            taken = isinstance(exchange, ModernStream)
            return exchange
        finally:
            if not taken:
                await response.aclose()

    async def probe(self, sending: Sending) -> tuple[bool, tuple[str, ...]] | None:
        """Ask the server what it is; return whether it is of this era and the versions it named; None: it did not say.

        Raises UpstreamUnreachable, UpstreamTimeout, and what the gate raises.
        """
        asked = Asked(Verb.DISCOVER, sending.server, ERA)
        response = await self._post(sending, asked, MODERN_VERSIONS[-1], b'{"_meta":%b}' % modern_meta(None, b"{}"), [])
        try:
            if response.status in _SAYS_NOTHING or 300 <= response.status < 400 or response.status >= 500:
                return None
            try:
                if media_type(response) == b"text/event-stream":
                    return _verdict(asked, await final(response, asked, self._limits))
                return _verdict(asked, asked.read(await response.body()))
            except UpstreamFailed as failure:
                return (False, ()) if failure.data.get("cause") in _NOT_MCP else None
        finally:
            await response.aclose()

    async def _post(
        self, sending: Sending, asked: Asked, version: str, params: bytes, mirrored: list[Header]
    ) -> Response:
        headers = [
            JSON,
            ACCEPT,
            (b"mcp-protocol-version", version.encode()),
            (b"mcp-method", asked.verb.value.encode()),
            *mirrored,
            *sending.credential,
        ]
        body = request(asked.id, asked.verb.value, params)
        return await self._http.request(b"POST", sending.url, headers, body, sending.gate)

    async def _exchange(self, asked: Asked, response: Response) -> Whole | ModernStream:
        kind, status = media_type(response), response.status
        if kind == b"text/event-stream" and status == 200:
            return ModernStream(asked, response, self._limits, self._on_list_changed)
        is_answer = status == 200 or (400 <= status < 500 and not refuses_credential(response))
        if kind != b"application/json" or not is_answer:
            raise self._misfit(asked, response)
        data = await response.body()
        if status == 200:
            return Whole(asked.answer(asked.read(data), PartKind.WHOLE))
        message = read_message(data)
        if message is None or not message.error or not asked.is_answered_by(message):
            raise self._misfit(asked, response)
        part = asked.answer(message, PartKind.WHOLE, status)
        if part.error_code == _UNSUPPORTED_VERSION:
            raise NotModern(asked.failed("version", "does not support the protocol version of this call"))
        if part.error_code == _HEADER_MISMATCH and asked.verb is Verb.TOOLS_CALL:
            self._on_list_changed(asked.server, "tools")  # the schema that the headers were made from is another now
        return Whole(part)

    def _misfit(self, asked: Asked, response: Response) -> Exception:
        """A modern server refuses with an error that names our request; another 4xx may come from a legacy one."""
        failure = unusable(asked, response)
        if 400 <= response.status < 500 and response.status not in _SAYS_NOTHING:
            return NotModern(failure)
        return failure


class ModernWay:
    """Implements `Way`: a call of a handshake-era client that goes to a server of this era."""

    facts: Mapping[str, Any] = MappingProxyType({"upstream_status": 200, "era": ERA})

    def __init__(self, wire: ModernWire, sending: Sending) -> None:
        self.judged = sending.judged
        self.action = sending.action
        self.server = sending.server
        self.gate = sending.gate
        self._wire = wire
        self._sending = sending

    async def ask(self, asked: Asked, action: Action) -> Whole | ModernStream:
        client = action.client
        meta = modern_meta(client, client.meta if client is not None else b"{}")
        params = params_of(action, self.judged.arguments.raw, meta)
        return await self._wire.send(self._sending, asked, MODERN_VERSIONS[-1], params)


class ModernStream:
    """An answer that arrives as events. Letting go of it is the cancellation."""

    def __init__(self, asked: Asked, response: Response, limits: LimitsSection, on_list_changed: ListChanged) -> None:
        self._asked = asked
        self._response = response
        self._limits = limits
        self._on_list_changed = on_list_changed
        opened = Part(PartKind.OPENED, facts={"upstream_status": 200, "era": ERA})
        self._parts = opened_late(self._read(), opened, at_once=asked.verb is Verb.LISTEN)

    def __aiter__(self) -> AsyncIterator[Part]:
        return self._parts

    async def aclose(self, reason: BaseException | None) -> None:
        await self._parts.aclose()
        await self._response.aclose()

    async def _read(self) -> AsyncGenerator[Part, None]:
        asked, limits = self._asked, self._limits
        until = asyncio.get_running_loop().time() + limits.stream_s
        async with aclosing(events(self._response, limits, asked.server, until)) as arriving:
            async for event in arriving:
                if not event.data:
                    yield ALIVE
                    continue
                message = asked.read(event.data)
                if message.method is None:
                    yield asked.answer(message, PartKind.LAST)
                    return
                if message.has_id:
                    continue  # this era has no requests from servers
                tell(self._on_list_changed, asked.server, message)
                heard = asked.heard(message)
                if heard is not None:
                    yield asked.event(heard)
        raise asked.failed("cut", "ended its stream before the answer")


def _verdict(asked: Asked, message: Message) -> tuple[bool, tuple[str, ...]]:
    try:
        if message.error:
            error = _probe_error(message.error)
            if error.code == _UNSUPPORTED_VERSION:
                versions = _supported_by_error(error.data).supported if error.data else ()
                return bool(set(versions) & set(MODERN_VERSIONS)), versions
            return error.code in _MODERN_ERRORS, ()
        if not asked.is_answered_by(message):
            return False, ()
        versions = _supported_by_result(message.result).supportedVersions
    except msgspec.DecodeError:
        return False, ()
    return bool(set(versions) & set(MODERN_VERSIONS)), versions


def _mirrored(sending: Sending) -> list[Header]:
    """Return the headers that repeat the body: they must say what the judged body says."""
    judged, action = sending.judged, sending.action
    headers: list[Header] = []
    name = action.name if action.verb in _NAMED else action.tasks[0].id if action.verb in TASK_VERBS else None
    if name is not None:
        headers.append((b"mcp-name", encoded(name)))
    if action.verb is Verb.TOOLS_CALL:
        definition, client = judged.tool.definition if judged.tool is not None else b"", action.client
        headers += headers_of(definition, judged.arguments.raw)
        # What a redaction took out of the arguments may stand in any other header of the client's still.
        if client is not None and client.headers and judged.arguments.raw == action.arguments.raw:
            headers += others(definition, client.headers)
    return headers
