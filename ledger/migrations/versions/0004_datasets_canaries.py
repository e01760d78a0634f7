"""Datasets and the requests in them, whose content is whose, pinned releases, canaries, a replica's model name."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("contents") as contents:
        contents.add_column(sa.Column("conversation_id", sa.String(length=32), nullable=True))
        contents.add_column(sa.Column("user_id", sa.String(length=32), nullable=True))
    op.create_index(op.f("ix_contents_conversation_id"), "contents", ["conversation_id"], unique=False)
    op.create_index(op.f("ix_contents_user_id"), "contents", ["user_id"], unique=False)
    op.create_table(
        "datasets",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("job_id", sa.String(length=64), nullable=True),
        sa.Column("folder", sa.String(length=1000), nullable=False),
        sa.Column("content_hash", sa.String(length=64), nullable=False),
        sa.Column("manifest", sa.JSON(), nullable=False),
        sa.Column("flagged_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_datasets")),
    )
    op.create_table(
        "dataset_rows",
        sa.Column("dataset_id", sa.String(length=64), nullable=False),
        sa.Column("request_id", sa.String(length=64), nullable=False),
        sa.Column("held_out", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("dataset_id", "request_id", name=op.f("pk_dataset_rows")),
    )
    op.create_index(op.f("ix_dataset_rows_request_id"), "dataset_rows", ["request_id"], unique=False)
    with op.batch_alter_table("releases") as releases:
        releases.add_column(sa.Column("dataset_id", sa.String(length=64), nullable=True))
        releases.add_column(sa.Column("pinned", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.create_table(
        "canaries",
        sa.Column("release_id", sa.String(length=64), nullable=False),
        sa.Column("champion_id", sa.String(length=64), nullable=False),
        sa.Column("mode", sa.String(length=16), nullable=False),
        sa.Column("share", sa.Float(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.Column("outcome", sa.String(length=16), nullable=True),
        sa.Column("figures", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("release_id", "started_at", name=op.f("pk_canaries")),
    )
    with op.batch_alter_table("replicas") as replicas:
        replicas.add_column(sa.Column("model", sa.String(length=200), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("replicas") as replicas:
        replicas.drop_column("model")
    op.drop_table("canaries")
    with op.batch_alter_table("releases") as releases:
        releases.drop_column("pinned")
        releases.drop_column("dataset_id")
    op.drop_table("dataset_rows")
    op.drop_table("datasets")
    op.drop_index(op.f("ix_contents_user_id"), table_name="contents")
    op.drop_index(op.f("ix_contents_conversation_id"), table_name="contents")
    with op.batch_alter_table("contents") as contents:
        contents.drop_column("user_id")
        contents.drop_column("conversation_id")
