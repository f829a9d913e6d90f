"""Who is calling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """What sort of caller a principal is."""

    USER = "user"
    AGENT = "agent"
    ADMIN = "admin"
    SYSTEM = "system"


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """A caller whose credential has been verified; built only by `auth`, never from a request body.

    `actors` is the RFC 8693 `act` chain, nearest first, each as `issuer|subject`. `claims` holds only the claims that
    policies may see. `credential` names the credential (an API key's id, a token's `jti`), never its secret.
    `issued_at` and `expires_at` are its beginning and end in Unix seconds (None: not known; none). `servers` are the
    slugs of the MCP servers that it opens (None: all); `calls_per_minute` and `concurrent` bound its calls. `account`
    is the id of the caller's account, and `grant` that of the authorization that a user gave, if any.
    """

    issuer: str
    subject: str
    client_id: str
    kind: Kind
    roles: frozenset[str] = frozenset()
    scopes: frozenset[str] = frozenset()
    team: str | None = None
    actors: tuple[str, ...] = ()
    claims: Mapping[str, Any] = field(default_factory=dict)
    credential: str | None = None
    expires_at: float | None = None
    servers: frozenset[str] | None = None
    calls_per_minute: int | None = None
    concurrent: int | None = None
    account: str | None = None
    issued_at: float | None = None
    grant: str | None = None

    selector: str = field(init=False, repr=False, compare=False)
    """The name by which a kill switch selects this principal: `issuer|subject`."""
    key: str = field(init=False, repr=False, compare=False)
    """The identity that sessions and other handles are bound to: principal and client together."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "selector", f"{self.issuer}|{self.subject}")
        # The lengths keep names apart that would read alike when joined.
        lengths = f"{len(self.issuer)}:{len(self.subject)}"
        object.__setattr__(self, "key", f"{lengths}:{self.issuer}|{self.subject}|{self.client_id}")


SYSTEM = Principal(issuer="mcpgw", subject="system", client_id="mcpgw", kind=Kind.SYSTEM, scopes=frozenset({"mcp:use"}))
