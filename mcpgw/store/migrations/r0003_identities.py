"""Teams and accounts, what keys, clients, servers and their versions have gained, and the records of `auth`."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
OWN_CLIENT = '["client_credentials"]'


def upgrade() -> None:
    _teams_and_accounts()
    _what_has_grown()
    op.create_table(
        "auth_records",
        *(sa.Column(name, sa.String(), nullable=False) for name in ("kind", "id", "owner")),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.Column("revision", BIG, nullable=False),
        sa.PrimaryKeyConstraint("kind", "id", name="pk_auth_records"),
    )
    op.create_index("ix_auth_records_owner", "auth_records", ["kind", "owner"])
    op.create_index("ix_auth_records_expires_at", "auth_records", ["expires_at"])


def _teams_and_accounts() -> None:
    op.create_table(
        "teams",
        *(sa.Column(name, sa.String(), nullable=False) for name in ("name", "title", "created_by")),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("deactivated_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("name", name="pk_teams"),
    )
    op.create_table(
        "accounts",
        *(sa.Column(name, sa.String(), nullable=False) for name in ("id", "issuer", "subject", "kind")),
        sa.Column("roles", sa.JSON(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("title", sa.String(), nullable=False),
        *(sa.Column(name, sa.String(), nullable=True) for name in ("team", "email", "password")),
        sa.Column("deactivated_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_accounts"),
        sa.UniqueConstraint("issuer", "subject", name="uq_accounts_issuer"),
    )


def _what_has_grown() -> None:
    with op.batch_alter_table("epoch") as epoch:
        for table in ("teams", "accounts"):
            epoch.add_column(sa.Column(table, BIG, nullable=False, server_default="1"))
    with op.batch_alter_table("servers") as servers:
        servers.add_column(sa.Column("idempotent", sa.JSON(), nullable=False, server_default="[]"))
    with op.batch_alter_table("server_versions") as versions:
        versions.add_column(sa.Column("auth", sa.JSON(), nullable=True))
    with op.batch_alter_table("api_keys") as keys:
        for name in ("scopes", "servers"):
            keys.add_column(sa.Column(name, sa.JSON(), nullable=True))
        for name in ("calls_per_minute", "concurrent"):
            keys.add_column(sa.Column(name, sa.Integer(), nullable=True))
        keys.add_column(sa.Column("replaces", sa.String(), nullable=True))
    with op.batch_alter_table("revocations") as revocations:
        revocations.add_column(sa.Column("over_at", sa.Float(), nullable=True))
    with op.batch_alter_table("oauth_clients") as clients:
        clients.add_column(sa.Column("title", sa.String(), nullable=False, server_default=""))
        clients.add_column(sa.Column("grants", sa.JSON(), nullable=False, server_default=OWN_CLIENT))
        clients.add_column(sa.Column("auth_method", sa.String(), nullable=False, server_default="client_secret_basic"))
        clients.add_column(sa.Column("redirect_uris", sa.JSON(), nullable=False, server_default="[]"))
        for name in ("scopes", "jwks"):
            clients.add_column(sa.Column(name, sa.JSON(), nullable=True))
        clients.add_column(sa.Column("jwks_uri", sa.String(), nullable=True))
        clients.add_column(sa.Column("about", sa.JSON(), nullable=False, server_default="{}"))
        clients.add_column(sa.Column("registration", sa.String(), nullable=True))
