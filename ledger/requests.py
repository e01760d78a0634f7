"""The ``requests`` and ``contents`` tables, and the hourly usage rolled up as rows come in."""

import bisect
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter
from typing import Any, Final

import sqlalchemy as sa

from ledger import labels, schema
from ledger.conversations import conversation_id, user_id
from ledger.erased import is_erased, marks_since
from ledger.records import IMPORTED, Content, RequestRecord, decode_content, encode_content
from ledger.store import Store, insert_into

__all__ = (
    "LATENCY_BUCKETS_MS",
    "Usage",
    "count",
    "expire_contents",
    "get",
    "insert_records",
    "latency_quantile",
    "usage_by",
)

HOUR_MS: Final = 3_600_000
LATENCY_BUCKETS_MS: Final = (
    5,
    10,
    25,
    50,
    100,
    250,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    30_000,
    60_000,
    600_000,
)

IDS_ASKED: Final = 500
"""At once; SQLite takes some ten thousand parameters, PostgreSQL 65,535."""

_row_columns: Final = [column.name for column in schema.requests.columns]
_row_values: Final = attrgetter(*_row_columns)
_TAGS: Final = _row_columns.index("tags")
_usage_sums: Final = (
    "requests",
    "errors",
    "prompt_tokens",
    "completion_tokens",
    "cost_nano",
    "baseline_nano",
)
_usage_key: Final = ("hour", "route", "reason", "release_id", "key_id")


@dataclass(frozen=True, slots=True)
class Usage:
    """Sums over some requests. Money in nano-units."""

    requests: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_nano: int = 0
    baseline_nano: int = 0

    @property
    def saving(self) -> float:
        """Share of the baseline that was not spent, 0 where nothing was asked."""
        return 1 - self.cost_nano / self.baseline_nano if self.baseline_nano else 0.0


def insert_records(store: Store, records: Sequence[RequestRecord]) -> int:
    """Insert the records that are not in the store yet, with their content, label and share of the rollups.

    Idempotent by request id: the same record twice counts once. Returns how many were new.
    """
    if not records:
        return 0
    by_id = {record.id: record for record in records}
    with store.write() as connection:
        known = _known(connection, list(by_id))
        new = [record for request_id, record in by_id.items() if request_id not in known]
        if not new:
            return 0
        _insert_rows(connection, schema.requests, [_row(record) for record in new])
        _insert_rows(connection, schema.contents, _contents(connection, new))
        found = [record.label for record in new if record.label is not None]
        if found:
            labels.insert(connection, found)
        _roll_up(connection, new)
    return len(new)


def _contents(connection: sa.Connection, records: Sequence[RequestRecord]) -> list[tuple[Any, ...]]:
    """The rows of ``contents``, without those that were erased before they came here."""
    marks = marks_since(connection, min(record.created_at for record in records))
    kept = [(record, _kept(record, record.content)) for record in records if record.content is not None]
    return [
        row
        for record, row in kept
        if not marks or not is_erased(marks, record, {"conversation": row[3], "user": row[4]})
    ]


def _kept(record: RequestRecord, content: Content) -> tuple[Any, ...]:
    return (
        record.id,
        record.created_at,
        encode_content(content),
        conversation_id(content.messages),
        user_id(content),
    )


def _known(connection: sa.Connection, ids: list[str]) -> set[str]:
    """Those that are there already."""
    column, found = schema.requests.c.id, set[str]()
    for start in range(0, len(ids), IDS_ASKED):
        found.update(
            connection.execute(sa.select(column).where(column.in_(ids[start : start + IDS_ASKED]))).scalars()
        )
    return found


def _insert_rows(connection: sa.Connection, table: sa.Table, rows: list[tuple[Any, ...]]) -> None:
    """Insert rows whose values are the driver's own, in the order of the columns.

    SQLAlchemy's preparation of each row, which takes twice the database's time, is left out.
    """
    if not rows:
        return
    text, names = _statement(connection.dialect, table)
    if names is None:
        columns = [column.name for column in table.columns]
        connection.exec_driver_sql(text, [dict(zip(columns, row, strict=True)) for row in rows])
    else:
        connection.exec_driver_sql(text, rows)


@lru_cache(maxsize=8)
def _statement(dialect: sa.Dialect, table: sa.Table) -> tuple[str, list[str] | None]:
    """The driver's text of an insert, and the order of its values, or None where the driver takes them by name."""
    compiled = sa.insert(table).compile(dialect=dialect)
    return str(compiled), compiled.positiontup


def _row(record: RequestRecord) -> tuple[Any, ...]:
    values = _row_values(record)
    return *values[:_TAGS], json.dumps(record.tags), *values[_TAGS + 1 :]


