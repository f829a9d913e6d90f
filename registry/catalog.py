"""The servers of one world: which version a call uses, and names that are unique over all servers."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

from mcpgw.domain import Kind, Principal, Server, ServerVersion, State, ToolPin, VersionStatus
from mcpgw.registry.digest import canonical, parse, sha256

MAX_NAME = 64  # what every LLM provider takes, and the MCP conformance suite
SEPARATOR = "__"  # a slug has no underscore, so the first one ends it
_HEX = 8
_FITS = re.compile(r"[A-Za-z0-9_-]+")
_MISFITS = re.compile(r"[^A-Za-z0-9_-]+")


class StateCatalog:
    """Implements ports.Catalog over the rows of one state."""

    def __init__(self, state: State) -> None:
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
        self._prefixed: dict[tuple[str, str], str] = {}
        self._found: dict[str, tuple[str, str]] = {}
        for slug, version in self._active.items():
            for tool, prefixed in names(slug, version.tools).items():
                self._prefixed[slug, tool] = prefixed
                self._found[prefixed] = (slug, tool)
                _renamed(version.tools[tool].definition, prefixed)  # worked out before the first list is asked for

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
        return self._found.get(prefixed)

    def prefixed(self, server: str, tool: str) -> str:
        """Return the name over all servers of a tool of the active version. Raises KeyError when there is none."""
        return self._prefixed[server, tool]


def prefixed_definition(version: ServerVersion, tool: ToolPin) -> bytes:
    """Return the canonical definition of a tool of `version` under its name over all servers."""
    prefixed = _plain(version.server, tool.name) or names(version.server, version.tools)[tool.name]
    return _renamed(tool.definition, prefixed)


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


@lru_cache(maxsize=16_384)
def _renamed(definition: bytes, name: str) -> bytes:
    """Return the definition under another name. Kept from world to world, since pins are the same bytes."""
    return canonical({**parse(definition), "name": name})


def _quarantined(state: State) -> Mapping[tuple[str, str], Mapping[str, str]]:
    """Return, for each version, the digests that were seen of the tools that differ."""
    seen: dict[tuple[str, str], dict[str, str]] = {}
    for row in state.quarantines:
        seen.setdefault((row.server, row.version), {})[row.tool] = row.seen_sha256
    return seen


def _applied(
    version: ServerVersion, server: Server, quarantined: Mapping[tuple[str, str], Mapping[str, str]]
) -> ServerVersion:
    seen = quarantined.get((version.server, version.version), {})
    # A row whose digest is the pin's says that the tool was found to be itself again.
    apart = frozenset(name for name, tool in version.tools.items() if seen.get(name, tool.sha256) != tool.sha256)
    return replace(version, tags=server.tags, trust=server.trust, quarantined=apart)
