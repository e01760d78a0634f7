"""The tables. SQLite and PostgreSQL both take them; nothing outside `ledger` names a column type."""

import sqlalchemy as sa

from ledger.batch_tables import batches, files, metadata

__all__ = (
    "audit",
    "batches",
    "canaries",
    "content_minute",
    "contents",
    "dataset_rows",
    "datasets",
    "events",
    "feedback",
    "files",
    "first_token_hourly",
    "job_events",
    "jobs",
    "keys",
    "labels",
    "latency_hourly",
    "leases",
    "metadata",
    "releases",
    "replicas",
    "requests",
    "responses",
    "student_hours",
    "usage_hourly",
    "usage_rollups",
    "webhook_deliveries",
    "webhook_messages",
)

requests = sa.Table(
    "requests",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("key_id", sa.String(64)),
    sa.Column("endpoint", sa.String(32), nullable=False),
    sa.Column("model", sa.String(200), nullable=False),
    sa.Column("route", sa.String(16), nullable=False),
    sa.Column("reason", sa.String(32), nullable=False),
    sa.Column("release_id", sa.String(64)),
    sa.Column("score", sa.Float),
    sa.Column("confidence", sa.Float),
    sa.Column("novelty", sa.Float),
    sa.Column("propensity", sa.Float, nullable=False),
    sa.Column("status", sa.Integer, nullable=False),
    sa.Column("error_code", sa.String(64)),
    sa.Column("finish_reason", sa.String(32)),
    sa.Column("stream", sa.Boolean, nullable=False),
    sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
    sa.Column("completion_tokens", sa.BigInteger, nullable=False),
    sa.Column("cached_tokens", sa.BigInteger, nullable=False),
    sa.Column("attempt_prompt_tokens", sa.BigInteger, nullable=False),
    sa.Column("attempt_completion_tokens", sa.BigInteger, nullable=False),
    sa.Column("cost_nano", sa.BigInteger, nullable=False),
    sa.Column("baseline_nano", sa.BigInteger, nullable=False),
    sa.Column("latency_ms", sa.Float, nullable=False),
    sa.Column("first_token_ms", sa.Float),
    sa.Column("tags", sa.JSON, nullable=False),
    sa.Column("trainable", sa.Boolean, nullable=False),
    sa.Index("ix_requests_created_at_id", "created_at", "id"),
    sa.Index("ix_requests_route_created_at_id", "route", "created_at", "id"),
    sa.Index(
        "ix_requests_replays",
        "created_at",
        "id",
        sqlite_where=sa.text("reason = 'replay'"),
        postgresql_where=sa.text("reason = 'replay'"),
    ),
)

contents = sa.Table(
    "contents",
    metadata,
    sa.Column("request_id", sa.String(64), primary_key=True),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("conversation_id", sa.String(32)),
    sa.Column("user_id", sa.String(32)),
)
content_minute = contents.c.created_at // sa.literal_column("60000", sa.BigInteger)
"""The minute that content was asked in. An index of hashes alone would have each insert at a place of its own, all
over a file that does not fit into memory; behind the minute, new ones lie together. `ledger.owners` searches it.
"""
sa.Index("ix_contents_minute_conversation_id", content_minute, contents.c.conversation_id)
sa.Index(
    "ix_contents_minute_user_id",
    content_minute,
    contents.c.user_id,
    sqlite_where=contents.c.user_id.is_not(None),
    postgresql_where=contents.c.user_id.is_not(None),
)
sa.Index(
    "ix_contents_ownerless",
    contents.c.request_id,
    sqlite_where=contents.c.conversation_id.is_(None),
    postgresql_where=contents.c.conversation_id.is_(None),
)

