"""The changes of the registry, as pure functions: from the state as it is to the rows that a change writes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mcpgw.domain import ActiveVersion, Quarantine, Row, Server, ServerVersion, State, ToolPin, VersionStatus
from mcpgw.errors import Conflict, NotFound
from mcpgw.registry import digest, drift, lifecycle

ACTIVATE, ROLLBACK, DISABLE = "servers.activate", "servers.rollback", "servers.disable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Rows to write (none: all is as wanted), what the note says of them, and the version concerned."""

    action: str
    target: str
    rows: Sequence[Row] = ()
    version: str | None = None
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None


def server_of(state: State, slug: str) -> Server:
    for server in state.servers:
        if server.slug == slug and server.removed_at is None:
            return server
    raise NotFound(f"no server `{slug}`", fix="mcpgw servers list")


def versions_of(state: State, slug: str) -> list[ServerVersion]:
    return [version for version in state.versions if version.server == slug]


def version_of(state: State, slug: str, version: str) -> ServerVersion:
    server_of(state, slug)
    for found in versions_of(state, slug):
        if found.version == version:
            return found
    raise NotFound(f"`{slug}` has no version {version}", fix=f"mcpgw servers show {slug}")


def quarantined(state: State, version: ServerVersion) -> list[Quarantine]:
    """Return the quarantines in force for a version: the digest last seen of the tool is not that of its pin."""
    own = (version.server, version.version)
    return [
        q for q in state.quarantines if (q.server, q.version) == own and q.seen_sha256 != version.tools[q.tool].sha256
    ]


def check_free(state: State, slug: str) -> None:
    """Raise Conflict when there is a server or a toolset of this slug, or one whose slug looks like it."""
    servers = [server.slug for server in state.servers if server.removed_at is None]
    toolsets = [toolset.slug for toolset in state.toolsets if toolset.removed_at is None]
    if slug in servers:
        raise Conflict(f"there is a server `{slug}` already", fix="choose another slug, or publish a version of it")
    if slug in toolsets:
        raise Conflict(f"there is a toolset `{slug}` already", fix=f"choose another slug: both would have /mcp/{slug}")
    lifecycle.check_look_alikes(slug, [*servers, *toolsets])


def added(state: State, server: Server, draft: ServerVersion) -> Change:
    """Register a server with its first draft; what a removed one of the same slug had stays behind."""
    check_free(state, server.slug)
    held = versions_of(state, server.slug)
    first = _numbered(draft, lifecycle.next_version(held, draft.tools))
    return Change(
        action="servers.add",
        target=server.slug,
        rows=[server, *_ended(state, server.slug), first],
        version=first.version,
        after={"title": server.title, "tags": list(server.tags), "trust": server.trust, **_published(first)},
    )


def marked(state: State, slug: str, idempotent: Collection[str]) -> Change:
    """Say which tools' calls may be repeated when they fail. Raises InvalidParams, NotFound, Conflict."""
    held = server_of(state, slug)
    if held.configured:
        raise Conflict(f"which tools of `{slug}` are idempotent is the configuration's to say", fix="change it there")
    row = replace(held, idempotent=frozenset(idempotent))
    lifecycle.check_server(row)
    return Change(
        action="servers.mark",
        target=slug,
        rows=[row] if row != held else [],
        before={"idempotent": sorted(held.idempotent)},
        after={"idempotent": sorted(row.idempotent)},
    )


def published(state: State, draft: ServerVersion, version: str | None) -> Change:
    """Publish a draft under a number; the version that pins the same already does for it. Raises Conflict."""
    slug = draft.server
    server_of(state, slug)
    held = versions_of(state, slug)
    last = lifecycle.newest(held)
    if version is None and last is not None and _is_content_of(last, draft):
        version = last.version
    made = _numbered(draft, version or lifecycle.next_version(held, draft.tools))
    for old in held:
        if old.version != made.version:
            continue
        if _is_content_of(old, draft):
            return Change(action="servers.publish", target=f"{slug}@{old.version}", version=old.version)
        raise Conflict(
            f"`{slug}` {old.version} is published ({old.status.value}) with other content",
            fix=f"publish {lifecycle.next_version(held, draft.tools)}",
        )
    return Change(
        action="servers.publish",
        target=f"{slug}@{made.version}",
        rows=[made],
        version=made.version,
        before={"version": last.version, "manifest_sha256": last.manifest_sha256} if last else None,
        after={**_published(made), "tools": drift.summary(last.tools if last else {}, made.tools)},
    )


def approved(state: State, slug: str, version: str, by: str, findings: int) -> Change:
    row = lifecycle.approved(version_of(state, slug, version), by)
    return Change(
        action="servers.approve",
        target=f"{slug}@{version}",
        rows=[row],
        version=version,
        before={"status": VersionStatus.DRAFT.value},
        after={"status": row.status.value, "manifest_sha256": row.manifest_sha256, "findings": findings},
    )


