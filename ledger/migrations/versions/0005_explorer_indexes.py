"""Indexes that pages of requests walk along, and rollups by one dimension: hours and days, tags and models too."""

import bisect
import itertools
import json
import operator
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from alembic import op

from ledger.store import insert_into

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

BATCH = 10_000
HOUR_MS = 3_600_000
STEPS = (HOUR_MS, 24 * HOUR_MS)
BUCKETS_MS = (5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 600_000)
SUMS = ("requests", "errors", "prompt_tokens", "completion_tokens", "cost_nano", "baseline_nano")
KEY = ("dimension", "step_ms", "at", "route", "value")


def upgrade() -> None:
    op.drop_index("ix_requests_created_at", table_name="requests")
    op.drop_index("ix_requests_route_created_at", table_name="requests")
    op.create_index("ix_requests_created_at_id", "requests", ["created_at", "id"], unique=False)
    op.create_index("ix_requests_route_created_at_id", "requests", ["route", "created_at", "id"], unique=False)
    usage = op.create_table(
        "usage_rollups",
        sa.Column("dimension", sa.String(length=16), nullable=False),
        sa.Column("step_ms", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("route", sa.String(length=16), nullable=False),
        sa.Column("value", sa.String(length=200), nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in SUMS),
        sa.PrimaryKeyConstraint(*KEY, name=op.f("pk_usage_rollups")),
        sqlite_with_rowid=False,
    )
    timed = op.create_table(
        "first_token_hourly",
        sa.Column("hour", sa.BigInteger(), nullable=False),
        sa.Column("route", sa.String(length=16), nullable=False),
        sa.Column("le_ms", sa.Integer(), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("hour", "route", "le_ms", name=op.f("pk_first_token_hourly")),
        sqlite_with_rowid=False,
    )
    _from_the_hours(usage)
    _from_the_requests(usage, timed)


def downgrade() -> None:
    op.drop_table("first_token_hourly")
    op.drop_table("usage_rollups")
    op.drop_index("ix_requests_route_created_at_id", table_name="requests")
    op.drop_index("ix_requests_created_at_id", table_name="requests")
    op.create_index("ix_requests_route_created_at", "requests", ["route", "created_at"], unique=False)
    op.create_index("ix_requests_created_at", "requests", ["created_at"], unique=False)


def _from_the_hours(usage: sa.Table) -> None:
    """What ``usage_hourly`` knows: it is small beside the requests."""
    for dimension in ("reason", "release_id", "key_id"):
        hours = sa.table("usage_hourly", *map(sa.column, ("hour", "route", dimension, *SUMS)))
        for step in STEPS:
            at = hours.c.hour - hours.c.hour % step
            group = (at, hours.c.route, hours.c[dimension])
            sums = [sa.func.sum(hours.c[name]) for name in SUMS]
            summed = sa.select(sa.literal(dimension), sa.literal(step, sa.BigInteger), *group, *sums).group_by(*group)
            op.get_bind().execute(sa.insert(usage).from_select([*KEY, *SUMS], summed))


def _from_the_requests(usage: sa.Table, timed: sa.Table) -> None:
    """What only the requests know: models, tags and the first token. A batch at a time, so that memory is bounded."""
    for rows in _batches():
        sums: dict[tuple[Any, ...], list[int]] = defaultdict(lambda: [0] * len(SUMS))
        times: dict[tuple[Any, ...], list[int]] = defaultdict(lambda: [0])
        for row in rows:
            amounts = (1, int(row.status >= 400), row.prompt, row.completion, row.cost_nano, row.baseline_nano)
            for (dimension, value), step in itertools.product(_named(row), STEPS):
                of = sums[dimension, step, row.created_at - row.created_at % step, row.route, value]
                of[:] = map(operator.add, of, amounts)
            if row.first_token_ms is not None and row.reason != "imported":
                place = min(bisect.bisect_left(BUCKETS_MS, row.first_token_ms), len(BUCKETS_MS) - 1)
                times[row.created_at - row.created_at % HOUR_MS, row.route, BUCKETS_MS[place]][0] += 1
        _add(usage, sums)
        _add(timed, times)


def _named(row: Any) -> set[tuple[str, str]]:
    """The model and each tag but that of a replay, which names one request; without any, the empty one."""
    tags = json.loads(row.tags) if isinstance(row.tags, str) else row.tags
    kept = {tag.replace("\0", "")[:200] for tag in tags if not tag.startswith("replay-of:")}
    return {("model", row.model), *(("tag", tag) for tag in kept or {""})}


def _batches() -> Iterator[Any]:
    """The requests, oldest first."""
    connection = op.get_bind()
    asked = sa.text(
        "SELECT id, created_at, route, reason, model, status, tags, cost_nano, baseline_nano, first_token_ms, "
        "prompt_tokens + attempt_prompt_tokens AS prompt, "
        "completion_tokens + attempt_completion_tokens AS completion "
        "FROM requests WHERE (created_at, id) > (:at, :id) ORDER BY created_at, id LIMIT :batch"
    )
    at, last = -(2**63), ""
    while True:
        rows = connection.execute(asked, {"at": at, "id": last, "batch": BATCH}).all()
        if not rows:
            return
        yield rows
        at, last = rows[-1].created_at, rows[-1].id


def _add(table: sa.Table, sums: dict[tuple[Any, ...], list[int]]) -> None:
    if not sums:
        return
    connection = op.get_bind()
    insert = insert_into(connection, table)
    more = {column.name: column + insert.excluded[column.name] for column in table.columns if not column.primary_key}
    key = [column.name for column in table.primary_key]
    rows = [dict(zip(table.columns.keys(), (*of, *amounts), strict=True)) for of, amounts in sums.items()]
    connection.execute(insert.on_conflict_do_update(index_elements=key, set_=more), rows)
