"""Toolsets: named selections of tools over several servers."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "toolsets",
        *(sa.Column(name, sa.String(), nullable=False) for name in ("slug", "title")),
        sa.Column("entries", sa.JSON(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("instructions", sa.String(), nullable=False),
        *(sa.Column(name, sa.Boolean(), nullable=False) for name in ("search", "configured")),
        sa.Column("removed_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("slug", name="pk_toolsets"),
    )
    with op.batch_alter_table("epoch") as epoch:
        epoch.add_column(sa.Column("toolsets", BIG, nullable=False, server_default="1"))