def released(state: State, version: ServerVersion, live: Mapping[str, ToolPin], now: float) -> Change:
    """Let those tools of a version out of quarantine that equal their pins again. Raises Conflict when none does."""
    apart = [q.tool for q in quarantined(state, version)]
    whole = [name for name in apart if name in live and live[name].sha256 == version.tools[name].sha256]
    if apart and not whole:
        raise Conflict(
            f"the quarantined tools of `{version.server}` {version.version} still differ from their pins",
            fix=f"publish what the server offers now: mcpgw servers publish {version.server}",
        )
    return Change(
        action="servers.release",
        target=f"{version.server}@{version.version}",
        rows=[_seen(version, name, live[name].sha256, now) for name in whole],
        version=version.version,
        before={"quarantined": apart},
        after={"quarantined": [name for name in apart if name not in whole]},
    )


def pointed(state: State, slug: str, version: str | None, action: str) -> Change:
    """Point calls at a version; None: at none. Raises Conflict unless it is approved."""
    server_of(state, slug)
    if version is not None:
        lifecycle.check_may_be_active(version_of(state, slug, version))
    before = state.active.get(slug)
    done = before == version and slug in state.active
    return Change(
        action=action,
        target=slug,
        rows=[] if done else [ActiveVersion(slug, version)],
        version=version,
        before={"active": before},
        after={"active": version},
    )


def rolled_back(state: State, slug: str, activated: Iterable[tuple[bool, str]]) -> Change:
    """Point calls at the approved version that was active before; `activated` as lifecycle.previous has it."""
    server_of(state, slug)
    usable = {v.version for v in versions_of(state, slug) if v.status is VersionStatus.APPROVED}
    version = lifecycle.previous(activated, state.active.get(slug), usable)
    if version is None:
        raise Conflict(f"no other version of `{slug}` was active before", fix="activate the one you want")
    return pointed(state, slug, version, ROLLBACK)


def apart(state: State, version: ServerVersion, tool: str, seen_sha256: str, now: float) -> Change:
    """Put a tool into quarantine, unless it is there for the same reason. Raises NotFound."""
    pinned = version.tools.get(tool)
    if pinned is None:
        raise NotFound(
            f"`{version.server}` {version.version} has no such tool", fix=f"mcpgw servers show {version.server}"
        )
    known = any(q.tool == tool and q.seen_sha256 == seen_sha256 for q in quarantined(state, version))
    return Change(
        action="servers.quarantine",
        target=f"{version.server}@{version.version}",
        rows=[] if known or seen_sha256 == pinned.sha256 else [_seen(version, tool, seen_sha256, now)],
        version=version.version,
        before={"tool": tool, "sha256": pinned.sha256},
        after={"tool": tool, "sha256": seen_sha256},
    )


def removed(state: State, slug: str, now: float) -> Change:
    """Remove a server for good. Raises Conflict for one that the configuration declares."""
    server = server_of(state, slug)
    if server.configured:
        raise Conflict(
            f"`{slug}` is declared in the configuration", fix="take it out there and restart; or disable it here"
        )
    return Change(
        action="servers.remove",
        target=slug,
        rows=[replace(server, removed_at=now), *_ended(state, slug)],
        before={"active": state.active.get(slug)},
    )


def _ended(state: State, slug: str) -> list[Row]:
    """Return the rows after which nothing of the past of a slug can be called or activated."""
    rows: list[Row] = [ActiveVersion(slug, None)] if state.active.get(slug) is not None else []
    return rows + [lifecycle.retired(v) for v in versions_of(state, slug) if v.status is not VersionStatus.RETIRED]


def _numbered(draft: ServerVersion, version: str) -> ServerVersion:
    manifest = digest.manifest(
        draft.server, version, draft.endpoint, draft.transport, draft.era, draft.tools, draft.auth
    )
    return replace(draft, version=version, manifest_sha256=manifest)


def _is_content_of(version: ServerVersion, draft: ServerVersion) -> bool:
    """Say whether a version that can still be used is this draft. The digest decides."""
    return (
        version.status is not VersionStatus.RETIRED
        and version.manifest_sha256 == _numbered(draft, version.version).manifest_sha256
    )


def _published(version: ServerVersion) -> dict[str, Any]:
    return {
        "version": version.version,
        "manifest_sha256": version.manifest_sha256,
        "endpoint": version.endpoint,
        "transport": version.transport.value,
        "era": version.era.value,
        **({"auth": digest.authorization(version.auth)} if version.auth is not None else {}),
    }


def _seen(version: ServerVersion, tool: str, sha256: str, now: float) -> Quarantine:
    return Quarantine(server=version.server, version=version.version, tool=tool, seen_sha256=sha256, seen_at=now)
