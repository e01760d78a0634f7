"""Labels of agreement, events of the loop, and how new a request was to its router."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("requests") as requests:
        requests.add_column(sa.Column("novelty", sa.Float(), nullable=True))
    op.create_table(
        "labels",
        sa.Column("request_id", sa.String(length=64), nullable=False),
        sa.Column("source", sa.String(length=16), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("release_id", sa.String(length=64), nullable=True),
        sa.Column("comparator", sa.String(length=32), nullable=False),
        sa.Column("agreement", sa.Float(), nullable=False),
        sa.Column("propensity", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("request_id", "source", name=op.f("pk_labels")),
    )
    op.create_index(op.f("ix_labels_created_at"), "labels", ["created_at"], unique=False)
    op.create_table(
        "events",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("subject", sa.String(length=200), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
    )
    op.create_index(op.f("ix_events_at"), "events", ["at"], unique=False)


def downgrade() -> None:
    op.drop_table("events")
    op.drop_table("labels")
    with op.batch_alter_table("requests") as requests:
        requests.drop_column("novelty")
