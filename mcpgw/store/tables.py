"""The tables of the state database: one for each kind of row, the epoch, and the outbox of admin notes.

Foreign keys are checked when a transaction commits, so the rows of one change may come in any order.
"""

from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Text,
    UniqueConstraint,
)
from sqlmodel import Field, SQLModel

# Constraints have names, so that a later migration can name them (SQLite: batch mode).
NAMES = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
JSON_OR_NULL = JSON(none_as_null=True)
# 64 bits everywhere; SQLite's autoincrement wants its own word for them.
BIG = BigInteger().with_variant(Integer(), "sqlite")


class Base(SQLModel):
    metadata: ClassVar[MetaData] = MetaData(naming_convention=NAMES)


def _refers(columns: list[str], targets: list[str]) -> ForeignKeyConstraint:
    return ForeignKeyConstraint(columns, targets, deferrable=True, initially="DEFERRED")


class Epoch(Base, table=True):
    """One row, raised by each change; its lock makes changes follow one another.

    The other columns say at which epoch each table last changed, so that a reader fetches no more than what is new.
    """

    __tablename__ = "epoch"
    __table_args__ = (CheckConstraint("id = 1", name="single"),)

    id: int = Field(primary_key=True)
    value: int = Field(sa_type=BIG)
    servers: int = Field(sa_type=BIG)
    server_versions: int = Field(sa_type=BIG)
    active_versions: int = Field(sa_type=BIG)
    quarantines: int = Field(sa_type=BIG)
    toolsets: int = Field(sa_type=BIG)
    teams: int = Field(sa_type=BIG)
    accounts: int = Field(sa_type=BIG)
    api_keys: int = Field(sa_type=BIG)
    oauth_clients: int = Field(sa_type=BIG)
    revocations: int = Field(sa_type=BIG)
    policy_bundles: int = Field(sa_type=BIG)
    kill_switches: int = Field(sa_type=BIG)


class Outbox(Base, table=True):
    """Admin notes (JSON) waiting for the log; a position is never used twice."""

    __tablename__ = "outbox"
    __table_args__ = ({"sqlite_autoincrement": True},)

    position: int = Field(primary_key=True, sa_type=BIG)
    epoch: int = Field(sa_type=BIG)
    note: str = Field(sa_type=Text)


class ServerRow(Base, table=True):
    __tablename__ = "servers"

    slug: str = Field(primary_key=True)
    title: str
    created_by: str
    created_at: float
    configured: bool
    tags: list[str] = Field(sa_type=JSON)
    trust: str
    idempotent: list[str] = Field(sa_type=JSON)
    removed_at: float | None


class VersionRow(Base, table=True):
    """A published version. Its tools are rows of `tool_pins`; tags, trust and marks are other tables' facts."""

    __tablename__ = "server_versions"
    __table_args__ = (_refers(["server"], ["servers.slug"]),)

    server: str = Field(primary_key=True)
    version: str = Field(primary_key=True)
    manifest_sha256: str
    endpoint: str
    transport: str
    era: str
    status: str
    published_by: str
    published_at: float
    approved_by: str | None
    auth: dict[str, Any] | None = Field(sa_type=JSON_OR_NULL)


class ToolPinRow(Base, table=True):
    """A pinned tool; `position` is its place in the server's own list."""

    __tablename__ = "tool_pins"
    __table_args__ = (_refers(["server", "version"], ["server_versions.server", "server_versions.version"]),)

    server: str = Field(primary_key=True)
    version: str = Field(primary_key=True)
    name: str = Field(primary_key=True)
    position: int
    sha256: str
    definition: bytes
    tags: list[str] = Field(sa_type=JSON)
    risk: str | None


class ActiveVersionRow(Base, table=True):
    __tablename__ = "active_versions"
    __table_args__ = (
        _refers(["server"], ["servers.slug"]),
        _refers(["server", "version"], ["server_versions.server", "server_versions.version"]),
    )

    server: str = Field(primary_key=True)
    version: str | None