usage_hourly = sa.Table(
    "usage_hourly",
    metadata,
    sa.Column("hour", sa.BigInteger, primary_key=True),
    sa.Column("route", sa.String(16), primary_key=True),
    sa.Column("reason", sa.String(32), primary_key=True),
    sa.Column("release_id", sa.String(64), primary_key=True),
    sa.Column("key_id", sa.String(64), primary_key=True),
    sa.Column("requests", sa.BigInteger, nullable=False),
    sa.Column("errors", sa.BigInteger, nullable=False),
    sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
    sa.Column("completion_tokens", sa.BigInteger, nullable=False),
    sa.Column("cost_nano", sa.BigInteger, nullable=False),
    sa.Column("baseline_nano", sa.BigInteger, nullable=False),
)

latency_hourly = sa.Table(
    "latency_hourly",
    metadata,
    sa.Column("hour", sa.BigInteger, primary_key=True),
    sa.Column("route", sa.String(16), primary_key=True),
    sa.Column("le_ms", sa.Integer, primary_key=True),
    sa.Column("requests", sa.BigInteger, nullable=False),
)

usage_rollups = sa.Table(
    "usage_rollups",
    metadata,
    sa.Column("dimension", sa.String(16), primary_key=True),
    sa.Column("step_ms", sa.BigInteger, primary_key=True),
    sa.Column("at", sa.BigInteger, primary_key=True),
    sa.Column("route", sa.String(16), primary_key=True),
    sa.Column("value", sa.String(200), primary_key=True),
    sa.Column("requests", sa.BigInteger, nullable=False),
    sa.Column("errors", sa.BigInteger, nullable=False),
    sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
    sa.Column("completion_tokens", sa.BigInteger, nullable=False),
    sa.Column("cost_nano", sa.BigInteger, nullable=False),
    sa.Column("baseline_nano", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

first_token_hourly = sa.Table(
    "first_token_hourly",
    metadata,
    sa.Column("hour", sa.BigInteger, primary_key=True),
    sa.Column("route", sa.String(16), primary_key=True),
    sa.Column("le_ms", sa.Integer, primary_key=True),
    sa.Column("requests", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

keys = sa.Table(
    "keys",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False, unique=True),
    sa.Column("last4", sa.String(4), nullable=False),
    sa.Column("scopes", sa.JSON, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.BigInteger),
    sa.Column("revoked_at", sa.BigInteger),
    sa.Column("policy", sa.JSON, nullable=False, server_default="{}"),
    sa.Column("previous_digest", sa.String(64), index=True),
    sa.Column("previous_until", sa.BigInteger),
)

responses = sa.Table(
    "responses",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("created_at", sa.BigInteger, nullable=False, index=True),
    sa.Column("key_id", sa.String(64)),
    sa.Column("request_id", sa.String(64), nullable=False),
    sa.Column("previous_id", sa.String(64)),
    sa.Column("body", sa.LargeBinary, nullable=False),
)

feedback = sa.Table(
    "feedback",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("created_at", sa.BigInteger, nullable=False, index=True),
    sa.Column("request_id", sa.String(64), nullable=False, index=True),
    sa.Column("key_id", sa.String(64)),
    sa.Column("score", sa.Float),
    sa.Column("label", sa.String(100)),
    sa.Column("body", sa.LargeBinary),
)

labels = sa.Table(
    "labels",
    metadata,
    sa.Column("request_id", sa.String(64), primary_key=True),
    sa.Column("source", sa.String(16), primary_key=True),
    sa.Column("created_at", sa.BigInteger, nullable=False, index=True),
    sa.Column("release_id", sa.String(64)),
    sa.Column("comparator", sa.String(32), nullable=False),
    sa.Column("agreement", sa.Float, nullable=False),
    sa.Column("propensity", sa.Float, nullable=False),
)

releases = sa.Table(
    "releases",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("promoted_at", sa.BigInteger),
    sa.Column("parent_id", sa.String(64)),
    sa.Column("job_id", sa.String(64)),
    sa.Column("folder", sa.String(1000), nullable=False),
    sa.Column("content_hash", sa.String(64), nullable=False),
    sa.Column("summary", sa.JSON, nullable=False),
    sa.Column("dataset_id", sa.String(64)),
    sa.Column("pinned", sa.Boolean, nullable=False, server_default=sa.false()),
)
sa.Index(
    "uq_releases_one_live",
    releases.c.state,
    unique=True,
    sqlite_where=releases.c.state == "live",
    postgresql_where=releases.c.state == "live",
)

datasets = sa.Table(
    "datasets",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("job_id", sa.String(64)),
    sa.Column("folder", sa.String(1000), nullable=False),
    sa.Column("content_hash", sa.String(64), nullable=False),
    sa.Column("manifest", sa.JSON, nullable=False),
    sa.Column("flagged_at", sa.BigInteger),
)

dataset_rows = sa.Table(
    "dataset_rows",
    metadata,
    sa.Column("dataset_id", sa.String(64), primary_key=True),
    sa.Column("request_id", sa.String(64), primary_key=True, index=True),
    sa.Column("held_out", sa.Boolean, nullable=False),
)

canaries = sa.Table(
    "canaries",
    metadata,
    sa.Column("release_id", sa.String(64), primary_key=True),
    sa.Column("champion_id", sa.String(64), nullable=False),
    sa.Column("mode", sa.String(16), nullable=False),
    sa.Column("share", sa.Float, nullable=False),
    sa.Column("started_at", sa.BigInteger, primary_key=True),
    sa.Column("ended_at", sa.BigInteger),
    sa.Column("outcome", sa.String(16)),
    sa.Column("figures", sa.JSON, nullable=False),
)

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("state", sa.String(24), nullable=False, index=True),
    sa.Column("trigger", sa.String(32), nullable=False),
    sa.Column("actor", sa.String(200), nullable=False),
    sa.Column("settings", sa.JSON, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
    sa.Column("lease_owner", sa.String(100)),
    sa.Column("lease_until", sa.BigInteger),
    sa.Column("cancel_requested", sa.Boolean, nullable=False),
    sa.Column("release_id", sa.String(64)),
    sa.Column("error", sa.Text),
    sa.Column("result", sa.JSON, nullable=False),
)

job_events = sa.Table(
    "job_events",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("job_id", sa.String(64), nullable=False, index=True),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("data", sa.JSON, nullable=False),
)

replicas = sa.Table(
    "replicas",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("release_id", sa.String(64), nullable=False),
    sa.Column("url", sa.String(500), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("heartbeat_at", sa.BigInteger, nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("model", sa.String(200)),
)

student_hours = sa.Table(
    "student_hours",
    metadata,
    sa.Column("hour", sa.BigInteger, primary_key=True),
    sa.Column("release_id", sa.String(64), primary_key=True),
    sa.Column("seconds", sa.Float, nullable=False),
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("actor", sa.String(200), nullable=False),
    sa.Column("action", sa.String(64), nullable=False),
    sa.Column("subject", sa.String(200), nullable=False),
    sa.Column("detail", sa.JSON, nullable=False),
    sa.Index("ix_audit_action_at", "action", "at"),
)

events = sa.Table(
    "events",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("at", sa.BigInteger, nullable=False, index=True),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("subject", sa.String(200), nullable=False),
    sa.Column("data", sa.JSON, nullable=False),
)

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("owner", sa.String(100), nullable=False),
    sa.Column("until", sa.BigInteger, nullable=False),
)

webhook_messages = sa.Table(
    "webhook_messages",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("message_id", sa.String(64), nullable=False, unique=True),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("kind", sa.String(64), nullable=False),
    sa.Column("subject", sa.String(200), nullable=False),
    sa.Column("data", sa.JSON, nullable=False),
    sa.Column("taken_at", sa.BigInteger, index=True),
)

webhook_deliveries = sa.Table(
    "webhook_deliveries",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("message_id", sa.String(64), nullable=False),
    sa.Column("endpoint", sa.String(64), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("due_at", sa.BigInteger),
    sa.Column("last_status", sa.Integer),
    sa.Column("last_error", sa.String(500)),
    sa.Column("ended_at", sa.BigInteger),
    sa.UniqueConstraint("message_id", "endpoint"),
    sa.Index("ix_webhook_deliveries_endpoint_due_at", "endpoint", "due_at"),
)
