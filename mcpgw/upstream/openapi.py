"""REST APIs as MCP servers: the operations of a document in the operator's configuration are the tools."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from mcpgw import __version__
from mcpgw.domain import Judged, Part, PartKind, Permit, ServerVersion, ToolPin, Verb
from mcpgw.errors import Internal, MethodNotAllowed, MethodNotFound, Quarantined, UpstreamUnreachable
from mcpgw.openapi_section import OpenApiServer
from mcpgw.ports import Exchange, Gate
from mcpgw.upstream.greeting import Greeting, answered_by
from mcpgw.upstream.http import HttpClient
from mcpgw.upstream.mcp_parts import MODERN_VERSIONS, NOTIFICATIONS, Whole, accepted
from mcpgw.upstream.openapi_answer import ERA, result_of, told
from mcpgw.upstream.openapi_document import Document
from mcpgw.upstream.openapi_problem import Problem, Unusable
from mcpgw.upstream.openapi_request import Header, request_of
from mcpgw.upstream.openapi_styles import Unfit
from mcpgw.upstream.openapi_tools import Tool, tools_of

log = logging.getLogger("mcpgw.openapi")
Pin = Callable[[bytes], ToolPin]
"""Return the pin of a tool definition, as the registry makes it."""
_NOBODY_TO_TELL = NOTIFICATIONS | {Verb.ANSWER, Verb.END_SESSION}
_USER_AGENT: Header = (b"user-agent", f"mcpgw/{__version__}".encode())
_decode = msgspec.json.Decoder().decode


def problems(entry: OpenApiServer) -> Sequence[Problem]:
    """Return everything that is wrong with the document of an entry."""
    try:
        _, found = tools_of(_document(entry), entry)
    except Unusable as error:
        return [error.problem]
    return found


def _document(entry: OpenApiServer) -> Document:
    return Document.load(Path(entry.document).expanduser())


class OpenApiServers:
    """Implements `ports.Upstream` for servers with Transport.OPENAPI.

    What the protocol asks of a server is answered here, in the generation of whoever asks; a tool call becomes one
    HTTP request. A call goes out only as the operation that was pinned: when a document has changed, what the registry
    holds of it is refused until a version of the new one is active.
    """

    def __init__(self, entries: Sequence[OpenApiServer], http: HttpClient, pin: Pin) -> None:
        self._http = http
        self._apis = {entry.name: Api(entry, pin) for entry in entries}

    async def send(self, permit: Permit, credential: Mapping[str, str], gate: Gate) -> Exchange:
        judged = permit.judged
        action, version = judged.action, judged.version
        if version is None:
            raise Internal("a call without a server version reached the OpenAPI upstream")
        api = self._apis.get(version.endpoint)
        if api is None:
            raise UpstreamUnreachable(
                f"`{version.endpoint}` is not declared in the operator's configuration",
                fix="add it to registry.openapi",
            )
        if action.verb is Verb.TOOLS_CALL:
            return await self._call(api, judged, credential, gate)
        if action.verb in _NOBODY_TO_TELL:
            return accepted(era=ERA)
        if action.verb in {Verb.STREAM, Verb.LISTEN}:
            raise MethodNotAllowed(f"`{version.server}` offers no stream of its own")
        if action.verb is Verb.TOOLS_LIST:
            tools = b",".join(tool.definition for tool in await api.offered())
            return _whole(b'{"tools":[%b]}' % tools)
        known = answered_by(_greeting(api.entry, version), action, exclusive=False)
        if known is None:
            raise MethodNotFound(f"`{version.server}` is a REST API: it has tools alone")
        return _whole(known)

    async def _call(self, api: Api, judged: Judged, credential: Mapping[str, str], gate: Gate) -> Exchange:
        action, raw = judged.action, judged.arguments.raw
        tool = await api.pinned(judged)
        flaws = tool.inputs.flaws(raw, _decode(raw))
        if flaws:
            return Whole(told(action, "\n- ".join(["The arguments do not fit, so nothing was sent:", *flaws])))
        try:
            outgoing = request_of(tool, raw)
        except Unfit as error:
            return Whole(told(action, f"The arguments do not fit, so nothing was sent: {error}"))
        headers = [*outgoing.headers, *((k.encode("latin-1"), v.encode("latin-1")) for k, v in credential.items())]
        if all(name != _USER_AGENT[0] for name, _ in headers):
            headers.append(_USER_AGENT)
        response = await self._http.request(outgoing.method, outgoing.url, headers, outgoing.body, gate)
        try:
            body = await response.body(api.entry.max_response_bytes)
        finally:
            await response.aclose()
        return Whole(result_of(action, tool, response, body))


class Api:
    """One entry of the configuration, with the tools of its document as last read."""

    def __init__(self, entry: OpenApiServer, pin: Pin) -> None:
        self.entry = entry
        self._pin = pin
        self._read = _Read()
        self._reading = asyncio.Lock()

    async def offered(self) -> Sequence[Tool]:
        """Return the tools of the document as it is now. Raises UpstreamUnreachable when it cannot be used."""
        await self._refresh()
        if self._read.is_broken:
            raise UpstreamUnreachable(
                f"the document of `{self.entry.name}` cannot be used", fix="the operator runs: mcpgw check-config"
            )
        return [tool for tool, _ in self._read.tools.values()]

    async def pinned(self, judged: Judged) -> Tool:
        """Return the tool that was judged. Raises Quarantined when the document has another one, or none."""
        wanted = judged.tool
        if wanted is None:
            raise Internal("a call without a pinned tool reached the OpenAPI upstream")
        found = self._read.tools.get(wanted.name)
        if found is None or found[1] != wanted.sha256:
            await self._refresh()
            found = self._read.tools.get(wanted.name)
        if found is None or found[1] != wanted.sha256:
            raise Quarantined(
                f"tool `{wanted.name}` of `{self.entry.name}` is not what was approved: its document has changed",
                fix=f"an administrator compares and approves: mcpgw servers publish {self.entry.name}",
            )
        return found[0]

    async def _refresh(self) -> None:
        """Read the document, unless it is the file that was read last."""
        async with self._reading:
            self._read = await asyncio.to_thread(_refreshed, self._read, self.entry, self._pin)


@dataclass(frozen=True, slots=True)
class _Read:
    """What was read of a document, and of which file: inode, size and time of change. `tools` are with their digests.

    Of a file that `is_broken` the tools of the one before remain: what was pinned of them is known still.
    """

    file: tuple[int, int, int] | None = None
    tools: Mapping[str, tuple[Tool, str]] = field(default_factory=dict)
    is_broken: bool = True


def _refreshed(held: _Read, entry: OpenApiServer, pin: Pin) -> _Read:
    try:
        status = os.stat(Path(entry.document).expanduser())
        file = (status.st_ino, status.st_size, status.st_mtime_ns)
    except OSError:
        file = None
    if file is not None and file == held.file:
        return held
    try:
        tools, left_out = tools_of(_document(entry), entry)
    except Unusable as error:
        problem = error.problem
        log.warning("openapi %s: %s#%s %s", entry.name, entry.document, problem.where, problem.message)
        return _Read(file, held.tools, is_broken=True)
    if left_out:
        log.warning("openapi %s: %d operations are not offered: mcpgw check-config says why", entry.name, len(left_out))
    return _Read(file, {tool.name: (tool, pin(tool.definition).sha256) for tool in tools}, is_broken=False)


def _greeting(entry: OpenApiServer, version: ServerVersion) -> Greeting:
    info = {"name": entry.name, "title": entry.title or entry.name, "version": version.version}
    return Greeting(
        modern=True, version=MODERN_VERSIONS[-1], capabilities=b'{"tools":{}}', info=json.dumps(info).encode()
    )


def _whole(result: bytes) -> Whole:
    return Whole(Part(PartKind.WHOLE, result, facts={"era": ERA}))
