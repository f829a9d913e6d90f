"""Everything: servers, versions, identities, policies, kill switches, the epoch and the outbox."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

KINDS = (
    "servers",
    "server_versions",
    "active_versions",
    "quarantines",
    "api_keys",
    "oauth_clients",
    "revocations",
    "policy_bundles",
    "kill_switches",
)
BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _text(name: str, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.String(), nullable=nullable)


def _number(name: str, nullable: bool = False) -> sa.Column[float]:
    return sa.Column(name, sa.Float(), nullable=nullable)


def _json(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.JSON(), nullable=False)


def _refers(name: str, columns: list[str], targets: list[str]) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(columns, targets, name=name, deferrable=True, initially="DEFERRED")


def upgrade() -> None:
    _create_servers()
    _create_tools()
    _create_identities()
    _create_policies_and_switches()
    epoch = op.create_table(
        "epoch",
        sa.Column("id", sa.Integer(), nullable=False),
        *(sa.Column(name, BIG, nullable=False) for name in ("value", *KINDS)),
        sa.CheckConstraint("id = 1", name="single"),
        sa.PrimaryKeyConstraint("id", name="pk_epoch"),
    )
    op.bulk_insert(epoch, [{"id": 1, "value": 1, **dict.fromkeys(KINDS, 1)}])
    op.create_table(
        "outbox",
        sa.Column("position", BIG, nullable=False),
        sa.Column("epoch", BIG, nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("position", name="pk_outbox"),
        sqlite_autoincrement=True,
    )


def _create_servers() -> None:
    op.create_table(
        "servers",
        *(_text(name) for name in ("slug", "title", "created_by")),
        _number("created_at"),
        sa.Column("configured", sa.Boolean(), nullable=False),
        _json("tags"),
        _text("trust"),
        _number("removed_at", nullable=True),
        sa.PrimaryKeyConstraint("slug", name="pk_servers"),
    )
    op.create_table(
        "server_versions",
        *(_text(name) for name in ("server", "version", "manifest_sha256", "endpoint", "transport", "era", "status")),
        _text("published_by"),
        _number("published_at"),
        _text("approved_by", nullable=True),
        sa.PrimaryKeyConstraint("server", "version", name="pk_server_versions"),
        _refers("fk_server_versions_server_servers", ["server"], ["servers.slug"]),
    )
    op.create_table(
        "active_versions",
        _text("server"),
        _text("version", nullable=True),
        sa.PrimaryKeyConstraint("server", name="pk_active_versions"),
        _refers("fk_active_versions_server_servers", ["server"], ["servers.slug"]),
        _refers(
            "fk_active_versions_server_server_versions",
            ["server", "version"],
            ["server_versions.server", "server_versions.version"],
        ),
    )


def _create_tools() -> None:
    op.create_table(
        "tool_pins",
        *(_text(name) for name in ("server", "version", "name")),
        sa.Column("position", sa.Integer(), nullable=False),
        _text("sha256"),
        sa.Column("definition", sa.LargeBinary(), nullable=False),
        _json("tags"),
        _text("risk", nullable=True),
        sa.PrimaryKeyConstraint("server", "version", "name", name="pk_tool_pins"),
        _refers(
            "fk_tool_pins_server_server_versions",
            ["server", "version"],
            ["server_versions.server", "server_versions.version"],
        ),
    )
    op.create_table(
        "quarantines",
        *(_text(name) for name in ("server", "version", "tool", "seen_sha256")),
        _number("seen_at"),
        sa.PrimaryKeyConstraint("server", "version", "tool", name="pk_quarantines"),
        _refers(
            "fk_quarantines_server_tool_pins",
            ["server", "version", "tool"],
            ["tool_pins.server", "tool_pins.version", "tool_pins.name"],
        ),
    )


def _create_identities() -> None:
    op.create_table(
        "api_keys",
        *(_text(name) for name in ("id", "digest", "subject")),
        _json("roles"),
        _text("created_by"),
        _number("created_at"),
        _text("team", nullable=True),
        _number("expires_at", nullable=True),
        _number("revoked_at", nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
    )
    op.create_table(
        "oauth_clients",
        *(_text(name) for name in ("client_id", "digest", "subject")),
        _json("roles"),
        _text("created_by"),
        _number("created_at"),
        _text("team", nullable=True),
        _number("revoked_at", nullable=True),
        sa.PrimaryKeyConstraint("client_id", name="pk_oauth_clients"),
    )
    op.create_table(
        "revocations",
        *(_text(name) for name in ("kind", "selector")),
        _number("not_before"),
        sa.PrimaryKeyConstraint("kind", "selector", name="pk_revocations"),
    )


def _create_policies_and_switches() -> None:
    op.create_table(
        "policy_bundles",
        _text("sha256"),
        _json("files"),
        _text("pushed_by"),
        _number("pushed_at"),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("sha256", name="pk_policy_bundles"),
    )
    op.create_table(
        "kill_switches",
        *(_text(name) for name in ("id", "scope", "selector", "mode", "reason", "thrown_by")),
        _number("thrown_at"),
        sa.Column("epoch", BIG, nullable=False),
        *(_number(name, nullable=True) for name in ("expires_at", "released_at")),
        *(_text(name, nullable=True) for name in ("released_by", "release_reason")),
        sa.PrimaryKeyConstraint("id", name="pk_kill_switches"),
    )
