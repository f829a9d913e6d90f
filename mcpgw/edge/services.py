"""What the admin API needs of the services behind it: one Protocol an aggregate, JSON-ready answers.

A service checks and changes state; it knows nothing of HTTP. Whoever reaches it has been authenticated and holds the
scope of the route. All raise GatewayError.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mcpgw.domain import Account, ClientTerms, KeyLimits, Principal

Json = Mapping[str, Any]


class Servers(Protocol):
    """Registered servers and their versions."""

    async def add(
        self,
        who: Principal,
        slug: str,
        /,
        *,
        url: str,
        title: str,
        tags: Sequence[str],
        trust: str,
        auth: Json | None,
    ) -> Json: ...

    async def publish(
        self, who: Principal, slug: str, /, *, version: str | None, url: str | None, auth: Json | None
    ) -> Json:
        """Ask the server for its tools and pin them as a draft. Returns at least {"server", "version"}.

        `version` None: the next one. `url` None: where the server is registered or configured.
        """
        ...

    async def approve(self, who: Principal, slug: str, version: str, /, *, force: bool) -> Json: ...

    async def activate(self, who: Principal, slug: str, version: str, /) -> Json: ...

    async def mark(self, who: Principal, slug: str, /, *, idempotent: Collection[str]) -> Json: ...

    async def disable(self, who: Principal, slug: str, /) -> Json: ...

    async def rollback(self, who: Principal, slug: str, /) -> Json: ...

    async def remove(self, who: Principal, slug: str, /) -> Json: ...

    def list(self) -> Sequence[Json]: ...

    def show(self, slug: str, /) -> Json:
        """Return at least {"slug", "active": version or None, "versions": [{"version", "status", "tools"}, …]}."""
        ...

    def diff(self, slug: str, a: str, b: str, /) -> Json: ...


class Toolsets(Protocol):
    """Named selections of tools over several servers.

    `given` has the members of admin_schema.ToolsetGiven. All answers have at least {"slug", "tools", "warnings"}.
    """

    async def create(self, who: Principal, slug: str, given: Json, /) -> Json: ...

    async def replace(self, who: Principal, slug: str, given: Json, /) -> Json:
        """Create, or put in the place of the one of this slug."""
        ...

    async def remove(self, who: Principal, slug: str, /) -> Json: ...

    def list(self) -> Sequence[Json]: ...

    def show(self, slug: str, /) -> Json: ...


class Policies(Protocol):
    """Policy bundles, by the digest of their files."""

    async def push(self, who: Principal, files: Mapping[str, str], /, *, activate: bool, reason: str | None) -> Json:
        """Check and keep a bundle. Returns at least {"sha256", "active"}. A bundle that fails is refused whole."""
        ...

    async def activate(self, who: Principal, sha256: str, /, *, reason: str | None) -> Json: ...

    async def rollback(self, who: Principal, /, *, reason: str | None) -> Json: ...

    def list(self) -> Sequence[Json]: ...

    def show(self, sha256: str, /) -> Json: ...

    async def explain(self, who: Principal, document: Json, /) -> Json:
        """Return what the active policy says to this input document, and which rules said it."""
        ...


class Kills(Protocol):
    """Kill switches."""

    async def throw(
        self,
        who: Principal,
        /,
        *,
        scope: str,
        selector: str,
        mode: str,
        reason: str,
        expires_in_s: float | None,
        dry_run: bool,
    ) -> Json:
        """Return once every worker has applied the switch, or is named under "missing"."""
        ...

    async def release(self, who: Principal, switch: str, /, reason: str) -> Json: ...

    def list(self, include_released: bool = False, /) -> Sequence[Json]: ...


class Keys(Protocol):
    """API keys, and what is void before a time."""

    async def create(
        self,
        who: Principal,
        /,
        *,
        subject: str,
        roles: Sequence[str],
        team: str | None,
        expires_in_s: float | None,
        limits: KeyLimits,
    ) -> Json:
        """Return at least {"id", "key"}; the key is shown here once and is nowhere else."""
        ...

    async def revoke(self, who: Principal, key: str, /, *, reason: str) -> Json: ...

    async def rotate(self, who: Principal, key: str, /, *, overlap_s: float) -> Json:
        """Return a new key for the same subject; the old one is void after so many seconds."""
        ...

    def list(self) -> Sequence[Json]: ...

    async def revoke_before(
        self, who: Principal, /, *, kind: str, selector: str, not_before: float, reason: str
    ) -> Json: ...

    def revocations(self) -> Sequence[Json]: ...


class Clients(Protocol):
    """OAuth clients."""

    async def create(
        self,
        who: Principal,
        client: str,
        /,
        *,
        subject: str,
        roles: Sequence[str],
        team: str | None,
        terms: ClientTerms,
    ) -> Json:
        """Return at least {"client_id"}, and "client_secret" for one that has a secret: it is shown here once."""
        ...

    async def revoke(self, who: Principal, client: str, /, *, reason: str) -> Json: ...

    def list(self) -> Sequence[Json]: ...


class Principals(Protocol):
    """Teams, and the accounts of users and agents. What is deactivated has ended everywhere when it is answered."""

    def teams(self) -> Sequence[Json]: ...

    async def create_team(self, who: Principal, name: str, /, *, title: str) -> Json: ...

    async def update_team(self, who: Principal, name: str, /, *, title: str) -> Json: ...

    async def deactivate_team(self, who: Principal, name: str, /, *, reason: str) -> Json: ...

    async def reactivate_team(self, who: Principal, name: str, /, *, reason: str) -> Json: ...

    def list(self, *, name: str | None, team: str | None, after: str | None, limit: int) -> Json:
        """Return {"principals": […], "after": id that begins the next page, or None}."""
        ...

    def show(self, account: str, /) -> Json: ...

    async def create(self, who: Principal, draft: Account, /, *, password: str | None) -> Json: ...

    async def update(self, who: Principal, account: str, given: Json, /) -> Json: ...

    async def set_password(self, who: Principal, account: str, password: str | None, /) -> Json: ...

    async def deactivate(self, who: Principal, account: str, /, *, reason: str) -> Json: ...

    async def reactivate(self, who: Principal, account: str, /, *, reason: str) -> Json: ...


class Grants(Protocol):
    """What users have allowed clients to do in their name."""

    async def of(self, account: str, /) -> Sequence[Json]: ...

    async def revoke(self, who: Principal, grant: str, /, *, reason: str) -> Json: ...


class Secrets(Protocol):
    """Secrets towards upstreams, by name; their values are never returned."""

    async def put(self, who: Principal, name: str, value: str, urls: Sequence[str], /) -> Json: ...

    async def remove(self, who: Principal, name: str, /) -> Json: ...

    async def names(self) -> Sequence[Json]: ...

    async def rotate(self, who: Principal, /) -> Json:
        """Return {"key": the id of the vault's new key, "records": how many it was given to}."""
        ...


class Connections(Protocol):
    """Servers that are called in somebody's name, who agreed to that."""

    async def of(self, principal: str, /) -> Sequence[Json]: ...

    async def end(self, who: Principal, principal: str, server: str, /) -> Json: ...


class Signing(Protocol):
    """The keys that our tokens are signed with."""

    async def rotate(self, who: Principal, /, *, at_once: bool, reason: str) -> Json:
        """Return {"kid": the id of the new key, "at_once"}."""
        ...


class Audit(Protocol):
    """The log, read through its index. Off the event loop: an index query may take long."""

    async def query(self, filters: Json, /) -> Json:
        """Return {"records": [newest first], "cursor": opaque text for the next page, or None}.

        Filters: principal, server, tool, effect, outcome, trace (text), since and until (Unix seconds), limit, cursor.
        """
        ...

    async def of(self, action_id: str, /) -> Json:
        """Return {"records": [in the order written]}. Raises NotFound."""
        ...

    async def checkpoint(self) -> Json:
        """Return the newest signed checkpoint."""
        ...

    async def proof(self, log: str, index: int, /) -> Json:
        """Return the inclusion proof of one record."""
        ...


class Status(Protocol):
    """How the gateway is."""

    def status(self) -> Json: ...

    def ready(self) -> tuple[bool, Json]:
        """Say whether a call would be served now, and what each part says."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """All of them."""

    servers: Servers
    toolsets: Toolsets
    policies: Policies
    kills: Kills
    keys: Keys
    clients: Clients
    principals: Principals
    grants: Grants
    secrets: Secrets
    connections: Connections
    signing: Signing
    audit: Audit
    status: Status
