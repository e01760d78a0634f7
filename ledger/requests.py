"""The ``requests`` and ``contents`` tables, and what the hourly sums say of all requests."""

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter
from typing import Any, Final

import sqlalchemy as sa

from ledger import labels, schema
from ledger.conversations import conversation_id, user_id
from ledger.erased import is_erased, marks_since
from ledger.records import Content, RequestRecord, decode_content, encode_content
from ledger.rollups import DAY_MS, HOUR_MS, SUMS, RollUp, insert_rows, quantile
from ledger.store import Store

__all__ = ("Usage", "count", "expire_contents", "get", "insert_records", "latency_quantile", "usage_by")

IDS_ASKED: Final = 500
"""At once; SQLite takes some ten thousand parameters, PostgreSQL 65,535."""
INSERTED_AT_ONCE: Final = 500
"""Of one transaction: what prepares them for the driver keeps the interpreter's lock for a millisecond then."""
EXPIRED_AT_ONCE: Final = 1_000
MINUTE_MS: Final = 60_000

_row_columns: Final = [column.name for column in schema.requests.columns]
_row_values: Final = attrgetter(*_row_columns)
_TAGS: Final = _row_columns.index("tags")


@dataclass(frozen=True, slots=True)
class Usage:
    """Sums over some requests. Money in nano-units."""

    requests: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_nano: int = 0
    baseline_nano: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        """The sums over both."""
        return Usage(
            self.requests + other.requests,
            self.errors + other.errors,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cost_nano + other.cost_nano,
            self.baseline_nano + other.baseline_nano,
        )

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
    with store.write("rows") as connection:
        known = _known(connection, list(by_id))
        new = [record for request_id, record in by_id.items() if request_id not in known]
        if not new:
            return 0
        marks = marks_since(connection, min(record.created_at for record in new))
        sums = RollUp()
        for start in range(0, len(new), INSERTED_AT_ONCE):
            some = new[start : start + INSERTED_AT_ONCE]
            insert_rows(connection, schema.requests, [_row(record) for record in some])
            insert_rows(connection, schema.contents, _contents(some, marks))
            sums.count(some)
        found = [record.label for record in new if record.label is not None]
        if found:
            labels.insert(connection, found)
        sums.add(connection)
    return len(new)


def _contents(records: Sequence[RequestRecord], marks: Mapping[str, int]) -> list[tuple[Any, ...]]:
    """The rows of ``contents``, without those that were erased before they came here."""
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


def _row(record: RequestRecord) -> tuple[Any, ...]:
    values = _row_values(record)
    if math.isnan(record.latency_ms + record.propensity):
        # SQLite refuses it, PostgreSQL would take it, and every sum of it would be none
        raise OverflowError(f"request {record.id}: its latency or its propensity is no number")
    return *values[:_TAGS], _written(tuple(record.tags)), *values[_TAGS + 1 :]


@lru_cache(maxsize=256)
def _written(tags: tuple[str, ...]) -> str:
    return json.dumps(tags)


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
    table = schema.usage_rollups
    of_days = sa.and_(table.c.dimension == "reason", table.c.step_ms == DAY_MS)
    statement = sa.select(sa.func.coalesce(sa.func.sum(table.c.requests), 0)).where(of_days)
    if route is not None:
        statement = statement.where(table.c.route == route)
    with store.read() as connection:
        return int(connection.execute(statement).scalar_one())


def usage_by(store: Store, columns: Sequence[str], since: int = 0) -> dict[tuple[Any, ...], Usage]:
    """Usage since a time (ms), grouped by columns of the rollup (``hour``, ``route``, ``reason``,
    ``release_id``, ``key_id``). Reads the rollups.
    """
    table = schema.usage_hourly
    group = [table.c[name] for name in columns]
    statement = sa.select(*group, *(sa.func.sum(table.c[name]).label(name) for name in SUMS))
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
    return quantile(buckets, q)


def expire_contents(store: Store, before: int, batch: int = EXPIRED_AT_ONCE) -> int:
    """Delete the content of requests older than a time (ms), and what feedback says of it in words; the rows, scores
    and rollups stay. Returns how many.

    In transactions of ``batch`` rows, with as long a pause after each, in which others can write.
    """
    table, minute = schema.contents, schema.content_minute
    old = sa.and_(minute <= before // MINUTE_MS, table.c.created_at < before)
    some = sa.select(table.c.request_id).where(old).order_by(minute).limit(batch)
    deleted, last = 0, batch
    while last == batch:
        began = time.monotonic()
        with store.write() as connection:
            last = int(connection.execute(sa.delete(table).where(table.c.request_id.in_(some))).rowcount)
        deleted += last
        time.sleep(time.monotonic() - began)
    _forget_words(store, batch)
    return deleted


def _forget_words(store: Store, batch: int) -> None:
    """A comment may repeat what was asked: it goes with the content of its request."""
    said, contents = schema.feedback, schema.contents
    kept = sa.select(contents.c.request_id).where(contents.c.request_id == said.c.request_id).exists()
    some = sa.select(said.c.id).where(said.c.body.is_not(None), ~kept).order_by(said.c.id).limit(batch)
    ids: Sequence[str] = [""]
    while ids:
        with store.read() as connection:
            ids = connection.execute(some.where(said.c.id > ids[-1])).scalars().all()
        if ids:
            with store.write() as connection:
                connection.execute(sa.update(said).where(said.c.id.in_(ids)).values(body=None))
