"""Toolsets, as administrators change them: their rules, each change one transaction with its note."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mcpgw.config import RegistrySection
from mcpgw.domain import CALL_TOOL, FIND_TOOL, SYSTEM, Offer, Principal, Row, State, Toolset, ToolsetEntry
from mcpgw.errors import Conflict, InvalidParams, NotFound
from mcpgw.ports import Clock, Store, Worlds
from mcpgw.registry import lifecycle, selection
from mcpgw.registry.catalog import StateCatalog
from mcpgw.registry.changes import Change
from mcpgw.registry.committing import committed
from mcpgw.registry.configured import ACTOR
from mcpgw.registry.digest import sha256
from mcpgw.registry.selection import ALL
from mcpgw.toolset_section import DeclaredToolset

log = logging.getLogger("mcpgw.registry")

MAX_ENTRIES = 1000
MAX_TEXT = 4000  # characters of instructions, and of a description
MAX_VALUES = 16_384  # bytes of all values of one entry
MAX_OFFERS_SHOWN = 1000
_HALF = re.compile("[\ud800-\udfff]")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
# Names on the endpoint over all servers look like this; a tool without a name of its own has its name there.
_OVER_ALL = re.compile(r"[a-z0-9][a-z0-9-]{0,23}__.*")

Document = dict[str, Any]
Documents = list[Document]  # within the service, `list` is its method


def entry_of(given: Mapping[str, Any]) -> ToolsetEntry:
    """Return an entry whose `tool` is written `server/tool`, `server/*` or `*`. Raises InvalidParams."""
    server, slash, tool = str(given["tool"]).partition("/")
    if not slash and server == ALL:
        tool = ALL
    if not server or not tool or (server == ALL and tool != ALL):
        raise InvalidParams("a tool is selected as server/tool, server/* or *", fix="for example: notes/read")
    return ToolsetEntry(
        server=server,
        tool=tool,
        name=given.get("name"),
        description=given.get("description"),
        defaults=dict(given.get("defaults") or {}),
        pinned=dict(given.get("pinned") or {}),
    )


def check(toolset: Toolset) -> None:
    """Raise InvalidParams for what no state of the registry would make right."""
    lifecycle.check_names(toolset.slug, toolset.title)
    if len(toolset.instructions) > MAX_TEXT:
        raise InvalidParams(f"instructions are at most {MAX_TEXT} characters", fix="shorten them")
    if not 1 <= len(toolset.entries) <= MAX_ENTRIES:
        raise InvalidParams(f"a toolset has 1 to {MAX_ENTRIES} entries", fix="name tools, or server/*")
    taken: set[object] = set()
    for entry in toolset.entries:
        _check_entry(entry)
        # Without a name of its own a tool has its one name on the endpoint over all servers.
        shown: object = entry.name or (entry.server, entry.tool)
        if shown in taken:
            raise InvalidParams(f"two entries show {_selector(entry)} under one name", fix="give one another name")
        taken.add(shown)


def check_declared(entry: DeclaredToolset) -> None:
    """Raise InvalidParams for a toolset of the configuration that can be none."""
    check(_row(entry, ACTOR, 0.0))


def check_slug(toolset: Toolset, state: State) -> None:
    """Raise Conflict when a server has the slug, or something has one that looks like it."""
    servers = [server.slug for server in state.servers if server.removed_at is None]
    if toolset.slug in servers:
        raise Conflict(
            f"there is a server `{toolset.slug}`", fix=f"choose another slug: both would have /mcp/{toolset.slug}"
        )
    others = [t.slug for t in state.toolsets if t.removed_at is None and t.slug != toolset.slug]
    lifecycle.check_look_alikes(toolset.slug, [*servers, *others])


def check_values(toolset: Toolset, state: State) -> None:
    """Raise InvalidParams for values that a tool of this state has no place for."""
    active = {version.server: version for version in StateCatalog(state).active()}
    for entry in toolset.entries:
        tool = active[entry.server].tools.get(entry.tool) if entry.server in active else None
        apart = selection.misfits(entry, tool) if tool is not None else []
        if apart:
            named = ", ".join(f"`{name}`" for name in apart)
            raise InvalidParams(
                f"the input schema of {_selector(entry)} has no property {named}",
                fix="name properties that stand in its `properties`",
            )


def put(state: State, toolset: Toolset, *, new: bool = False) -> Change:
    """Create or replace a toolset; `new`: create alone. Raises Conflict, InvalidParams."""
    held = found(state, toolset.slug)
    if held is not None and new:
        raise Conflict(f"there is a toolset `{toolset.slug}` already", fix=f"replace it: PUT /toolsets/{toolset.slug}")
    if held is not None:
        _check_changeable(held)
        toolset = replace(toolset, created_by=held.created_by, created_at=held.created_at)
    check(toolset)
    check_slug(toolset, state)
    check_values(toolset, state)
    return Change(
        action="toolsets.replace" if held is not None else "toolsets.create",
        target=toolset.slug,
        rows=[] if held == toolset else [toolset],
        before=_noted(held) if held is not None else None,
        after=_noted(toolset),
    )


def removed(state: State, slug: str, now: float) -> Change:
    """Remove a toolset. Raises NotFound, and Conflict for one that the configuration declares."""
    held = existing(state, slug)
    _check_changeable(held)
    return Change(action="toolsets.remove", target=slug, rows=[replace(held, removed_at=now)], before=_noted(held))


def synced(section: RegistrySection, state: State, now: float) -> Change:
    """Make the registry hold just the toolsets that the configuration declares.

    What cannot be one, here and now, is left out and said in the gateway's log: all the rest can be served without it.
    """
    rows: list[Row] = []
    told: dict[str, str] = {}
    held = {toolset.slug: toolset for toolset in state.toolsets}
    for entry in section.toolsets:
        try:
            toolset = _declared(entry, state, now)
            check(toolset)
            check_slug(toolset, state)
        except (Conflict, InvalidParams) as error:
            log.error("the configured toolset %s is left out: %s", entry.name, error)
            continue
        if held.get(toolset.slug) != toolset:
            rows.append(toolset)
            told[toolset.slug] = "declared"
    declared = {entry.name for entry in section.toolsets}
    for slug, toolset in held.items():
        if toolset.configured and toolset.removed_at is None and slug not in declared:
            rows.append(replace(toolset, removed_at=now))
            told[slug] = "removed"
    return Change(action="toolsets.configure", target=ACTOR, rows=rows, after=told)


def found(state: State, slug: str) -> Toolset | None:
    return next((t for t in state.toolsets if t.slug == slug and t.removed_at is None), None)


def existing(state: State, slug: str) -> Toolset:
    held = found(state, slug)
    if held is None:
        raise NotFound(f"no toolset `{slug}`", fix="mcpgw toolsets list")
    return held


class ToolsetsService:
    """Toolsets as administrators see and change them.

    A document has the toolset as it was given, `offered` (how many tools it has now, before any policy) and `warnings`:
    what it names and does not offer, and why. A change adds the `epoch` from which it holds.
    """

    def __init__(self, store: Store, worlds: Worlds, clock: Clock, section: RegistrySection | None = None) -> None:
        self._store = store
        self._worlds = worlds
        self._clock = clock
        self._section = section or RegistrySection()

    async def sync_configured(self) -> int:
        """Take over what the operator declares; return the epoch."""
        return (await self._commit(SYSTEM, lambda state: synced(self._section, state, self._clock.time())))[1]

    async def create(self, who: Principal, slug: str, given: Mapping[str, Any]) -> Document:
        """Create a toolset. Raises Conflict when the slug is taken, InvalidParams."""
        toolset = self._given(who, slug, given)
        return await self._change(who, slug, lambda state: put(state, toolset, new=True))

    async def replace(self, who: Principal, slug: str, given: Mapping[str, Any]) -> Document:
        """Create a toolset, or put it in the place of the one of this slug. Raises Conflict, InvalidParams."""
        toolset = self._given(who, slug, given)
        return await self._change(who, slug, lambda state: put(state, toolset))

    async def remove(self, who: Principal, slug: str) -> Document:
        """Remove a toolset. Raises NotFound, Conflict."""
        _, epoch = await self._commit(who, lambda state: removed(state, slug, self._clock.time()))
        await self._worlds.at_least(epoch)
        return {"toolset": slug, "epoch": epoch}

    def list(self) -> Documents:
        """Return the toolsets by slug."""
        state = self._worlds.current.state
        catalog = StateCatalog(state)
        return [_document(t, catalog) for t in state.toolsets if t.removed_at is None]

    def show(self, slug: str) -> Document:
        """Return a toolset with what it offers now. Raises NotFound."""
        return _shown(self._worlds.current.state, slug)

    def _given(self, who: Principal, slug: str, given: Mapping[str, Any]) -> Toolset:
        return Toolset(
            slug=slug,
            title=given.get("title") or slug,
            instructions=given.get("instructions") or "",
            search=bool(given.get("search")),
            entries=tuple(entry_of(entry) for entry in given["tools"]),
            created_by=who.selector,
            created_at=self._clock.time(),
        )

    async def _change(self, who: Principal, slug: str, change: Callable[[State], Change]) -> Document:
        _, epoch = await self._commit(who, change)
        world = await self._worlds.at_least(epoch)
        return {"toolset": slug, "epoch": epoch, **_shown(world.state, slug)}

    async def _commit(self, who: Principal, change: Callable[[State], Change]) -> tuple[Change, int]:
        return await committed(self._store, self._clock, who, change)


def _check_entry(entry: ToolsetEntry) -> None:
    if entry.tool == ALL:
        if entry.name is not None or entry.description is not None or entry.defaults or entry.pinned:
            raise InvalidParams(
                f"{_selector(entry)} selects many tools, which cannot have one name, description or value",
                fix="name the tool in an entry of its own; that one counts",
            )
        return
    if entry.name is not None:
        if not _NAME.fullmatch(entry.name):
            raise InvalidParams(f"the name of {_selector(entry)} is not 1 to 64 of A-Z, a-z, 0-9, _ and -")
        if _OVER_ALL.fullmatch(entry.name) or entry.name in (FIND_TOOL, CALL_TOOL):
            raise InvalidParams(
                f"the name of {_selector(entry)} may be that of another tool",
                fix=f"not {FIND_TOOL}, {CALL_TOOL}, or a server's slug and two underscores at its beginning",
            )
    if entry.description is not None and len(entry.description) > MAX_TEXT:
        raise InvalidParams(f"the description of {_selector(entry)} is longer than {MAX_TEXT} characters")
    both = sorted(entry.defaults.keys() & entry.pinned.keys())
    if both:
        raise InvalidParams(
            f"{_selector(entry)} both pins `{both[0]}` and has a default for it", fix="a pinned value needs no default"
        )
    if not _is_json(entry.defaults) or not _is_json(entry.pinned):
        raise InvalidParams(
            f"a value of {_selector(entry)} is none that JSON has, or an integer beyond 64 bits",
            fix="write dates and long numbers as text",
        )
    if len(_written([entry.defaults, entry.pinned])) > MAX_VALUES:
        raise InvalidParams(f"the values of {_selector(entry)} are longer than {MAX_VALUES} bytes")


def _check_changeable(toolset: Toolset) -> None:
    if toolset.configured:
        raise Conflict(
            f"the toolset `{toolset.slug}` is declared in the configuration", fix="change it there and restart"
        )


def _declared(entry: DeclaredToolset, state: State, now: float) -> Toolset:
    """Return a toolset of the configuration. Raises Conflict when one of its slug was made here, InvalidParams."""
    held = next((t for t in state.toolsets if t.slug == entry.name and t.configured), None)
    live = found(state, entry.name)
    if live is not None and not live.configured:
        raise Conflict(
            f"the configuration declares the toolset `{entry.name}`, and there is one that was made here",
            fix="give it another name in the configuration",
        )
    return _row(entry, held.created_by, held.created_at) if held is not None else _row(entry, ACTOR, now)


def _row(entry: DeclaredToolset, created_by: str, created_at: float) -> Toolset:
    return Toolset(
        slug=entry.name,
        title=entry.title or entry.name,
        instructions=entry.instructions,
        search=entry.search,
        entries=tuple(entry_of(tool.model_dump()) for tool in entry.tools),
        created_by=created_by,
        created_at=created_at,
        configured=True,
    )


def _document(toolset: Toolset, catalog: StateCatalog) -> Document:
    made = catalog.selection(toolset.slug)
    return {
        "slug": toolset.slug,
        "title": toolset.title,
        "instructions": toolset.instructions,
        "search": toolset.search,
        "configured": toolset.configured,
        "tools": [_given_entry(entry) for entry in toolset.entries],
        "offered": len(made.offers) if made is not None else 0,
        "warnings": catalog.unoffered(toolset),
        "created_by": toolset.created_by,
        "created_at": toolset.created_at,
    }


def _shown(state: State, slug: str) -> Document:
    toolset, catalog = existing(state, slug), StateCatalog(state)
    made = catalog.selection(slug)
    offers: Sequence[Offer] = made.offers if made is not None else ()
    return {
        **_document(toolset, catalog),
        "offers": [
            {"name": o.name, "server": o.version.server, "tool": o.tool.name} for o in offers[:MAX_OFFERS_SHOWN]
        ],
    }


def _given_entry(entry: ToolsetEntry) -> Document:
    optional = {
        "name": entry.name,
        "description": entry.description,
        "defaults": dict(entry.defaults),
        "pinned": dict(entry.pinned),
    }
    return {"tool": _selector(entry).strip("`"), **{key: value for key, value in optional.items() if value}}


def _noted(toolset: Toolset) -> Mapping[str, Any]:
    """Return what a note says of a toolset: which arguments have values, not which values."""
    return {
        "title": toolset.title,
        "search": toolset.search,
        "tools": [
            {**_given_entry(entry), "defaults": sorted(entry.defaults), "pinned": sorted(entry.pinned)}
            for entry in toolset.entries
        ],
        "sha256": sha256(_written([toolset.instructions, [_given_entry(entry) for entry in toolset.entries]])),
    }


def _is_json(value: object) -> bool:
    """Say whether a value can stand in arguments as the edge would take them from a caller."""
    if isinstance(value, Mapping):
        return all(isinstance(name, str) and _is_json(name) and _is_json(inner) for name, inner in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_json, value))
    if isinstance(value, str):
        return not _HALF.search(value)
    if isinstance(value, int):
        return -(2**63) <= value < 2**64
    return value is None or (isinstance(value, float) and math.isfinite(value))


def _selector(entry: ToolsetEntry) -> str:
    return f"`{ALL}`" if entry.server == ALL else f"`{entry.server}/{entry.tool}`"


def _written(values: Iterable[Any]) -> bytes:
    return json.dumps(list(values), ensure_ascii=False, separators=(",", ":")).encode()
