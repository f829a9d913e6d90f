"""Lists over several servers: each server is asked by an action of its own, and what they answer becomes one list.

Servers stand in the order of their slugs. A server that does not answer costs its own items, and the list says so.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec import Raw

from mcpgw.domain import Action, Judged, Part, PartKind, Principal, ServerVersion, Verb
from mcpgw.errors import ConsentNeeded, GatewayError, InvalidParams, UnknownName, UpstreamFailed, UpstreamTimeout
from mcpgw.ports import Children, KnownCapabilities, Shown
from mcpgw.seals import Seals
from mcpgw.upstream.sight import Sight

PAGE_ITEMS = 200
PAGE_BYTES = 1_048_576
MOST_PAGES = 20  # of one server within one page of ours
MOST_TURNS = 50  # pages of ours that one server may fill: those after it have their turn, though it never ends
AT_ONCE = 8  # of one list, so that a client may ask for several before it runs into limits.per_principal
UNAVAILABLE = "io.mcpgw/unavailable"
MEMBER: Mapping[Verb, str] = {
    Verb.PROMPTS_LIST: "prompts",
    Verb.RESOURCES_LIST: "resources",
    Verb.RESOURCE_TEMPLATES_LIST: "resourceTemplates",
}
_KIND = b"mcp-cursor"
_METHOD_NOT_FOUND = -32601

_encode = msgspec.json.encode
_members = msgspec.json.Decoder(dict[str, Raw]).decode
_items = msgspec.json.Decoder(list[Raw]).decode


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page begins: at a server ("": at the first), with the cursor that it gave on as many pages as `turns`."""

    server: str = ""
    cursor: str | None = None
    turns: int = 0


@dataclass(slots=True)
class Listed:
    """What one server listed. `cursor` is where it goes on, `reason` why it is not all there is.

    `url` is where the caller can do something about it.
    """

    version: ServerVersion
    items: list[bytes] = field(default_factory=list)
    ttl_ms: int | None = None
    cursor: str | None = None
    reason: str | None = None
    url: str | None = None

    @property
    def size(self) -> int:
        return sum(map(len, self.items))


class Cursors:
    """Cursors that lead back to a place in a list, for the caller and the list that they were made for."""

    def __init__(self, seals: Seals) -> None:
        self._seals = seals

    def seal(self, who: Principal, action: Action, place: Place) -> str:
        held = (*self._bound(who, action), place.server, place.cursor, place.turns)
        return self._seals.seal(_KIND, json.dumps(held).encode())

    def open(self, who: Principal, action: Action) -> Place:
        """Return where the page begins that is asked for. Raises InvalidParams for what is no cursor of this list."""
        raw = action.forwarded.get("cursor", b"null")
        cursor = json.loads(raw)
        if cursor is None:
            return Place()
        sealed = self._seals.open(_KIND, cursor) if isinstance(cursor, str) else None
        *bound, server, own, turns = json.loads(sealed.payload) if sealed is not None else ("", None, 0)
        if tuple(bound) != self._bound(who, action):
            raise InvalidParams("the cursor is none of this list", fix="list again from the beginning")
        return Place(server, own, turns)

    @staticmethod
    def _bound(who: Principal, action: Action) -> tuple[str, str, str]:
        return who.key, action.verb.value, action.resource


class MergedLists:
    """Makes one list of those of several servers."""

    def __init__(
        self,
        *,
        sight: Sight,
        capabilities: KnownCapabilities,
        children: Children,
        shown: Shown,
        cursors: Cursors,
        within_s: float,
    ) -> None:
        self.sight = sight
        self.capabilities = capabilities
        self.children = children
        self.shown = shown
        self.cursors = cursors
        self.within_s = within_s

    def of(self, judged: Judged) -> MergedList:
        return MergedList(self, judged)


