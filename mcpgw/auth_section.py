"""How callers are recognised, and what our own authorization server does."""

from __future__ import annotations

from pydantic import Field

from mcpgw.section import Section


class AuthorizationServerSection(Section):
    """Our own authorization server."""

    code_ttl_s: int = Field(default=60, ge=10, le=600)
    """Life of an authorization code."""
    refresh_ttl_s: int = Field(default=30 * 86400, ge=300)
    """Life of an authorization of a user, from its consent; its refresh tokens are used once each."""
    registration: bool = False
    """Whether clients may register themselves (RFC 7591)."""
    client_metadata_documents: bool = True
    """Whether a client may be an https URL of a document about it (CIMD)."""


class AuthSection(Section):
    """How callers are recognised."""

    pepper: str | None = None
    """Reference (`env:NAME`, `file:PATH`) to the secret that keys are hashed with; default: a file in the data
    directory, made at the first start."""
    token_ttl_s: int = Field(default=900, ge=30, le=86400)
    """Life of an access token from our own authorization server."""
    server: AuthorizationServerSection = AuthorizationServerSection()
