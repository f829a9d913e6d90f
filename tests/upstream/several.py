"""Several servers behind one endpoint: the real request path over servers that are written down in the test."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Callable, Mapping
from types import TracebackType
from typing import Any

from mcpgw.capabilities import LearntCapabilities
from mcpgw.children import BoardChildren
from mcpgw.clock import SystemClock
from mcpgw.domain import (
    Action,
    Judged,
    KillSwitch,
    Part,
    PartKind,
    Permit,
    Presented,
    Principal,
    Receipt,
    ServerVersion,
    Switches,
    Verb,
)
from mcpgw.edge.mcp_prompts import PromptNames
from mcpgw.edge.mcp_shown import ShownNames
from mcpgw.errors import GatewayError, MethodNotAllowed, Unauthenticated
from mcpgw.pipeline import Gateway
from mcpgw.ports import Exchange, Gate, World
from mcpgw.retries import Retries
from mcpgw.running import Board
from mcpgw.seals import Seals
from mcpgw.upstream.aggregate import Aggregate
from mcpgw.upstream.mcp_parts import Whole
from mcpgw.upstream.merged import Cursors, MergedLists
from mcpgw.upstream.notices import Notices
from mcpgw.upstream.own import OwnUpstream
from mcpgw.upstream.own_tools import OwnTools
from mcpgw.upstream.router import Router
from mcpgw.upstream.sight import Sight
from mcpgw.upstream.streams import Streams
from mcpgw.visible import visible_servers, visible_tools
from mcpgw.watches import ListWatches
from tests.parts import Rules, Shelf, agent, published, world_of

MEMBERS = {
    Verb.PROMPTS_LIST: "prompts",
    Verb.RESOURCES_LIST: "resources",
    Verb.RESOURCE_TEMPLATES_LIST: "resourceTemplates",
}


class Open:
    """A stream of a server. What `said` gets arrives on it; an error or None ends it."""

    def __init__(self, *first: Part) -> None:
        self.said: asyncio.Queue[Part | BaseException | None] = asyncio.Queue()
        for part in (Part(PartKind.OPENED), *first):
            self.said.put_nowait(part)
        self.closed = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[Part]:
        while (item := await self.said.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    async def aclose(self, reason: BaseException | None) -> None:
        self.closed.set()

    def tell(self, method: str, **params: Any) -> None:
        message = {"jsonrpc": "2.0", "method": method, "params": params}
        self.said.put_nowait(Part(PartKind.EVENT, json.dumps(message).encode()))


class Server:
    """A server written down: pages of items by list, what it can do, and what goes wrong with it.

    `opened` holds its streams in the order in which they were asked for, `asked` all actions that reached it.
    """

    def __init__(self, **lists: list[list[dict[str, Any]]]) -> None:
        self.lists = lists
        self.capabilities: dict[str, Any] = {"prompts": {}, "resources": {}, "tools": {}}
        self.era = "modern"
        self.extra: dict[str, Any] = {"ttlMs": 60_000}
        self.failure: BaseException | None = None
        self.refusal: Mapping[Verb, int] = {}
        self.hangs = False
        self.streams = True
        self.asked: list[Action] = []
        self.opened: asyncio.Queue[Open] = asyncio.Queue()

    def asked_for(self, verb: Verb) -> list[Action]:
        return [action for action in self.asked if action.verb is verb]

    async def answer(self, action: Action) -> Exchange:
        self.asked.append(action)
        if self.failure is not None:
            raise self.failure
        if self.hangs:
            await asyncio.Event().wait()
        code = self.refusal.get(action.verb)
        if code is not None:
            error = json.dumps({"code": code, "message": "no"}).encode()
            return Whole(Part(PartKind.WHOLE, error, error_code=code))
        if action.verb in {Verb.STREAM, Verb.LISTEN}:
            return self._stream(action)
        return Whole(Part(PartKind.WHOLE, json.dumps(self._result(action)).encode(), facts={"era": self.era}))

    def _stream(self, action: Action) -> Open:
        if not self.streams:
            raise MethodNotAllowed("no stream")
        made = Open()
        if action.verb is Verb.LISTEN:
            wanted = json.loads(action.forwarded["notifications"])
            made.tell("notifications/subscriptions/acknowledged", notifications=wanted)
        self.opened.put_nowait(made)
        return made

    def _result(self, action: Action) -> dict[str, Any]:
        if action.verb is Verb.DISCOVER:
            return {"capabilities": self.capabilities}
        if action.verb not in MEMBERS:
            return {}
        pages = self.lists.get(MEMBERS[action.verb], [[]])
        page = int(json.loads(action.forwarded.get("cursor", b'"0"')))
        more = {"nextCursor": str(page + 1)} if page + 1 < len(pages) else {}
        return {MEMBERS[action.verb]: pages[page], **more, **self.extra}


class Held:
    def settle(self, facts: Mapping[str, Any]) -> None:
        """Nothing was counted."""

    def refund(self) -> None:
        """Nothing was counted."""


class Written:
    """The records of one action, in memory."""

    def __init__(self, records: list[tuple[str, Action]], action: Action) -> None:
        self._records = records
        self._action = action

    async def __aenter__(self) -> Written:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if isinstance(error, GatewayError):
            self._records.append((error.code, self._action))

    def identified(self, who: Principal) -> None:
        """Noted with the intent."""

    async def intend(self, judged: Judged, hold: Any, gate: Gate) -> Permit:
        gate()
        self._records.append(("intent", self._action))
        return Permit(judged, hold, Receipt("w0", len(self._records), "leaf"))

    async def answered(self, part: Part) -> Part:
        if part.kind in (PartKind.WHOLE, PartKind.LAST):
            self._records.append(("outcome", self._action))
        return part


class House:
    """One worker with these servers. `records` are (what happened, action)."""

    def __init__(self, servers: Mapping[str, Server], policy: Rules | None = None, within_s: float = 5.0) -> None:
        self.servers = servers
        self.policy = policy or Rules()
        self.records: list[tuple[str, Action]] = []
        self.world = self._world(1)
        self.clock = SystemClock()
        self.board = Board(lambda: self.world.epoch, self.clock)
        self.children = BoardChildren(self.board, self.clock)
        self.capabilities = LearntCapabilities(self.clock, lambda version: True)
        self.watches = ListWatches(self.clock, self.capabilities, lambda version: True, self._missed)
        self.shown = ShownNames(PromptNames())
        sight = Sight(current=lambda: self.world, tools=visible_tools, servers=visible_servers)
        self.notices = Notices(sight, self.capabilities, self.watches)
        self.streams = Streams(self.notices, self.children, self.shown)
        lists = MergedLists(
            sight=sight,
            capabilities=self.capabilities,
            children=self.children,
            shown=self.shown,
            cursors=Cursors(Seals(bytes(32), 0)),
            within_s=within_s,
        )
        self.open_with: frozenset[str] = frozenset()
        aggregate = Aggregate(lists, lambda session: self.open_with)
        own = OwnUpstream(self.streams, OwnTools(_definition, _nothing_found, 1000, self.shown.tool), aggregate)
        self.gateway = Gateway(
            worlds=self,
            journal=self,
            tokens=self,
            running=self.board,
            meter=self,
            broker=self,
            upstream=Router(own=own, streams=self.streams, http=self, sse=self, stdio=self, openapi=self, llm=self),
            retries=Retries(self.clock),
            review=lambda parts, decide: parts,
            clock=self.clock,
        )
        for part in (self.children, self.capabilities, self.watches):
            part.serve(self.gateway)

    async def aclose(self) -> None:
        await self.watches.aclose()
        await self.capabilities.aclose()

    async def ask(self, action: Action, who: str = "ada") -> dict[str, Any]:
        """Carry out an action and return its result. Raises GatewayError, or Refused with the server's error."""
        parts: list[Part] = []

        async def keep(part: Part) -> None:
            parts.append(part)

        await self.gateway.handle(Presented(scheme="bearer", token=who), action, keep)
        if parts[-1].error_code is not None:
            raise Refused(parts[-1].error_code)
        found: dict[str, Any] = json.loads(parts[-1].body)
        return found

    def open(self, action: Action, who: str = "ada") -> Reader:
        return Reader(self.gateway, action, who)

    def change(self, *, switches: tuple[KillSwitch, ...] = (), policy: Rules | None = None) -> None:
        """What a worker does in one step: publish, swap, cut; then whoever listens."""
        old, self.policy = self.world, policy or self.policy
        self.world = dataclasses.replace(self._world(old.epoch + 1), switches=Switches(switches))
        self.board.cut_killed(self.world.switches)
        self.notices.world_changed(old, self.world)

    def _missed(self, server: str, kind: str) -> None:
        self.notices.server_said(server, kind)

    def children_of(self, parent: Action) -> list[Action]:
        return [action for what, action in self.records if what == "intent" and action.parent == parent.id]

    def _world(self, epoch: int) -> World:
        versions = [published(slug, ["tool"]) for slug in self.servers]
        made = world_of(published(), policy=self.policy, epoch=epoch)
        return dataclasses.replace(made, catalog=Shelf(versions))

    # The ports

    @property
    def current(self) -> World:
        return self.world

    def published(self) -> int:
        return self.world.epoch

    async def at_least(self, epoch: int) -> World:
        return self.world

    async def verify(self, presented: Presented, resource: str, world: World) -> Principal:
        if presented.token is None:
            raise Unauthenticated("nothing was presented")
        return agent(presented.token)

    async def reserve(self, judged: Judged) -> Held:
        return Held()

    async def credential_for(self, judged: Judged) -> Mapping[str, str]:
        return {}

    async def refused(self, judged: Judged, credential: Mapping[str, str], challenge: str) -> None:
        """There is no other."""

    def entry(self, action: Action, world: World) -> Written:
        return Written(self.records, action)

    async def send(self, permit: Permit, credential: Mapping[str, str], gate: Gate) -> Exchange:
        version: ServerVersion | None = permit.judged.version
        assert version is not None
        gate()
        return await self.servers[version.server].answer(permit.judged.action)


class Refused(Exception):
    """A server's own JSON-RPC error, by its code."""


class Reader:
    """A client that reads a stream."""

    def __init__(self, gateway: Gateway, action: Action, who: str) -> None:
        self._parts: asyncio.Queue[Part] = asyncio.Queue()
        self._task = asyncio.create_task(
            gateway.handle(Presented(scheme="bearer", token=who), action, self._parts.put), name="client"
        )

    async def next(self) -> Part:
        async with asyncio.timeout(5):
            return await self._parts.get()

    async def message(self) -> dict[str, Any]:
        while not (part := await self.next()).body:
            pass
        found: dict[str, Any] = json.loads(part.body)
        return found

    async def until(self, right: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        while not right(found := await self.message()):
            pass
        return found

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def _definition(offer: Any) -> bytes:
    return b'{"name":"%b"}' % offer.name.encode()


async def _nothing_found(*asked: Any) -> tuple[list[Any], int]:
    return [], 0