class MergedList:
    """The exchange of one page."""

    def __init__(self, lists: MergedLists, judged: Judged) -> None:
        self._lists = lists
        self._who = judged.principal
        self._action = judged.action
        self._asking: set[asyncio.Task[Listed]] = set()

    async def __aiter__(self) -> AsyncIterator[Part]:
        yield Part(PartKind.WHOLE, await self._page())

    async def aclose(self, reason: BaseException | None) -> None:
        for task in self._asking:
            task.cancel()
        await asyncio.gather(*self._asking, return_exceptions=True)

    async def _page(self) -> bytes:
        begin = self._lists.cursors.open(self._who, self._action)
        seen = await self._lists.sight.now(self._who, self._action)
        waiting = deque(version for version in seen if version.server >= begin.server)
        listed = await self._ask(waiting, begin)
        after = Place(waiting[0].server) if waiting else None
        for position, found in enumerate(listed):
            if found.cursor is None:
                continue
            turns = 1 + (begin.turns if found.version.server == begin.server else 0)
            if turns >= MOST_TURNS:
                found.reason = "endless"
                continue
            after = Place(found.version.server, found.cursor, turns)
            del listed[position + 1 :]  # what comes after it belongs to a later page
            break
        return self._written(listed, after)

    async def _ask(self, waiting: deque[ServerVersion], begin: Place) -> list[Listed]:
        """Ask servers from the front of the queue until the page is full or time is up; return their lists in order."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._lists.within_s
        tasks: list[asyncio.Task[Listed]] = []
        running = self._asking
        while True:
            done = [task.result() for task in tasks if task.done()]
            full = sum(len(one.items) for one in done) >= PAGE_ITEMS or sum(one.size for one in done) >= PAGE_BYTES
            while waiting and len(running) < AT_ONCE and not full and (not tasks or loop.time() < until):
                version = waiting.popleft()
                cursor = begin.cursor if version.server == begin.server else None
                task = loop.create_task(self._one(version, cursor))
                tasks.append(task)
                running.add(task)
            if not running:
                return [task.result() for task in tasks]
            finished, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            running -= finished

    async def _one(self, version: ServerVersion, cursor: str | None) -> Listed:
        """Return what one server lists, over its pages, as far as it answers in time."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._lists.within_s
        found = Listed(version)
        try:
            async with asyncio.timeout_at(until):
                able = await self._lists.capabilities.of(version)
            if not (able.prompts if self._action.verb is Verb.PROMPTS_LIST else able.resources):
                return found
            for _ in range(MOST_PAGES):
                found.cursor = await self._read_in_their_name(found, cursor, max(0.0, until - loop.time()))
                if found.cursor is None or len(found.items) >= PAGE_ITEMS or loop.time() >= until:
                    return found
                cursor = found.cursor
        except UnknownName:  # it is not for this caller any more
            return Listed(version)
        except GatewayError as error:
            found.cursor, found.reason = None, error.code
        except TimeoutError:
            found.reason = UpstreamTimeout.code
        return found

    async def _read_in_their_name(self, found: Listed, cursor: str | None, within_s: float) -> str | None:
        """Do as `_read`; a caller who has to agree to something first is told where."""
        try:
            return await self._read(found, cursor, within_s)
        except ConsentNeeded as wanted:
            found.url = wanted.data["url"]
            raise

    async def _read(self, found: Listed, cursor: str | None, within_s: float) -> str | None:
        """Add one page of a server; return the cursor of the next. Raises GatewayError."""
        answer: list[Part] = []

        async def keep(part: Part) -> None:
            if part.kind in (PartKind.WHOLE, PartKind.LAST):
                answer.append(part)

        verb, server = self._action.verb, found.version.server
        forwarded = {} if cursor is None else {"cursor": json.dumps(cursor).encode()}
        child = self._lists.children.of(self._action, verb, server, forwarded)
        await self._lists.children.carry_out(child, keep, within_s)
        part = answer[-1] if answer else None
        if part is not None and part.error_code == _METHOD_NOT_FOUND:
            return None  # resources without templates, say
        if part is None or part.error_code is not None:
            raise UpstreamFailed(f"`{server}` answered {verb.value} with an error")
        try:
            result = _members(part.body)
            items = [self._lists.shown.item(verb, server, bytes(item)) for item in _items(result[MEMBER[verb]])]
            goes_on = msgspec.json.decode(result.get("nextCursor", b"null"), type=str | None)
        except (msgspec.DecodeError, KeyError):
            raise UpstreamFailed(f"`{server}` answered {verb.value} without a list") from None
        found.items += items
        ttl_ms = _ttl_ms(result)
        found.ttl_ms = ttl_ms if found.ttl_ms is None else min(found.ttl_ms, ttl_ms)
        return goes_on

    def _written(self, listed: Sequence[Listed], after: Place | None) -> bytes:
        result: dict[str, Any] = {
            MEMBER[self._action.verb]: [Raw(item) for one in listed for item in one.items],
        }
        if after is not None:
            result["nextCursor"] = self._lists.cursors.seal(self._who, self._action, after)
        missing = [_missing(one) for one in listed if one.reason is not None]
        if self._action.client is not None and self._action.client.modern:
            ttls = [one.ttl_ms for one in listed if one.ttl_ms is not None]
            # Filtered by this caller's policy; what is missing may be back at any moment.
            result |= {"resultType": "complete", "ttlMs": 0 if missing else min(ttls, default=0)}
            result["cacheScope"] = "private"
        if missing:
            result["_meta"] = {UNAVAILABLE: missing}
        return _encode(result)


def _missing(one: Listed) -> dict[str, str]:
    said = {"server": one.version.server, "reason": one.reason or ""}
    return said if one.url is None else {**said, "url": one.url}


def _ttl_ms(result: Mapping[str, Raw]) -> int:
    """Return for how long a list may be kept; what cannot be read says: not at all."""
    try:
        return max(0, msgspec.json.decode(result.get("ttlMs", b"0"), type=int))
    except msgspec.DecodeError:
        return 0
