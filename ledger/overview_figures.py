"""What the overview shows, read from the rollups: spend, forecast, use over time, latencies; and, from the labels
of explored requests, the agreement. Hours count to a range where they begin in it, the first one as a whole.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from ledger import schema
from ledger.observed import DECIDED
from ledger.records import UNASKED
from ledger.requests import Usage
from ledger.rollups import DAY_MS, HOUR_MS, SUMS, periods, quantile
from ledger.spending import Periods
from ledger.store import Store

__all__ = (
    "DIMENSIONS",
    "TRAIL_DAYS",
    "Agreement",
    "Forecast",
    "KeySpend",
    "Span",
    "Timing",
    "agreement",
    "first_tokens",
    "forecast",
    "latencies",
    "saving_interval",
    "spend_by_key",
    "usage_in",
    "usage_over_time",
)

Z95: Final = 1.959964
Z95_PER_MILLION: Final = 1_959_964
TRAIL_DAYS: Final = 7
LEAST_HOURS: Final = 8
"""With fewer, the spread between hours says nothing."""
MOST_LABELS: Final = 20_000
QUANTILES: Final = (0.5, 0.95, 0.99)
SOURCES: Final = ("explore", "judge")
"""Labels of a student's answer that the teacher was asked beside by a known chance; the last one counts."""
DIMENSIONS: Final = ("reason", "release_id", "key_id", "model", "tag")
"""What usage is kept by, one at a time."""


@dataclass(frozen=True, slots=True)
class Span:
    """From ``since`` up to, and without, ``until``; ms since the epoch."""

    since: int
    until: int


@dataclass(frozen=True, slots=True)
class Timing:
    """The 50th, 95th and 99th percentile (ms) of ``n`` requests, from an hourly histogram: linear within a bucket."""

    quantiles: tuple[float | None, ...]
    n: int


@dataclass(frozen=True, slots=True)
class KeySpend:
    """Nano-units of one key: today, this month, and in the whole days of the trail before today."""

    day: int
    month: int
    trail: int


@dataclass(frozen=True, slots=True)
class Forecast:
    """Of a month's spend, in nano-units. ``low`` and ``high`` are None before the spread of two days is known."""

    month_end: int
    low: int | None
    high: int | None
    days: int
    """How many whole days the mean is of."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of the answers that the student gave, with the teacher's, from ``labels`` labels; and of all that the router
    decided on, where a teacher's answer agrees with itself. Each with its 95 % interval.
    """

    student: float
    student_bounds: tuple[float, float]
    share: float
    """Of the decided requests, the student's."""
    labels: int

    @property
    def whole(self) -> float:
        """Of all answers."""
        return 1 - self.share * (1 - self.student)

    @property
    def whole_bounds(self) -> tuple[float, float]:
        """Of all answers: the share is taken as known, since every request counts in it."""
        low, high = self.student_bounds
        return 1 - self.share * (1 - low), 1 - self.share * (1 - high)


def usage_in(store: Store, span: Span, columns: Sequence[str]) -> dict[tuple[Any, ...], Usage]:
    """Usage in a span by ``route``, by one of `DIMENSIONS`, or by both.

    By tag, a request counts under each of its tags, and one without any under the empty one.
    """
    dimension = next((name for name in columns if name != "route"), "reason")
    table = schema.usage_rollups
    names = {"route": table.c.route, dimension: table.c.value}
    return _grouped(store, dimension, periods(span.since, span.until), [names[name] for name in columns])


