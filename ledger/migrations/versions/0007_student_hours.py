"""How long student servers ran, by hour and release."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "student_hours",
        sa.Column("hour", sa.BigInteger(), nullable=False),
        sa.Column("release_id", sa.String(length=64), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("hour", "release_id", name=op.f("pk_student_hours")),
    )


def downgrade() -> None:
    op.drop_table("student_hours")
