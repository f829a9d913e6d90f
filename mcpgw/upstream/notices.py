"""The open streams of clients, and what the gateway itself tells them: that a list of theirs has changed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from typing import Any

from mcpgw.domain import Action, Judged, Part, PartKind, ServerVersion, Verb
from mcpgw.ports import Capabilities, Exchange, KnownCapabilities, Watches, World
from mcpgw.upstream.follow import Follower, all_opened
from mcpgw.upstream.sight import Sight

KEEP_ALIVE_S = 15.0
TOGETHER_S = 0.05  # a server tells each of its streams of one change: they become one notice
KINDS = frozenset({"tools", "prompts", "resources"})
_SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"


class Notices:
    """Tells open streams when what their caller may see has changed: by a kill, a policy, a version, or by a server."""

    def __init__(self, sight: Sight, capabilities: KnownCapabilities, watches: Watches) -> None:
        self._sight = sight
        self._capabilities = capabilities
        self._watches = watches
        self._streams: set[OwnStream] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._said: dict[tuple[str, str], asyncio.TimerHandle] = {}
        self._settling = False

    def add(self, stream: OwnStream) -> None:
        self._streams.add(stream)
        if stream.over_many:
            self._settle()

    def drop(self, stream: OwnStream) -> None:
        self._streams.discard(stream)
        if stream.over_many:
            self._settle()

    def world_changed(self, old: World, new: World) -> None:
        """Compare, off the swap, what each stream's caller sees in the two worlds."""
        if self._streams:
            self._spawn(self._compare(old, new))
            self._settle()

    def server_said(self, server: str, kind: str) -> None:
        """A server reported that a list of its changed; `kind` is tools, prompts or resources."""
        if self._streams and (server, kind) not in self._said:
            loop = asyncio.get_running_loop()
            self._said[server, kind] = loop.call_later(TOGETHER_S, self._pass_on, server, kind)

    def _pass_on(self, server: str, kind: str) -> None:
        del self._said[server, kind]
        self._spawn(self._tell(server, kind))

    async def _tell(self, server: str, kind: str) -> None:
        for stream in list(self._streams):
            if stream.over_many:
                seen = await self._sight.now(stream.who, stream.action)
                if any(version.server == server for version in seen):
                    stream.notify(kind)
            elif stream.action.server == server and not stream.relays:
                stream.notify(kind)

    async def _compare(self, old: World, new: World) -> None:
        for stream in list(self._streams):
            before = await self._sight.tools(old, stream.who, stream.action)
            after = await self._sight.tools(new, stream.who, stream.action)
            if before.shown != after.shown:
                stream.notify("tools")
            if stream.over_many:
                for kind in await self._others_changed(stream, old, new):
                    stream.notify(kind)

    async def _others_changed(self, stream: OwnStream, old: World, new: World) -> frozenset[str]:
        """Return which lists of unpinned things may have changed: those of servers that came, went or were replaced.

        Another policy may show other prompts of the same servers, and nothing short of listing them can tell.
        """
        before = {(v.server, v.version): v for v in await self._sight.servers(old, stream.who, stream.action)}
        after = {(v.server, v.version): v for v in await self._sight.servers(new, stream.who, stream.action)}
        if old.policy.sha256 == new.policy.sha256:
            changed: Iterable[ServerVersion] = [{**before, **after}[key] for key in before.keys() ^ after.keys()]
        else:
            changed = {**before, **after}.values()
        return frozenset().union(*(lists_of(self._capabilities.known(version)) for version in changed))

    def _settle(self) -> None:
        """Watch the servers that any stream over several sees, and no others."""
        if not self._settling:
            self._settling = True
            self._spawn(self._watch())

    async def _watch(self) -> None:
        await asyncio.sleep(0)  # streams come and go together
        self._settling = False
        wanted: dict[str, ServerVersion] = {}
        for stream in list(self._streams):
            if stream.over_many and stream.wanted:
                for version in await self._sight.now(stream.who, stream.action):
                    wanted[version.server] = version
        if not self._settling:  # else it is done once more
            self._watches.keep(list(wanted.values()))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def lists_of(able: Capabilities | None) -> frozenset[str]:
    """Return the lists besides tools that a server has; of one that has not said yet: all that it may have."""
    if able is None:
        return KINDS - {"tools"}
    return frozenset(kind for kind, has in (("prompts", able.prompts), ("resources", able.resources)) if has)