class QuarantineRow(Base, table=True):
    __tablename__ = "quarantines"
    __table_args__ = (
        _refers(["server", "version", "tool"], ["tool_pins.server", "tool_pins.version", "tool_pins.name"]),
    )

    server: str = Field(primary_key=True)
    version: str = Field(primary_key=True)
    tool: str = Field(primary_key=True)
    seen_sha256: str
    seen_at: float


class ToolsetRow(Base, table=True):
    """`entries` are domain.ToolsetEntry as objects. What they name may be gone, or not there yet."""

    __tablename__ = "toolsets"

    slug: str = Field(primary_key=True)
    title: str
    entries: list[dict[str, Any]] = Field(sa_type=JSON)
    created_by: str
    created_at: float
    instructions: str
    search: bool
    configured: bool
    removed_at: float | None


class TeamRow(Base, table=True):
    __tablename__ = "teams"

    name: str = Field(primary_key=True)
    title: str
    created_by: str
    created_at: float
    deactivated_at: float | None


class AccountRow(Base, table=True):
    __tablename__ = "accounts"
    __table_args__ = (UniqueConstraint("issuer", "subject"),)

    id: str = Field(primary_key=True)
    issuer: str
    subject: str
    kind: str
    roles: list[str] = Field(sa_type=JSON)
    created_by: str
    created_at: float
    title: str
    team: str | None
    email: str | None
    password: str | None
    deactivated_at: float | None


class ApiKeyRow(Base, table=True):
    __tablename__ = "api_keys"

    id: str = Field(primary_key=True)
    digest: str
    subject: str
    roles: list[str] = Field(sa_type=JSON)
    created_by: str
    created_at: float
    team: str | None
    expires_at: float | None
    revoked_at: float | None
    scopes: list[str] | None = Field(sa_type=JSON_OR_NULL)
    servers: list[str] | None = Field(sa_type=JSON_OR_NULL)
    calls_per_minute: int | None
    concurrent: int | None
    replaces: str | None


class OAuthClientRow(Base, table=True):
    __tablename__ = "oauth_clients"

    client_id: str = Field(primary_key=True)
    digest: str
    subject: str
    roles: list[str] = Field(sa_type=JSON)
    created_by: str
    created_at: float
    team: str | None
    revoked_at: float | None
    title: str
    grants: list[str] = Field(sa_type=JSON)
    auth_method: str
    redirect_uris: list[str] = Field(sa_type=JSON)
    scopes: list[str] | None = Field(sa_type=JSON_OR_NULL)
    jwks: dict[str, Any] | None = Field(sa_type=JSON_OR_NULL)
    jwks_uri: str | None
    about: dict[str, Any] = Field(sa_type=JSON)
    registration: str | None


class RevocationRow(Base, table=True):
    __tablename__ = "revocations"

    kind: str = Field(primary_key=True)
    selector: str = Field(primary_key=True)
    not_before: float
    over_at: float | None


class PolicyBundleRow(Base, table=True):
    __tablename__ = "policy_bundles"

    sha256: str = Field(primary_key=True)
    files: dict[str, Any] = Field(sa_type=JSON)
    pushed_by: str
    pushed_at: float
    active: bool


class KillSwitchRow(Base, table=True):
    __tablename__ = "kill_switches"

    id: str = Field(primary_key=True)
    scope: str
    selector: str
    mode: str
    reason: str
    thrown_by: str
    thrown_at: float
    epoch: int = Field(sa_type=BIG)
    expires_at: float | None
    released_at: float | None
    released_by: str | None
    release_reason: str | None


class AuthRecord(Base, table=True):
    """What the authorization server and the broker keep (ports.Record); no part of the state, and of no epoch."""

    __tablename__ = "auth_records"
    __table_args__ = (
        Index("ix_auth_records_owner", "kind", "owner"),
        Index("ix_auth_records_expires_at", "expires_at"),
    )

    kind: str = Field(primary_key=True)
    id: str = Field(primary_key=True)
    owner: str
    body: bytes = Field(sa_type=LargeBinary)
    expires_at: float
    revision: int = Field(sa_type=BIG)
