"""How the gateway proves itself to an upstream server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class AuthMode(StrEnum):
    """Whose credential goes to a server, and how it is had."""

    NONE = "none"
    STATIC = "static"  # secret header fields, the same for all callers
    CLIENT_CREDENTIALS = "client_credentials"  # RFC 6749 §4.4: the gateway's own
    USER = "user"  # each caller's own, who agrees once in a browser
    TOKEN_EXCHANGE = "token_exchange"  # RFC 8693  # noqa: S105 (not a password)
    ID_JAG = "id_jag"  # identity assertion authorization grant: enterprise-managed authorization
    ASSERTION = "assertion"  # a short-lived JWT of ours that says who calls


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamAuth:
    """The authorization of one server version; no secret stands in it, only references (`env:`, `file:`, `vault:`).

    `issuer` is the authorization server's issuer identifier (None: what the server's own metadata names).
    `client_id` None: the gateway registers itself. `client_auth` is how it proves itself at the token endpoint (RFC
    7591 §2). `resource` None: the version's endpoint (RFC 8707). `headers` maps header names to references, for STATIC.
    `subject` is what stands for the caller in an exchange: `assertion` (a JWT of ours) or `identity_provider` (what the
    provider that the user signed in with gave us).
    """

    mode: AuthMode
    issuer: str | None = None
    client_id: str | None = None
    client_secret: str | None = None
    client_auth: str | None = None
    scopes: tuple[str, ...] = ()
    resource: str | None = None
    audience: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, hash=False)
    subject: str = "assertion"
