"""The streams of clients, and what their callers subscribe to behind them on endpoints over several servers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial

from mcpgw.domain import Action, Judged, Part, PartKind, Verb
from mcpgw.errors import InvalidParams
from mcpgw.ports import Children, Exchange, Shown
from mcpgw.upstream.follow import Follower, all_opened
from mcpgw.upstream.notices import Notices, OwnStream

MOST_URIS = 1000  # of one session
MOST_FOLLOWED = 20  # servers, of one stream
WATCHED = "#watched"
"""The parameter of a subscription that holds, for each server, the URIs of its own that are asked for."""


class Streams:
    """Opens the streams of clients; remembers what sessions of the handshake era subscribe to."""

    def __init__(self, notices: Notices, children: Children, shown: Shown) -> None:
        self._notices = notices
        self._children = children
        self._shown = shown
        self._subscriptions = Subscriptions()
        self._of_session: dict[str, OwnStream] = {}

    def open(self, judged: Judged, inner: Exchange | None) -> OwnStream:
        """Return a stream of the gateway's own notices, and of a server's where there is one."""
        action = judged.action
        followers: list[Follower] = []
        if action.server is None and action.verb is Verb.LISTEN:
            asked: dict[str, list[str]] = {task.server: [] for task in action.tasks}
            asked |= json.loads(action.forwarded.get(WATCHED, b"{}"))
            followers = [self._follower(action, server, uris) for server, uris in asked.items()]
        elif action.server is None:
            followers = [self._follower(action, server) for server in self._subscriptions.of(action.session)]
        stream = OwnStream(judged, self._notices, inner, followers[:MOST_FOLLOWED])
        if stream.over_many and action.session is not None:
            self._of_session[action.session] = stream
            stream.on_close = partial(self._closed, action.session, stream)
        return stream

    async def subscribing(self, action: Action, send: Callable[[], Awaitable[Exchange]]) -> Exchange:
        """Send what begins or ends a subscription of a session on an endpoint over several servers.

        The session's stream hears the server before the server is asked. Raises InvalidParams.
        """
        session, server, uri = action.session, action.server, action.name
        if session is None or server is None or uri is None:
            return await send()
        if action.verb is Verb.RESOURCES_SUBSCRIBE:
            self._subscriptions.add(session, server, uri)
            await self._follow(session, server)
        try:
            return _Subscribing(await send(), action.verb, partial(self._unfollow, session, server, uri))
        except BaseException:
            if action.verb is Verb.RESOURCES_SUBSCRIBE:
                await self._unfollow(session, server, uri)
            raise

    def end_session(self, session: str) -> None:
        """Forget what a session that is over subscribed to."""
        self._subscriptions.end_session(session)

    async def _follow(self, session: str, server: str) -> None:
        stream = self._of_session.get(session)
        if stream is None or server in stream.followed or len(stream.followed) >= MOST_FOLLOWED:
            return
        follower = self._follower(stream.action, server)
        stream.follow(follower)
        await all_opened([follower])

    async def _unfollow(self, session: str, server: str, uri: str) -> None:
        self._subscriptions.drop(session, server, uri)
        stream = self._of_session.get(session)
        if stream is not None and server not in self._subscriptions.of(session):
            await stream.unfollow(server)

    def _follower(self, action: Action, server: str, uris: list[str] | None = None) -> Follower:
        return Follower(action, server, uris or [], self._children, self._shown)

    def _closed(self, session: str, stream: OwnStream) -> None:
        if self._of_session.get(session) is stream:
            del self._of_session[session]


class _Subscribing:
    """The exchange of a request to subscribe or not to: what is not subscribed to is not listened for."""

    def __init__(self, inner: Exchange, verb: Verb, over: Callable[[], Awaitable[None]]) -> None:
        self._inner = inner
        self._verb = verb
        self._over = over

    async def __aiter__(self) -> AsyncIterator[Part]:
        async for part in self._inner:
            if part.kind in (PartKind.WHOLE, PartKind.LAST):
                refused = part.error_code is not None
                if refused is (self._verb is Verb.RESOURCES_SUBSCRIBE):
                    await self._over()
            yield part

    async def aclose(self, reason: BaseException | None) -> None:
        await self._inner.aclose(reason)


class Subscriptions:
    """What sessions of the handshake era subscribe to on endpoints over several servers: URIs by server."""

    def __init__(self) -> None:
        self._held: dict[str, dict[str, set[str]]] = {}

    def of(self, session: str | None) -> Mapping[str, set[str]]:
        return self._held.get(session or "", {})

    def add(self, session: str, server: str, uri: str) -> None:
        """Raises InvalidParams when a session subscribes to too much."""
        held = self._held.setdefault(session, {})
        if sum(map(len, held.values())) >= MOST_URIS:
            raise InvalidParams(f"a session subscribes to {MOST_URIS} resources at most", fix="unsubscribe from some")
        held.setdefault(server, set()).add(uri)

    def drop(self, session: str, server: str, uri: str) -> None:
        held = self._held.get(session, {})
        uris = held.get(server, set())
        uris.discard(uri)
        if not uris:
            held.pop(server, None)
        if not held:
            self._held.pop(session, None)

    def end_session(self, session: str) -> None:
        self._held.pop(session, None)
