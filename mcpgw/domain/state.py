"""State: the rows that administrators change, each change a new epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from mcpgw.domain.identities import Account, ApiKey, OAuthClient, Revocation, Team
from mcpgw.domain.switches import KillSwitch
from mcpgw.domain.upstream_auth import UpstreamAuth


class Transport(StrEnum):
    """How a server is reached."""

    HTTP = "http"
    SSE = "sse"  # HTTP+SSE, of 2024-11-05
    STDIO = "stdio"
    OPENAPI = "openapi"  # a REST API, described by a document


class Era(StrEnum):
    """Which generation of the protocol a server speaks (modern: 2026-07-28 and later)."""

    MODERN = "modern"
    LEGACY = "legacy"
    DUAL = "dual"
    UNKNOWN = "unknown"


class VersionStatus(StrEnum):
    """The life of a server version; only an approved one can be active."""

    DRAFT = "draft"
    APPROVED = "approved"
    RETIRED = "retired"


@dataclass(frozen=True, slots=True)
class ToolPin:
    """A tool definition as approved: `definition` is its canonical JSON, `sha256` the digest of those bytes in hex."""

    name: str
    sha256: str
    definition: bytes
    tags: tuple[str, ...] = ()
    risk: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A registered server. `slug` is `[a-z0-9-]{1,24}`; `configured` means the operator's file declares it.

    `idempotent` are the tools whose calls may be repeated when they fail, as an administrator says ("*": all).
    """

    slug: str
    title: str
    created_by: str
    created_at: float
    configured: bool = False
    tags: tuple[str, ...] = ()
    trust: str = "untrusted"
    idempotent: frozenset[str] = frozenset()
    removed_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerVersion:
    """An immutable published version of a server; only `status` and `approved_by` ever change.

    `endpoint` is the URL of an HTTP server; of another one the name of its entry in the operator's configuration.
    `manifest_sha256` covers endpoint, transport, era, tools and `auth` (None: what the operator's configuration has for
    that endpoint). `tags`, `trust` and `idempotent` are the server's own, as administrators set them. `quarantined`
    holds the names of tools whose live definition differs from the pin.
    """

    server: str
    version: str
    manifest_sha256: str
    endpoint: str
    transport: Transport
    era: Era
    tools: Mapping[str, ToolPin]
    status: VersionStatus
    published_by: str
    published_at: float
    approved_by: str | None = None
    auth: UpstreamAuth | None = None
    tags: tuple[str, ...] = ()
    trust: str = "untrusted"
    idempotent: frozenset[str] = frozenset()
    quarantined: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class ActiveVersion:
    """Which version calls to `server` use now; `version` None: the server is disabled."""

    server: str
    version: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantine:
    """A tool whose live definition was seen to differ from its pin. `seen_sha256` "" means the tool is gone."""

    server: str
    version: str
    tool: str
    seen_sha256: str
    seen_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyBundle:
    """A policy as text files by path. `sha256` is the digest of the canonical bundle and its identity."""

    sha256: str
    files: Mapping[str, str]
    pushed_by: str
    pushed_at: float
    active: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolsetEntry:
    """What a toolset takes in: one tool, all of a server (`tool` "*"), or everything that is active (both "*").

    The rest is for one tool alone. `name` None: the one on the endpoint over all servers; `description` None: the
    tool's own. `defaults` are argument values for what a caller leaves out, `pinned` those that no caller sees or sets.
    """

    server: str
    tool: str
    name: str | None = None
    description: str | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    pinned: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Toolset:
    """A named selection of tools over several servers, with an endpoint of its own. `slug` is none of a server's.

    `instructions` are told to clients when they connect. `search`: clients list only how to find and call its tools.
    `configured` as in Server.
    """

    slug: str
    title: str
    entries: tuple[ToolsetEntry, ...]
    created_by: str
    created_at: float
    instructions: str = ""
    search: bool = False
    configured: bool = False
    removed_at: float | None = None


Row = (
    Server
    | ServerVersion
    | ActiveVersion
    | Quarantine
    | Toolset
    | Team
    | Account
    | ApiKey
    | OAuthClient
    | Revocation
    | PolicyBundle
    | KillSwitch
)


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """All rows at one epoch, as one transaction read them. `bundle` is the active policy."""

    epoch: int
    servers: tuple[Server, ...] = ()
    versions: tuple[ServerVersion, ...] = ()
    active: Mapping[str, str | None] = field(default_factory=dict)
    quarantines: tuple[Quarantine, ...] = ()
    toolsets: tuple[Toolset, ...] = ()
    teams: tuple[Team, ...] = ()
    accounts: tuple[Account, ...] = ()
    keys: tuple[ApiKey, ...] = ()
    clients: tuple[OAuthClient, ...] = ()
    revocations: tuple[Revocation, ...] = ()
    switches: tuple[KillSwitch, ...] = ()
    bundles: tuple[PolicyBundle, ...] = ()

    @property
    def bundle(self) -> PolicyBundle | None:
        return next((b for b in self.bundles if b.active), None)
