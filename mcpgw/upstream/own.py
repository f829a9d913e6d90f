"""The gateway's own catalogue as an upstream: lists from the pins, handshakes for all servers together, its streams."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from mcpgw import __version__
from mcpgw.domain import Action, Judged, Part, PartKind, Permit, Principal, ServerVersion, ToolPin, Verb
from mcpgw.errors import MethodNotFound
from mcpgw.ports import Exchange, Gate, World

KEEP_ALIVE_S = 15.0
MODERN_VERSION = "2026-07-28"
_ACCEPTED = frozenset(
    {Verb.INITIALIZED, Verb.CANCELLED, Verb.PROGRESS, Verb.ROOTS_CHANGED, Verb.END_SESSION, Verb.RESUME}
)
_SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"
Visible = tuple[tuple[ServerVersion, ToolPin], ...]
PrefixedTool = Callable[[ServerVersion, ToolPin], bytes]
"""Return the canonical definition of a tool under its name on the endpoint over all servers."""


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

    def __init__(self, notices: Notices, prefixed: PrefixedTool) -> None:
        self._notices = notices
        self._prefixed = prefixed

    async def send(self, permit: Permit, credential: Mapping[str, str], gate: Gate) -> Exchange:
        judged = permit.judged
        action = judged.action
        gate()
        if action.verb in {Verb.STREAM, Verb.LISTEN}:
            return self.stream(judged, None)
        return OneAnswer(Part(PartKind.WHOLE, self._answer(judged)))

    def stream(self, judged: Judged, inner: Exchange | None) -> Exchange:
        """Return a stream of the gateway's own notices, and of a server's where there is one."""
        return OwnStream(judged, self._notices, inner)

    def _answer(self, judged: Judged) -> bytes:
        action = judged.action
        modern = action.client is not None and action.client.modern
        if action.verb is Verb.TOOLS_LIST:
            return self._tools(judged.visible, prefixed=action.server is None, modern=modern)
        if action.verb is Verb.INITIALIZE:
            return _dumped(
                {
                    "protocolVersion": action.client.protocol_version if action.client else "",
                    "capabilities": {"tools": {"listChanged": True}},
                    "serverInfo": _SERVER_INFO,
                    "instructions": _INSTRUCTIONS,
                }
            )
        if action.verb is Verb.DISCOVER:
            return _dumped(
                {
                    "resultType": "complete",
                    "supportedVersions": [MODERN_VERSION],
                    "capabilities": {"tools": {"listChanged": True}},
                    "instructions": _INSTRUCTIONS,
                    "ttlMs": 0,
                    "cacheScope": "private",
                    "_meta": {"io.modelcontextprotocol/serverInfo": _SERVER_INFO},
                }
            )
        if action.verb is Verb.PING:
            return b"{}"
        if action.verb in _ACCEPTED:
            return b""
        raise MethodNotFound(
            f"{action.verb.value} is not offered over all servers together", fix="use /mcp/{server} of one server"
        )

    def _tools(self, visible: Visible, *, prefixed: bool, modern: bool) -> bytes:
        tools = b",".join(self._prefixed(version, tool) if prefixed else tool.definition for version, tool in visible)
        if modern:
            # Filtered by this caller's policy, and a kill must not outlive itself in a cache.
            return b'{"resultType":"complete","tools":[%b],"ttlMs":0,"cacheScope":"private"}' % tools
        return b'{"tools":[%b]}' % tools


class Notices:
    """Tells open streams when the tools that their caller may see have changed: a kill, a policy, a version."""

    def __init__(self, visible: Callable[[World, Principal, Action], Awaitable[Visible]]) -> None:
        self._visible = visible
        self._streams: set[OwnStream] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, stream: OwnStream) -> None:
        self._streams.add(stream)

    def drop(self, stream: OwnStream) -> None:
        self._streams.discard(stream)

    def world_changed(self, old: World, new: World) -> None:
        """Compare, off the swap, what each stream's caller sees in the two worlds."""
        if self._streams:
            task = asyncio.get_running_loop().create_task(self._compare(old, new))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _compare(self, old: World, new: World) -> None:
        for stream in list(self._streams):
            before = await self._visible(old, stream.who, stream.action)
            after = await self._visible(new, stream.who, stream.action)
            if [t.sha256 for _, t in before] != [t.sha256 for _, t in after]:
                stream.notify("tools")

    def server_said(self, server: str, kind: str) -> None:
        """A server reported that a list of its changed; `kind` is tools, prompts or resources."""
        for stream in list(self._streams):
            if stream.action.server == server and not stream.relays:
                stream.notify(kind)


