"""Indexes that new rows are added to at their end: content by minute and owner, replays, the audit by action."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

MINUTE = "(created_at / 60000)"


def upgrade() -> None:
    for column in ("created_at", "conversation_id", "user_id"):
        op.drop_index(f"ix_contents_{column}", table_name="contents")
    op.create_index("ix_contents_minute_conversation_id", "contents", [sa.text(MINUTE), "conversation_id"])
    _create_partial("ix_contents_minute_user_id", "contents", [sa.text(MINUTE), "user_id"], "user_id IS NOT NULL")
    _create_partial("ix_contents_ownerless", "contents", ["request_id"], "conversation_id IS NULL")
    _create_partial("ix_requests_replays", "requests", ["created_at", "id"], "reason = 'replay'")
    op.create_index("ix_audit_action_at", "audit", ["action", "at"])


def downgrade() -> None:
    op.drop_index("ix_audit_action_at", table_name="audit")
    op.drop_index("ix_requests_replays", table_name="requests")
    op.drop_index("ix_contents_ownerless", table_name="contents")
    op.drop_index("ix_contents_minute_user_id", table_name="contents")
    op.drop_index("ix_contents_minute_conversation_id", table_name="contents")
    for column in ("created_at", "conversation_id", "user_id"):
        op.create_index(f"ix_contents_{column}", "contents", [column])


def _create_partial(name: str, table: str, columns: list[str | sa.TextClause], where: str) -> None:
    op.create_index(name, table, columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))
