"""Servers' own streams to one caller, held behind the caller's stream over several servers.

What a caller subscribes to is between it and one server: each such stream is an action of that caller, a child of the
stream that it stands behind.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import msgspec

from mcpgw.backoff import Backoff
from mcpgw.domain import Action, Part, PartKind, Verb
from mcpgw.errors import GatewayError
from mcpgw.ports import Children, Shown

log = logging.getLogger("mcpgw.streams")

OPEN_WITHIN_S = 2.0
FIRST_WAIT_S, MOST_WAIT_S = 0.5, 30.0
_ACKNOWLEDGED = "notifications/subscriptions/acknowledged"
_OF_THINGS = frozenset({"notifications/resources/updated", "notifications/tasks"})

Tell = Callable[[Part], Awaitable[None]]


class _Message(msgspec.Struct):
    method: str = ""
    params: dict[str, Any] = msgspec.field(default_factory=dict)


_message = msgspec.json.Decoder(_Message).decode


class Follower:
    """One such stream, opened again whenever it ends. `tell` gets what the caller is to read."""

    def __init__(self, action: Action, server: str, uris: Sequence[str], children: Children, shown: Shown) -> None:
        self.server = server
        self.honoured: list[str] = []
        self.tasks: list[str] = []
        self._action = action
        self._uris = uris
        self._children = children
        self._shown = shown
        self._opened = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.is_open = False

    def start(self, tell: Tell) -> None:
        """Open the stream, unless that was done before."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._follow(tell), name=f"follow {self.server}")

    async def opened(self) -> None:
        """Return when the stream is open, or has failed for the first time."""
        await self._opened.wait()

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _follow(self, tell: Tell) -> None:
        backoff = Backoff(asyncio.get_running_loop().time, first_s=FIRST_WAIT_S, most_s=MOST_WAIT_S)
        while True:
            backoff.begin()
            try:
                await self._children.carry_out(self._child(), lambda part: self._received(part, tell))
            except GatewayError as error:
                log.info("the stream of %s behind another one has ended: %s", self.server, error)
            self.is_open = False
            self._opened.set()
            await asyncio.sleep(backoff.wait_s())

    def _child(self) -> Action:
        action = self._action
        if action.verb is Verb.STREAM:
            return self._children.of(action, Verb.STREAM, self.server, {})
        wanted = json.dumps({"resourceSubscriptions": self._uris}).encode()
        forwarded = {"notifications": wanted, "#id": action.forwarded.get("#id", b"null")}
        return self._children.of(action, Verb.LISTEN, self.server, forwarded)

    async def _received(self, part: Part, tell: Tell) -> None:
        if part.kind is PartKind.OPENED and self._action.verb is Verb.STREAM:
            self._is_opened(())
        if part.kind is not PartKind.EVENT or not part.body:
            return
        try:
            message = _message(part.body)
        except msgspec.DecodeError:  # parameters by position: nothing that this protocol has
            return
        if message.method == _ACKNOWLEDGED:
            self.tasks = _texts(message, "taskIds")
            self._is_opened(uri for uri in _texts(message, "resourceSubscriptions") if uri in self._uris)
        elif message.method in _OF_THINGS or self._may_be_told(message.method):
            body = self._shown.event(self.server, part.body)
            await tell(Part(PartKind.EVENT, body, facts={"server": self.server}))

    def _may_be_told(self, method: str) -> bool:
        """Changed lists the gateway hears by itself, once for all callers; a session's stream has more to say."""
        return self._action.verb is Verb.STREAM and not method.endswith("/list_changed")

    def _is_opened(self, honoured: Iterable[str]) -> None:
        self.honoured = [self._shown.uri(self.server, uri) for uri in honoured]
        self.is_open = True
        self._opened.set()


def _texts(acknowledged: _Message, member: str) -> list[str]:
    """Return a member of what a server honours, as far as it is a list of strings."""
    honoured = acknowledged.params.get("notifications")
    found = honoured.get(member) if isinstance(honoured, dict) else None
    return [text for text in found if isinstance(text, str)] if isinstance(found, list) else []


async def all_opened(followers: Iterable[Follower]) -> None:
    """Return when all are open or have failed, or after OPEN_WITHIN_S."""
    waiting = [asyncio.ensure_future(follower.opened()) for follower in followers]
    if waiting:
        _, late = await asyncio.wait(waiting, timeout=OPEN_WITHIN_S)
        for one in late:
            one.cancel()