class OwnStream:
    """An open stream: the gateway's notices, merged with a server's own stream."""

    def __init__(self, judged: Judged, notices: Notices, inner: Exchange | None) -> None:
        self.action = judged.action
        self.who = judged.principal
        self.relays = inner is not None
        self._inner = inner
        self._notices = notices
        self._queue: asyncio.Queue[Part | BaseException] = asyncio.Queue(maxsize=1000)
        self._pump: asyncio.Task[None] | None = None
        self._listen_id = judged.action.forwarded.get("#id") if judged.action.verb is Verb.LISTEN else None
        self._wanted = _wanted(judged.action)
        if inner is None:
            notices.add(self)

    def notify(self, kind: str) -> None:
        if kind not in self._wanted or self._queue.full():
            return
        params = f',"params":{{"_meta":{self._tagged()}}}' if self._listen_id is not None else ""
        message = f'{{"jsonrpc":"2.0","method":"notifications/{kind}/list_changed"{params}}}'
        self._queue.put_nowait(Part(PartKind.EVENT, message.encode()))

    def _tagged(self) -> str:
        return f'{{"{_SUBSCRIPTION}":{(self._listen_id or b"null").decode()}}}'

    async def __aiter__(self) -> AsyncIterator[Part]:
        yield Part(PartKind.OPENED)
        if self._inner is not None:
            self._pump = asyncio.create_task(self._relay(self._inner), name="relay a server's stream")
        elif self._listen_id is not None:
            yield Part(PartKind.EVENT, self._acknowledged())
        while True:
            try:
                async with asyncio.timeout(KEEP_ALIVE_S):
                    item = await self._queue.get()
            except TimeoutError:
                item = Part(PartKind.EVENT)
            if isinstance(item, BaseException):
                raise item
            yield item
            if item.kind is PartKind.LAST:
                return

    def _acknowledged(self) -> bytes:
        honoured = {f"{kind}ListChanged": True for kind in sorted(self._wanted)}
        return (
            '{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"notifications":'
            f'{json.dumps(honoured)},"_meta":{self._tagged()}}}}}'
        ).encode()

    async def _relay(self, inner: Exchange) -> None:
        try:
            async for part in inner:
                if part.kind is not PartKind.OPENED:
                    await self._queue.put(part)
                    self._notices.add(self)  # a server's acknowledgement comes before any notice of ours
        except Exception as error:  # noqa: BLE001 - handed to the reader of the stream, which raises it
            await self._queue.put(error)

    async def aclose(self, reason: BaseException | None) -> None:
        self._notices.drop(self)
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.gather(self._pump, return_exceptions=True)
        if self._inner is not None:
            await self._inner.aclose(reason)


_SERVER_INFO = {"name": "mcpgw", "version": __version__}
_INSTRUCTIONS = "Tools of several servers, named {server}__{tool}. What you may not use is not listed."


def _wanted(action: Action) -> frozenset[str]:
    """Return the kinds of lists whose changes this stream is told; of those only tools are the gateway's to change."""
    if action.verb is Verb.STREAM:
        return frozenset({"tools", "prompts", "resources"})
    asked: dict[str, Any] = json.loads(action.forwarded.get("notifications", b"{}"))
    return frozenset({"tools"}) if asked.get("toolsListChanged") is True else frozenset()


def _dumped(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
