"""The servers that the operator's configuration declares."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

from mcpgw.config import RegistrySection, StdioServer
from mcpgw.domain import Server, State, Transport, UpstreamAuth
from mcpgw.http_section import HttpServer
from mcpgw.openapi_section import OpenApiServer
from mcpgw.registry.changes import Change

log = logging.getLogger("mcpgw.registry")
Endpoint = tuple[Transport | None, str]
"""How (None: as will be found out) and where a server is reached: the URL, or the name of its configured entry."""

ACTOR = "configuration"


def endpoints(section: RegistrySection) -> Mapping[str, Endpoint]:
    """Return the endpoint of each configured server by its slug; a slug in several lists is the stdio server's."""
    return {
        **{s.name: (None if s.transport == "auto" else Transport(s.transport), s.url) for s in section.http},
        **{server.name: (Transport.OPENAPI, server.name) for server in section.openapi},
        **{server.name: (Transport.STDIO, server.name) for server in section.stdio},
    }


def authorizations(section: RegistrySection) -> Mapping[str, UpstreamAuth]:
    """Return how the gateway proves itself to configured servers, by their slugs, where that is part of a version."""
    return {server.name: server.auth.auth for server in section.http if server.auth is not None}


def synced(section: RegistrySection, state: State, now: float) -> Change:
    """Make the registry hold just what the configuration declares.

    A server that it declares no longer is removed; it comes back with its versions when it is declared again. One with
    the slug of a toolset that was made here is left out.
    """
    held = {server.slug: server for server in state.servers}
    made_here = {toolset.slug for toolset in state.toolsets if not toolset.configured and toolset.removed_at is None}
    wanted: dict[str, Server] = {}
    declared: tuple[HttpServer | OpenApiServer | StdioServer, ...] = (*section.http, *section.openapi, *section.stdio)
    for entry in declared:
        if entry.name in made_here:
            log.error("the configured server %s is left out: there is a toolset of that slug", entry.name)
            continue
        before = held.get(entry.name) or Server(slug=entry.name, title="", created_by=ACTOR, created_at=now)
        wanted[entry.name] = replace(
            before,
            title=entry.title or entry.name,
            tags=entry.tags,
            trust=entry.trust,
            idempotent=frozenset(entry.idempotent),
            configured=True,
            removed_at=None,
        )
    for slug, server in held.items():
        if server.configured and slug not in wanted and server.removed_at is None:
            wanted[slug] = replace(server, removed_at=now)
    rows = [server for slug, server in wanted.items() if held.get(slug) != server]
    return Change(
        action="servers.configure",
        target=ACTOR,
        rows=rows,
        after={server.slug: "declared" if server.removed_at is None else "removed" for server in rows},
    )
