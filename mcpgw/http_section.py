"""How an operator declares an HTTP server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, model_validator

from mcpgw.section import Section, Slug
from mcpgw.upstream_auth_section import UpstreamAuthSection


class HttpServer(Section):
    """An HTTP server that the operator declares."""

    name: Slug
    """Its slug."""
    url: str
    """Its MCP endpoint."""
    transport: Literal["auto", "http", "sse"] = "auto"
    """Streamable HTTP, HTTP+SSE (2024-11-05), or whichever it is found to speak when a version is published."""
    headers: Mapping[str, str] = Field(default_factory=dict)
    """Headers sent with every request; secrets by reference (`env:NAME`, `file:PATH`, `vault:NAME`)."""
    auth: UpstreamAuthSection | None = None
    """How the gateway proves itself to it, in place of `headers`; part of each version published from now on."""
    title: str = ""
    """Name for people."""
    tags: tuple[str, ...] = ()
    """Tags that policies see as `server.tags`."""
    trust: str = "untrusted"
    """What policies see as `server.trust`."""
    idempotent: tuple[str, ...] = ()
    """Tools whose calls may be repeated when they fail, because twice is no worse than once; `*`: all of them."""

    @model_validator(mode="after")
    def _one_of_them(self) -> HttpServer:
        if self.auth is not None and self.headers:
            raise ValueError("`headers` beside `auth` would not be sent: use mode static")
        return self
