"""The servers of one world: which version a call uses, and names that are unique over all servers."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from mcpgw.domain import (
    Kind,
    Offer,
    Principal,
    Selection,
    Server,
    ServerVersion,
    State,
    Toolset,
    VersionStatus,
)
from mcpgw.registry import selection
from mcpgw.registry.digest import sha256

MAX_NAME = 64  # what every LLM provider takes, and the MCP conformance suite
SEPARATOR = "__"  # a slug has no underscore, so the first one ends it
_HEX = 8
_FITS = re.compile(r"[A-Za-z0-9_-]+")
_MISFITS = re.compile(r"[^A-Za-z0-9_-]+")


class StateCatalog:
    """Implements ports.Catalog over the rows of one state. `search_only`: callers of the endpoint over all servers
    search its tools instead of listing them."""

    def __init__(self, state: State, *, search_only: bool = False) -> None:
        servers = {server.slug: server for server in state.servers if server.removed_at is None}
        quarantined = _quarantined(state)
        self._versions: dict[tuple[str, str], ServerVersion] = {}
        for version in state.versions:
            server = servers.get(version.server)
            if server is not None:
                self._versions[version.server, version.version] = _applied(version, server, quarantined)
        self._pointers = state.active
        self._active: dict[str, ServerVersion] = {}
        for slug in sorted(servers):
            active = self._versions.get((slug, state.active.get(slug) or ""))
            if active is not None and active.status is VersionStatus.APPROVED:
                self._active[slug] = active
        self._names = _Names(self._active)
        self._everything = Selection(partial(selection.everything, self._active, self._names.of), search=search_only)
        self._toolsets = {
            toolset.slug: Selection(
                partial(_offered, toolset, self._active, self._names), toolset, search=toolset.search
            )
            for toolset in state.toolsets
            if toolset.removed_at is None and toolset.slug not in servers
        }

    def resolve(self, server: str, version: str | None, who: Principal) -> ServerVersion | None:
        """Return the version that a call uses (None: the active one), or None when there is none to be had.

        A disabled server has none for callers, also by number. Drafts, retired versions and those of a disabled server
        resolve for the system principal alone, by number; those of a removed server for nobody.
        """
        if version is None:
            return self._active.get(server)
        found = self._versions.get((server, version))
        if found is None or who.kind is Kind.SYSTEM:
            return found
        disabled = self._pointers.get(server, version) is None
        return found if found.status is VersionStatus.APPROVED and not disabled else None

    def active(self) -> Sequence[ServerVersion]:
        return tuple(self._active.values())

    def find(self, prefixed: str) -> tuple[str, str] | None:
        """Return slug and own name of the tool that is called `prefixed` over all servers, or None."""
        return self._names.owner(prefixed)

    def prefixed(self, server: str, tool: str) -> str:
        """Return the name over all servers of a tool of the active version. Raises KeyError when there is none."""
        return self._names.of(server, tool)

    def selection(self, toolset: str | None) -> Selection | None:
        """Return what a toolset offers (None: the endpoint over all servers), or None when there is no such toolset."""
        return self._everything if toolset is None else self._toolsets.get(toolset)

    def unoffered(self, toolset: Toolset) -> list[str]:
        """Return why a toolset, of this state or a new one, does not offer all that it names."""
        return [why for why in selection.selected(toolset, self._active, self._names.of) if isinstance(why, str)]


class _Names:
    """Names over all servers, worked out server by server when one is asked for: there may be ten thousand tools."""

    def __init__(self, active: Mapping[str, ServerVersion]) -> None:
        self._active = active
        self._shown: dict[str, Mapping[str, str]] = {}
        self._own: dict[str, Mapping[str, str]] = {}

    def of(self, slug: str, tool: str) -> str:
        held = self._shown.get(slug)
        if held is None:
            held = self._shown[slug] = names(slug, self._active[slug].tools)
        return held[tool]

    def owner(self, shown: str) -> tuple[str, str] | None:
        slug = shown.partition(SEPARATOR)[0]
        if slug not in self._active:
            return None
        own = self._own.get(slug)
        if own is None:
            own = self._own[slug] = {self.of(slug, tool): tool for tool in self._active[slug].tools}
        return (slug, own[shown]) if shown in own else None


def _offered(toolset: Toolset, active: Mapping[str, ServerVersion], made: _Names) -> list[Offer]:
    return [offer for offer in selection.selected(toolset, active, made.of) if isinstance(offer, Offer)]


def names(slug: str, tools: Collection[str]) -> dict[str, str]:
    """Return the name over all servers of each tool of a server: `{slug}__{tool}` where that fits.

    Otherwise what fits of it, and 8 hex digits of the SHA-256 of the tool's name. Depends on the set of names alone,
    and no two are equal: of two that would be, the later in order gets other digits.
    """
    found = {tool: plain for tool in tools if (plain := _plain(slug, tool)) is not None}
    taken = set(found.values())
    for tool in sorted(set(tools) - found.keys()):
        found[tool] = next(name for name in _shortened(slug, tool) if name not in taken)
        taken.add(found[tool])
    return found


def _plain(slug: str, tool: str) -> str | None:
    name = f"{slug}{SEPARATOR}{tool}"
    return name if len(name) <= MAX_NAME and _FITS.fullmatch(tool) else None


def _shortened(slug: str, tool: str) -> Iterator[str]:
    """Return the names that a tool can get, in order of preference, without end."""
    room = MAX_NAME - len(slug) - len(SEPARATOR) - 1 - _HEX
    stem = _MISFITS.sub("-", tool)[:room].strip("-") or "tool"
    seed = tool
    while True:
        hexed = sha256(seed.encode())
        yield f"{slug}{SEPARATOR}{stem}_{hexed[:_HEX]}"
        seed = hexed


def _quarantined(state: State) -> Mapping[tuple[str, str], Mapping[str, str]]:
    """Return, for each version, the digests that were seen of the tools that differ."""
    seen: dict[tuple[str, str], dict[str, str]] = {}
    for row in state.quarantines:
        seen.setdefault((row.server, row.version), {})[row.tool] = row.seen_sha256
    return seen


def _applied(
    version: ServerVersion, server: Server, quarantined: Mapping[tuple[str, str], Mapping[str, str]]
) -> ServerVersion:
    seen = quarantined.get((version.server, version.version))
    said = replace(version, tags=server.tags, trust=server.trust, idempotent=server.idempotent, quarantined=frozenset())
    if seen is None:
        return said
    # A row whose digest is the pin's says that the tool was found to be itself again.
    apart = frozenset(name for name, tool in version.tools.items() if seen.get(name, tool.sha256) != tool.sha256)
    return replace(said, quarantined=apart)
