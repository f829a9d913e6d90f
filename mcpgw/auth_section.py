"""How callers are recognised, and what our own authorization server does."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field, field_validator

from mcpgw.issuer_section import IssuerSection
from mcpgw.section import Section
from mcpgw.sign_in_section import SignInSection


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
    client_metadata_hosts: tuple[str, ...] = ()
    """Hosts that may have such documents; empty: all."""
    redirect_schemes: tuple[str, ...] = ("cursor", "vscode", "vscode-insiders", "windsurf")
    """Schemes of apps that redirect URIs may have though there is no dot in them (RFC 8252 §7.1)."""
    registration_limit: int = Field(default=1000, ge=1)
    """Clients that registered themselves and are not ended, at most."""


class VaultSection(Section):
    """Where secrets are kept: tokens towards upstreams, and named secrets."""

    key: str | None = None
    """Reference (`env:NAME`, `file:PATH`) to the keys that secrets are sealed with: each 32 bytes in base64, the first
    one seals, all open; default: a file in the data directory, made at the first start."""


class UpstreamSection(Section):
    """Who the gateway is at the authorization servers of upstreams."""

    client_metadata_url: str | None = None
    """Where those can read the gateway's client metadata document, if not at its own URL (a copy on a public host);
    `{server}` in it stands for the server's slug. Default: /oauth/client-metadata/{server}.json, if that is https."""


class AuthSection(Section):
    """How callers are recognised."""

    pepper: str | None = None
    """Reference (`env:NAME`, `file:PATH`) to the secret that keys are hashed with; default: a file in the data
    directory, made at the first start."""
    roles: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)
    """Roles besides agent, auditor, operator and admin, with the scopes that each carries: an agent's, or an
    administrator's."""
    token_ttl_s: int = Field(default=900, ge=30, le=86400)
    """Life of an access token from our own authorization server."""
    vault: VaultSection = VaultSection()
    upstream: UpstreamSection = UpstreamSection()
    server: AuthorizationServerSection = AuthorizationServerSection()
    sign_in: SignInSection | None = None
    """The OpenID provider at which people sign in."""
    local_users: bool = True
    """Whether users of the gateway's own sign in with name and password."""
    session_ttl_s: int = Field(default=8 * 3600, ge=60)
    """Life of a sign-in with a browser."""
    issuers: tuple[IssuerSection, ...] = ()
    """Other issuers whose access tokens count here."""

    @field_validator("issuers")
    @classmethod
    def _told_apart(cls, issuers: tuple[IssuerSection, ...]) -> tuple[IssuerSection, ...]:
        if len({entry.issuer for entry in issuers}) != len(issuers):
            raise ValueError("an issuer is there twice")
        if sum(entry.introspection is not None for entry in issuers) > 1:
            raise ValueError("an opaque token names no issuer: only one can have `introspection`")
        return issuers
