"""Sums of the requests that are kept as rows come in, so that no page has to read the requests themselves.

``usage_hourly`` has an hour's requests by everything that they are told apart by, for budgets and for what is known
of a release; ``usage_rollups`` by one dimension at a time, in hours and in days, for long ranges. A request counts
under each of its tags once. ``latency_hourly`` and ``first_token_hourly`` are histograms.
"""

import bisect
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import sqlalchemy as sa

from ledger import schema
from ledger.records import IMPORTED, RequestRecord
from ledger.replays import origin_of
from ledger.store import insert_of

__all__ = (
    "DAY_MS",
    "HOUR_MS",
    "LATENCY_BUCKETS_MS",
    "SUMS",
    "RollUp",
    "insert_rows",
    "periods",
    "quantile",
    "values_of",
)

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS
LATENCY_BUCKETS_MS: Final = (
    5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 600_000,
)  # fmt: skip
SUMS: Final = ("requests", "errors", "prompt_tokens", "completion_tokens", "cost_nano", "baseline_nano")
MAX_VALUE: Final = 200
"""Characters of a tag that are told apart."""

_Sums = defaultdict[tuple[Any, ...], list[int]]


class RollUp:
    """The sums of requests that are inserted in one transaction: counted as they go in, added at its end."""

    def __init__(self) -> None:
        self._usage = _zeros()
        self._times: defaultdict[tuple[int, str, float, float | None], int] = defaultdict(int)

    def count(self, records: Sequence[RequestRecord]) -> None:
        """Take in some of the requests."""
        usage, times = self._usage, self._times
        for r in records:
            hour = r.created_at - r.created_at % HOUR_MS
            is_own = r.reason != IMPORTED
            amounts = (
                1,
                int(r.status >= 400),
                r.prompt_tokens + r.attempt_prompt_tokens,
                r.completion_tokens + r.attempt_completion_tokens,
                r.cost_nano,
                r.baseline_nano,
            )
            # a budget is spent here, and not where history comes from
            key_id = r.key_id or "" if is_own else ""
            _plus(usage[hour, r.route, r.reason, r.release_id or "", key_id, r.model, tuple(r.tags)], amounts)
            if is_own:
                first = None if r.first_token_ms is None else _bucket(r.first_token_ms)
                times[hour, r.route, _bucket(r.latency_ms), first] += 1

    def add(self, connection: sa.Connection) -> None:
        """Add the sums to the tables."""
        usage, named = _zeros(), _zeros()
        for (hour, route, *values, model, tags), sums in self._usage.items():
            _plus(usage[hour, route, *values], sums)
            _plus(named["model", HOUR_MS, hour, route, model], sums)
            for tag in values_of(tags):
                _plus(named["tag", HOUR_MS, hour, route, tag], sums)
        latency, first_token = defaultdict[tuple[Any, ...], int](int), defaultdict[tuple[Any, ...], int](int)
        for (hour, route, bucket, first), n in self._times.items():
            latency[hour, route, bucket] += n
            if first is not None:
                first_token[hour, route, first] += n
        _add(connection, schema.usage_hourly, [(*key, *sums) for key, sums in usage.items()])
        _add(connection, schema.usage_rollups, _by_dimension(usage, named))
        _add(connection, schema.latency_hourly, [(*key, n) for key, n in latency.items()])
        _add(connection, schema.first_token_hourly, [(*key, n) for key, n in first_token.items()])


@lru_cache(maxsize=256)
def values_of(tags: tuple[str, ...]) -> frozenset[str]:
    """The tags that a request counts under, at least the empty one. The tag of a replay names one request only."""
    # PostgreSQL takes no NUL
    return frozenset(tag.replace("\0", "")[:MAX_VALUE] for tag in tags if origin_of([tag]) is None) or frozenset([""])


def periods(since: int, until: int) -> list[tuple[int, int, int]]:
    """``(step, from, before)`` in ms: the hours that begin from ``since``'s hour on and before ``until``, as whole
    days where they make one.
    """
    first, end = since - since % HOUR_MS, -(-until // HOUR_MS) * HOUR_MS
    day, last_day = -(-first // DAY_MS) * DAY_MS, end - end % DAY_MS
    if day >= last_day:
        return [(HOUR_MS, first, end)]
    found = [(HOUR_MS, first, day), (DAY_MS, day, last_day), (HOUR_MS, last_day, end)]
    return [each for each in found if each[1] < each[2]]


def quantile(buckets: Sequence[tuple[int, int]], q: float) -> float | None:
    """Quantile (ms) of a histogram as (bucket of `LATENCY_BUCKETS_MS`, requests), in the order of the buckets: linear
    within a bucket; None without requests.
    """
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


def insert_rows(
    connection: sa.Connection, table: sa.Table, rows: Sequence[tuple[Any, ...]], add: bool = False
) -> None:
    """Insert rows whose values are the driver's own, in the order of the columns; with ``add``, add the values beside
    the primary key to those of a row that is there.

    SQLAlchemy's preparation of each row, which takes twice the database's time, is left out.
    """
    if not rows:
        return
    text, names = _statement(connection.dialect, table, add)
    if names is None:
        columns = [column.name for column in table.columns]
        connection.exec_driver_sql(text, [dict(zip(columns, row, strict=True)) for row in rows])
    else:
        connection.exec_driver_sql(text, list(rows))


@lru_cache(maxsize=16)
def _statement(dialect: sa.Dialect, table: sa.Table, add: bool) -> tuple[str, list[str] | None]:
    """The driver's text of an insert, and the order of its values, or None where the driver takes them by name."""
    insert = insert_of(dialect, table)
    if add:
        key = [column.name for column in table.primary_key]
        sums = {
            column.name: column + insert.excluded[column.name] for column in table.columns if not column.primary_key
        }
        insert = insert.on_conflict_do_update(index_elements=key, set_=sums)
    compiled = insert.compile(dialect=dialect)
    return str(compiled), compiled.positiontup


def _by_dimension(usage: Mapping[tuple[Any, ...], list[int]], named: _Sums) -> list[tuple[Any, ...]]:
    """Rows of ``usage_rollups``; ``named`` has the hours of the dimensions that ``usage`` lacks."""
    for (hour, route, *values), sums in usage.items():
        for dimension, value in zip(("reason", "release_id", "key_id"), values, strict=True):
            _plus(named[dimension, HOUR_MS, hour, route, value], sums)
    days = _zeros()
    for (dimension, _, hour, *rest), sums in named.items():
        _plus(days[dimension, DAY_MS, hour - hour % DAY_MS, *rest], sums)
    return [(*key, *sums) for found in (named, days) for key, sums in found.items()]


def _add(connection: sa.Connection, table: sa.Table, rows: Sequence[tuple[Any, ...]]) -> None:
    # in one order for all, so that two writers cannot wait for each other
    insert_rows(connection, table, sorted(rows), add=True)


def _bucket(ms: float) -> int:
    return LATENCY_BUCKETS_MS[min(bisect.bisect_left(LATENCY_BUCKETS_MS, ms), len(LATENCY_BUCKETS_MS) - 1)]


def _zeros() -> _Sums:
    return defaultdict(lambda: [0] * len(SUMS))


def _plus(sums: list[int], amounts: Sequence[int]) -> None:
    # written out, since it is most of the work: a loop takes twice as long
    requests, errors, prompt, completion, cost, baseline = amounts
    sums[0] += requests
    sums[1] += errors
    sums[2] += prompt
    sums[3] += completion
    sums[4] += cost
    sums[5] += baseline