class OwnStream:
    """An open stream: the gateway's notices, merged with a server's own stream, or with those of several."""

    def __init__(
        self, judged: Judged, notices: Notices, inner: Exchange | None, followers: Sequence[Follower] = ()
    ) -> None:
        self.action = judged.action
        self.who = judged.principal
        self.relays = inner is not None
        self.over_many = judged.action.server is None
        self.followed = {follower.server: follower for follower in followers}
        self._inner = inner
        self._notices = notices
        self._queue: asyncio.Queue[Part | BaseException] = asyncio.Queue(maxsize=1000)
        self._pump: asyncio.Task[None] | None = None
        self._listen_id = judged.action.forwarded.get("#id") if judged.action.verb is Verb.LISTEN else None
        self.wanted = _wanted(judged.action, relays=self.relays)
        self.on_close: Callable[[], None] = _nothing
        if inner is None:
            notices.add(self)

    def notify(self, kind: str) -> None:
        if kind not in self.wanted or self._queue.full():
            return
        params = f',"params":{{"_meta":{self._tagged()}}}' if self._listen_id is not None else ""
        message = f'{{"jsonrpc":"2.0","method":"notifications/{kind}/list_changed"{params}}}'
        self._queue.put_nowait(Part(PartKind.EVENT, message.encode()))

    def follow(self, follower: Follower) -> None:
        """Pass on what another server says to this caller."""
        self.followed[follower.server] = follower
        follower.start(self._queue.put)

    async def unfollow(self, server: str) -> None:
        follower = self.followed.pop(server, None)
        if follower is not None:
            await follower.stop()

    def _tagged(self) -> str:
        return f'{{"{_SUBSCRIPTION}":{(self._listen_id or b"null").decode()}}}'

    async def __aiter__(self) -> AsyncIterator[Part]:
        yield Part(PartKind.OPENED)
        for follower in self.followed.values():
            follower.start(self._queue.put)
        if self._inner is not None:
            self._pump = asyncio.create_task(self._relay(self._inner), name="relay a server's stream")
        elif self._listen_id is not None:
            await self._settle()
            yield Part(PartKind.EVENT, self._acknowledged())
        while True:
            try:
                async with asyncio.timeout(KEEP_ALIVE_S):
                    item = await self._queue.get()
            except TimeoutError:
                item = Part(PartKind.EVENT)
            if isinstance(item, BaseException):
                raise item
            if self._is_over(item):
                continue
            yield item
            if item.kind is PartKind.LAST:
                return

    async def _settle(self) -> None:
        """Wait for what is subscribed to, and let go of what is not to be had: nobody is told that it is heard."""
        await all_opened(self.followed.values())
        for server in [server for server, follower in self.followed.items() if not follower.is_open]:
            await self.unfollow(server)

    def _is_over(self, item: Part) -> bool:
        """What a server said on a stream that has been cut since is not passed on."""
        server = item.facts.get("server")
        return server is not None and not (server in self.followed and self.followed[server].is_open)

    def _acknowledged(self) -> bytes:
        honoured: dict[str, Any] = {f"{kind}ListChanged": True for kind in sorted(self.wanted)}
        uris = [uri for follower in self.followed.values() for uri in follower.honoured]
        if uris:
            honoured["resourceSubscriptions"] = uris
        tasks = [task for follower in self.followed.values() for task in follower.tasks]
        if tasks:
            honoured["taskIds"] = tasks
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
            await self._queue.put(Part(PartKind.LAST))  # a server's stream is over: its client may open another one
        except Exception as error:  # noqa: BLE001 - handed to the reader of the stream, which raises it
            await self._queue.put(error)

    async def aclose(self, reason: BaseException | None) -> None:
        self._notices.drop(self)
        self.on_close()
        await asyncio.gather(*(follower.stop() for follower in self.followed.values()))
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.gather(self._pump, return_exceptions=True)
        if self._inner is not None:
            await self._inner.aclose(reason)


def _nothing() -> None:
    """Nothing to do."""


def _wanted(action: Action, *, relays: bool) -> frozenset[str]:
    """Return the lists of whose changes the gateway tells this stream; a server that is relayed tells of its own."""
    if action.verb is Verb.STREAM:
        return KINDS
    asked: dict[str, Any] = json.loads(action.forwarded.get("notifications", b"{}"))
    kinds = frozenset(kind for kind in KINDS if asked.get(f"{kind}ListChanged") is True)
    return kinds & {"tools"} if relays else kinds