def usage_over_time(store: Store, span: Span) -> dict[tuple[Any, ...], Usage]:
    """Usage by (hour, route, whether no client asked for it)."""
    table = schema.usage_rollups
    first, end = (at // HOUR_MS * HOUR_MS for at in (span.since, span.until + HOUR_MS - 1))
    beside = sa.case((table.c.value.in_(UNASKED), 1), else_=0)
    return _grouped(store, "reason", [(HOUR_MS, first, end)], [table.c.at, table.c.route, beside])


def spend_by_key(store: Store, now: int) -> dict[str, KeySpend]:
    """Spend of each key at a time (ms); that of requests without a key under the empty name."""
    table, current = schema.usage_rollups, Periods.at(now)
    trail = current.day - TRAIL_DAYS * DAY_MS
    day, cost = table.c.at, table.c.cost_nano
    statement = (
        sa.select(
            table.c.value,
            sa.func.sum(sa.case((day >= current.day, cost), else_=0)),
            sa.func.sum(sa.case((day >= current.month, cost), else_=0)),
            sa.func.sum(sa.case((sa.and_(day >= trail, day < current.day), cost), else_=0)),
        )
        .where(*_days("key_id"), day >= min(current.month, trail))
        .group_by(table.c.value)
    )
    with store.read() as connection:
        return {key: KeySpend(*map(int, sums)) for key, *sums in connection.execute(statement)}


def forecast(store: Store, now: int) -> Forecast | None:
    """The month's spend at its end: what it is so far, and for each day left the mean of the whole days of the trail.

    The interval is of normally distributed, independent days with the trail's spread. None before a whole day passed.
    """
    current = Periods.at(now)
    days = _whole_days(store, current.day)
    if not days:
        return None
    spent = sum(each.month for each in spend_by_key(store, now).values())
    left = _next_month(current.month) - now
    mean = sum(days) // len(days)
    end = spent + mean * left // DAY_MS
    if len(days) < 2:
        return Forecast(end, None, None, len(days))
    variance = sum((day - mean) ** 2 for day in days) // (len(days) - 1)
    # of the days left, and of the mean that stands for them
    spread = math.isqrt(variance * left // DAY_MS + variance * left * left // (DAY_MS * DAY_MS * len(days)))
    half = spread * Z95_PER_MILLION // 1_000_000
    return Forecast(end, max(spent, end - half), end + half, len(days))


def saving_interval(over_time: Iterable[Usage]) -> tuple[float, float] | None:
    """95 % interval of 1 - cost / baseline, with the hours as a sample; None where they are too few.

    The linearised variance of a ratio of sums (Cochran 1977, Sampling Techniques, 3rd ed., section 6.3).
    """
    hours = [each for each in over_time if each.baseline_nano or each.cost_nano]
    baseline = sum(each.baseline_nano for each in hours)
    if len(hours) < LEAST_HOURS or not baseline:
        return None
    ratio = sum(each.cost_nano for each in hours) / baseline
    squares = sum((each.cost_nano - ratio * each.baseline_nano) ** 2 for each in hours)
    half = Z95 * math.sqrt(squares * len(hours) / (len(hours) - 1)) / baseline
    return 1 - ratio - half, min(1.0, 1 - ratio + half)


def latencies(store: Store, span: Span) -> dict[str, Timing]:
    """Of the whole answer, by route."""
    return _timings(store, schema.latency_hourly, span)


def first_tokens(store: Store, span: Span) -> dict[str, Timing]:
    """Of the time to the first token where one was timed, by route."""
    return _timings(store, schema.first_token_hourly, span)


def agreement(store: Store, span: Span, usage: Mapping[tuple[Any, ...], Usage]) -> Agreement | None:
    """From the newest `MOST_LABELS` labels of a span, each weighted by 1 / its chance (normalised); None without.

    ``usage`` is the span's by route and reason: the student's share is read from it.

    The interval is the gamma interval of a weighted sum of counts (Fay & Feuer 1997,
    doi:10.1002/(SICI)1097-0258(19970415)16:7<791::AID-SIM500>3.0.CO;2-#), with the mean weight for the disagreement
    that was not seen (Tiwari, Clegg & Zou 2006, doi:10.1177/0962280206070621).
    """
    found = _labels(store, span)
    decided = {key: each.requests for key, each in usage.items() if key[1] in DECIDED}
    total = sum(decided.values())
    if not found or not total:
        return None
    share = sum(n for (route, _), n in decided.items() if route == "student") / total
    weights = _normalised([1 / propensity for _, propensity in found])
    parts = [(weight, 1 - agreed) for weight, (agreed, _) in zip(weights, found, strict=True)]
    wrong = sum(weight * z for weight, z in parts)
    variance = sum(weight * weight * z for weight, z in parts)
    low = _gamma_quantile(wrong, variance, -Z95)
    mean_square = sum(weight * weight for weight in weights) / len(weights)
    high = min(1.0, _gamma_quantile(wrong + 1 / len(weights), variance + mean_square, Z95))
    return Agreement(1 - wrong, (1 - high, 1 - low), share, len(found))


def _labels(store: Store, span: Span) -> list[tuple[float, float]]:
    """(agreement, propensity) of one label each."""
    table, of = schema.labels, schema.requests
    # the newest labels first, and only then their requests: the other way round all of the student's would be read
    newest = (
        sa.select(table.c.request_id, table.c.source, table.c.agreement, table.c.propensity)
        .where(table.c.created_at >= span.since, table.c.created_at < span.until, table.c.propensity > 0)
        .where(table.c.source.in_(SOURCES))
        .order_by(table.c.created_at.desc())
        .limit(MOST_LABELS)
        .subquery()
    )
    statement = (
        sa.select(newest)
        .join(of, of.c.id == newest.c.request_id)
        .where(of.c.route == "student", of.c.reason.in_(DECIDED))
    )
    with store.read() as connection:
        rows = sorted(connection.execute(statement).all(), key=lambda row: SOURCES.index(row.source))
    return list({row.request_id: (row.agreement, row.propensity) for row in rows}.values())


def _grouped(
    store: Store, dimension: str, spans: Sequence[tuple[int, int, int]], group: Sequence[Any]
) -> dict[tuple[Any, ...], Usage]:
    """Sums over ``(step, from, before)`` of one dimension's rollups."""
    table = schema.usage_rollups
    # each span whole, so that each is a search of the primary key
    within = [
        sa.and_(table.c.dimension == dimension, table.c.step_ms == step, table.c.at >= first, table.c.at < end)
        for step, first, end in spans
    ]
    statement = (
        sa.select(*group, *(sa.func.sum(table.c[name]) for name in SUMS))
        .where(sa.or_(*within))
        .group_by(*group)
        .order_by(*group)
    )
    n = len(group)
    with store.read() as connection:
        return {tuple(row[:n]): Usage(*map(int, row[n:])) for row in connection.execute(statement)}


def _days(dimension: str) -> tuple[sa.ColumnElement[bool], ...]:
    table = schema.usage_rollups
    return table.c.dimension == dimension, table.c.step_ms == DAY_MS


def _timings(store: Store, table: sa.Table, span: Span) -> dict[str, Timing]:
    statement = (
        sa.select(table.c.route, table.c.le_ms, sa.func.sum(table.c.requests))
        .where(table.c.hour >= span.since // HOUR_MS * HOUR_MS, table.c.hour < span.until)
        .group_by(table.c.route, table.c.le_ms)
        .order_by(table.c.route, table.c.le_ms)
    )
    buckets: dict[str, list[tuple[int, int]]] = {}
    with store.read() as connection:
        for route, le, n in connection.execute(statement):
            buckets.setdefault(route, []).append((int(le), int(n)))
    return {
        route: Timing(tuple(quantile(found, q) for q in QUANTILES), sum(n for _, n in found))
        for route, found in buckets.items()
    }


def _whole_days(store: Store, today: int) -> list[int]:
    """Spend of each of the days before today, from the first one in the trail that anything was asked on."""
    table = schema.usage_rollups
    day = table.c.at
    statement = (
        sa.select(day, sa.func.sum(table.c.cost_nano))
        .where(*_days("reason"), day >= today - TRAIL_DAYS * DAY_MS, day < today)
        .group_by(day)
    )
    with store.read() as connection:
        spent = {int(at): int(cost) for at, cost in connection.execute(statement)}
    return [spent.get(at, 0) for at in range(min(spent, default=today), today, DAY_MS)]


def _next_month(month: int) -> int:
    return Periods.at(month + 32 * DAY_MS).month


def _normalised(weights: Sequence[float]) -> list[float]:
    total = sum(weights)
    return [weight / total for weight in weights]


def _gamma_quantile(mean: float, variance: float, z: float) -> float:
    """Quantile of the gamma distribution of these moments at a standard normal deviate, by Wilson & Hilferty 1931
    (doi:10.1073/pnas.17.12.684): its cube root is nearly normal.
    """
    if mean <= 0.0 or variance <= 0.0:
        return max(mean, 0.0)
    shape = mean * mean / variance
    return mean * max(0.0, 1.0 - 1.0 / (9.0 * shape) + z / (3.0 * math.sqrt(shape))) ** 3
