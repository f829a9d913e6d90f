"""The servers that the operator's configuration declares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mcpgw.config import HttpServer, RegistrySection, StdioServer
from mcpgw.domain import Server, State, Transport
from mcpgw.registry.changes import Change

Endpoint = tuple[Transport, str]
"""How and where a server is reached: the URL, or the name of the entry in the configuration."""

ACTOR = "configuration"


def endpoints(section: RegistrySection) -> Mapping[str, Endpoint]:
    """Return the endpoint of each configured server by its slug; a slug in both lists is the stdio server's."""
    return {
        **{server.name: (Transport.HTTP, server.url) for server in section.http},
        **{server.name: (Transport.STDIO, server.name) for server in section.stdio},
    }


def synced(section: RegistrySection, state: State, now: float) -> Change:
    """Make the registry hold just what the configuration declares.

    A server that it declares no longer is removed; it comes back with its versions when it is declared again.
    """
    held = {server.slug: server for server in state.servers}
    wanted: dict[str, Server] = {}
    declared: tuple[HttpServer | StdioServer, ...] = (*section.http, *section.stdio)
    for entry in declared:
        before = held.get(entry.name) or Server(slug=entry.name, title="", created_by=ACTOR, created_at=now)
        wanted[entry.name] = replace(
            before,
            title=entry.title or entry.name,
            tags=entry.tags,
            trust=entry.trust,
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
