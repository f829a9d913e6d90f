"""Servers and versions as administrators see them: JSON-ready."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mcpgw.domain import Server, ServerVersion, State, VersionStatus
from mcpgw.registry import scan
from mcpgw.registry.changes import quarantined, versions_of
from mcpgw.registry.configured import Endpoint
from mcpgw.registry.digest import authorization
from mcpgw.registry.lifecycle import newest


def server(state: State, row: Server, configured: Endpoint | None) -> dict[str, Any]:
    """Return a server with its versions, in the order of their publication, and its quarantined tools.

    `transport` and `endpoint` are those of the active version, else of the newest one, else of the configuration.
    """
    versions = versions_of(state, row.slug)
    active = state.active.get(row.slug)
    shown = next((v for v in versions if v.version == active), None) or newest(versions)
    place = (shown.transport, shown.endpoint) if shown else configured
    return {
        "slug": row.slug,
        "title": row.title,
        "tags": list(row.tags),
        "trust": row.trust,
        "idempotent": sorted(row.idempotent),
        "configured": row.configured,
        "transport": place[0].value if place and place[0] else None,
        "endpoint": place[1] if place else None,
        "active": active,
        "versions": [_version(v) for v in versions],
        "quarantined": [
            {"version": q.version, "tool": q.tool, "seen_sha256": q.seen_sha256, "seen_at": q.seen_at}
            for v in versions
            for q in quarantined(state, v)
            if v.status is not VersionStatus.RETIRED
        ],
    }


def findings(version: ServerVersion) -> list[Mapping[str, str]]:
    return [finding.shown() for finding in scan.findings(version.tools)]


def _version(version: ServerVersion) -> dict[str, Any]:
    return {
        "version": version.version,
        "status": version.status.value,
        "manifest_sha256": version.manifest_sha256,
        "transport": version.transport.value,
        "endpoint": version.endpoint,
        "era": version.era.value,
        "auth": None if version.auth is None else authorization(version.auth),
        "tools": [{"name": tool.name, "sha256": tool.sha256} for tool in version.tools.values()],
        "findings": findings(version),
        "published_at": version.published_at,
        "published_by": version.published_by,
        "approved_by": version.approved_by,
    }