def _roll_up(connection: sa.Connection, records: Sequence[RequestRecord]) -> None:
    usage: dict[tuple[int, str, str, str, str], list[int]] = defaultdict(lambda: [0] * len(_usage_sums))
    latency: dict[tuple[int, str, int], int] = defaultdict(int)
    for r in records:
        hour = r.created_at // HOUR_MS * HOUR_MS
        # a budget is spent here, and not where history comes from
        key_id = "" if r.reason == IMPORTED else r.key_id or ""
        sums = usage[hour, r.route, r.reason, r.release_id or "", key_id]
        amounts = (
            1,
            int(r.status >= 400),
            r.prompt_tokens + r.attempt_prompt_tokens,
            r.completion_tokens + r.attempt_completion_tokens,
            r.cost_nano,
            r.baseline_nano,
        )
        for i, amount in enumerate(amounts):
            sums[i] += amount
        if r.reason == IMPORTED:
            continue
        position = bisect.bisect_left(LATENCY_BUCKETS_MS, r.latency_ms)
        latency[hour, r.route, LATENCY_BUCKETS_MS[min(position, len(LATENCY_BUCKETS_MS) - 1)]] += 1
    _add(
        connection,
        schema.usage_hourly,
        _usage_key,
        [dict(zip(_usage_key + _usage_sums, (*key, *sums), strict=True)) for key, sums in usage.items()],
    )
    _add(
        connection,
        schema.latency_hourly,
        ("hour", "route", "le_ms"),
        [{"hour": hour, "route": route, "le_ms": le, "requests": n} for (hour, route, le), n in latency.items()],
    )


def _add(connection: sa.Connection, table: sa.Table, key: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    if not rows:
        return
    insert = insert_into(connection, table)
    sums = {column.name: column + insert.excluded[column.name] for column in table.columns if column.name not in key}
    connection.execute(insert.on_conflict_do_update(index_elements=list(key), set_=sums), list(rows))


def get(store: Store, request_id: str) -> tuple[dict[str, Any], Content | None] | None:
    """One request's row and its content, or None."""
    statement = (
        sa.select(schema.requests, schema.contents.c.body)
        .outerjoin(schema.contents, schema.contents.c.request_id == schema.requests.c.id)
        .where(schema.requests.c.id == request_id)
    )
    with store.read() as connection:
        row = connection.execute(statement).mappings().first()
    if row is None:
        return None
    values = dict(row)
    body = values.pop("body")
    return values, decode_content(body) if body is not None else None


def count(store: Store, route: str | None = None) -> int:
    """How many requests are recorded, of one route or of all. Reads the rollups."""
    statement = sa.select(sa.func.coalesce(sa.func.sum(schema.usage_hourly.c.requests), 0))
    if route is not None:
        statement = statement.where(schema.usage_hourly.c.route == route)
    with store.read() as connection:
        return int(connection.execute(statement).scalar_one())


def usage_by(store: Store, columns: Sequence[str], since: int = 0) -> dict[tuple[Any, ...], Usage]:
    """Usage since a time (ms), grouped by columns of the rollup (``hour``, ``route``, ``reason``,
    ``release_id``, ``key_id``). Reads the rollups.
    """
    table = schema.usage_hourly
    group = [table.c[name] for name in columns]
    statement = sa.select(*group, *(sa.func.sum(table.c[name]).label(name) for name in _usage_sums))
    statement = statement.where(table.c.hour >= since // HOUR_MS * HOUR_MS).group_by(*group)
    with store.read() as connection:
        rows = connection.execute(statement).all()
    n = len(columns)
    return {tuple(row[:n]): Usage(*(int(value) for value in row[n:])) for row in rows if row[n] is not None}


def latency_quantile(store: Store, route: str, q: float, since: int = 0) -> float | None:
    """Quantile of the latency (ms) read from the hourly histogram, linear within a bucket; None without data."""
    table = schema.latency_hourly
    statement = (
        sa.select(table.c.le_ms, sa.func.sum(table.c.requests))
        .where(table.c.route == route, table.c.hour >= since // HOUR_MS * HOUR_MS)
        .group_by(table.c.le_ms)
        .order_by(table.c.le_ms)
    )
    with store.read() as connection:
        buckets = [(int(le), int(n)) for le, n in connection.execute(statement)]
    total = sum(n for _, n in buckets)
    if not total:
        return None
    rank, seen = q * total, 0
    for le, n in buckets:
        if seen + n >= rank:
            position = LATENCY_BUCKETS_MS.index(le)
            low = LATENCY_BUCKETS_MS[position - 1] if position else 0
            return low + (le - low) * (rank - seen) / n
        seen += n
    return float(buckets[-1][0])


def expire_contents(store: Store, before: int) -> int:
    """Delete the content of requests older than a time (ms), and what feedback says of it in words; the rows, scores
    and rollups stay. Returns how many.
    """
    said = schema.feedback
    kept = sa.select(schema.contents.c.request_id).where(schema.contents.c.request_id == said.c.request_id)
    with store.write() as connection:
        result = connection.execute(sa.delete(schema.contents).where(schema.contents.c.created_at < before))
        # a comment may repeat what was asked
        connection.execute(sa.update(said).where(said.c.body.is_not(None), ~kept.exists()).values(body=None))
        return int(result.rowcount)
