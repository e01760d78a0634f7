"""What the overview shows, read from the hourly sums: spend, forecast, use over time, latencies; and, from the labels
of explored requests, the agreement. Hours count to a range where they begin in it, the first one as a whole.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from ledger import schema
from ledger.observed import DECIDED
from ledger.requests import HOUR_MS, LATENCY_BUCKETS_MS, Usage
from ledger.spending import DAY_MS, Periods
from ledger.store import Store

__all__ = (
    "TRAIL_DAYS",
    "Agreement",
    "Forecast",
    "KeySpend",
    "Span",
    "agreement",
    "first_token",
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
MOST_TIMED: Final = 2_000
QUANTILES: Final = (0.5, 0.95, 0.99)
SOURCES: Final = ("explore", "judge")
"""Labels of a student's answer that the teacher was asked beside by a known chance; the last one counts."""
_SUMS: Final = ("requests", "errors", "prompt_tokens", "completion_tokens", "cost_nano", "baseline_nano")


@dataclass(frozen=True, slots=True)
class Span:
    """From ``since`` up to, and without, ``until``; ms since the epoch."""

    since: int
    until: int


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
    """Usage in a span by columns of the rollup (``route``, ``reason``, ``release_id``, ``key_id``)."""
    table = schema.usage_hourly
    return _grouped(store, span, [table.c[name] for name in columns])


def usage_over_time(store: Store, span: Span) -> dict[tuple[Any, ...], Usage]:
    """Usage by (hour, route, whether it was asked for beside an answer)."""
    table = schema.usage_hourly
    beside = sa.case((table.c.reason == "explore", 1), else_=0)
    return _grouped(store, span, [table.c.hour, table.c.route, beside])


def spend_by_key(store: Store, now: int) -> dict[str, KeySpend]:
    """Spend of each key at a time (ms); that of requests without a key under the empty name."""
    table, periods = schema.usage_hourly, Periods.at(now)
    trail = periods.day - TRAIL_DAYS * DAY_MS
    hour, cost = table.c.hour, table.c.cost_nano
    statement = (
        sa.select(
            table.c.key_id,
            sa.func.sum(sa.case((hour >= periods.day, cost), else_=0)),
            sa.func.sum(sa.case((hour >= periods.month, cost), else_=0)),
            sa.func.sum(sa.case((sa.and_(hour >= trail, hour < periods.day), cost), else_=0)),
        )
        .where(hour >= min(periods.month, trail))
        .group_by(table.c.key_id)
    )
    with store.read() as connection:
        return {key: KeySpend(*map(int, sums)) for key, *sums in connection.execute(statement)}


def forecast(store: Store, now: int) -> Forecast | None:
    """The month's spend at its end: what it is so far, and for each day left the mean of the whole days of the trail.

    The interval is of normally distributed, independent days with the trail's spread. None before a whole day passed.
    """
    periods = Periods.at(now)
    days = _whole_days(store, periods.day)
    if not days:
        return None
    spent = sum(each.month for each in spend_by_key(store, now).values())
    left = _next_month(periods.month) - now
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


def latencies(store: Store, span: Span) -> dict[str, tuple[float, ...]]:
    """The 50th, 95th and 99th percentile (ms) by route, from the hourly histogram: linear within a bucket."""
    table = schema.latency_hourly
    statement = (
        sa.select(table.c.route, table.c.le_ms, sa.func.sum(table.c.requests))
        .where(*_within(table.c.hour, span))
        .group_by(table.c.route, table.c.le_ms)
        .order_by(table.c.route, table.c.le_ms)
    )
    buckets: dict[str, list[tuple[int, int]]] = {}
    with store.read() as connection:
        for route, le, n in connection.execute(statement):
            buckets.setdefault(route, []).append((int(le), int(n)))
    return {route: tuple(_quantile(found, q) for q in QUANTILES) for route, found in buckets.items()}


def first_token(store: Store, span: Span, route: str) -> tuple[tuple[float, ...], int]:
    """The same percentiles of the time to the first token, of those of the newest `MOST_TIMED` requests of a route
    that have one, and how many these are. The hourly sums do not hold it.
    """
    table = schema.requests
    statement = (
        sa.select(table.c.first_token_ms)
        .where(table.c.route == route, table.c.created_at >= span.since, table.c.created_at < span.until)
        .order_by(table.c.created_at.desc())
        .limit(MOST_TIMED)
    )
    with store.read() as connection:
        times = sorted(ms for ms in connection.execute(statement).scalars() if ms is not None)
    if not times:
        return (), 0
    return tuple(times[min(len(times) - 1, math.ceil(q * len(times)) - 1)] for q in QUANTILES), len(times)


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
    statement = (
        sa.select(table.c.request_id, table.c.source, table.c.agreement, table.c.propensity)
        .join(of, of.c.id == table.c.request_id)
        .where(table.c.created_at >= span.since, table.c.created_at < span.until, table.c.propensity > 0)
        .where(table.c.source.in_(SOURCES), of.c.route == "student", of.c.reason.in_(DECIDED))
        .order_by(table.c.created_at.desc())
        .limit(MOST_LABELS)
    )
    with store.read() as connection:
        rows = sorted(connection.execute(statement).all(), key=lambda row: SOURCES.index(row.source))
    return list({row.request_id: (row.agreement, row.propensity) for row in rows}.values())


def _grouped(store: Store, span: Span, group: Sequence[Any]) -> dict[tuple[Any, ...], Usage]:
    table = schema.usage_hourly
    sums = [sa.func.sum(table.c[name]) for name in _SUMS]
    statement = sa.select(*group, *sums).where(*_within(table.c.hour, span)).group_by(*group).order_by(*group)
    n = len(group)
    with store.read() as connection:
        return {tuple(row[:n]): Usage(*map(int, row[n:])) for row in connection.execute(statement)}


def _within(hour: sa.Column[int], span: Span) -> tuple[sa.ColumnElement[bool], ...]:
    return hour >= span.since // HOUR_MS * HOUR_MS, hour < span.until


def _whole_days(store: Store, today: int) -> list[int]:
    """Spend of each of the days before today, from the first one in the trail that anything was asked on."""
    table = schema.usage_hourly
    hour = table.c.hour
    statement = (
        sa.select(hour - hour % DAY_MS, sa.func.sum(table.c.cost_nano))
        .where(hour >= today - TRAIL_DAYS * DAY_MS, hour < today)
        .group_by(hour - hour % DAY_MS)
    )
    with store.read() as connection:
        spent = {int(day): int(cost) for day, cost in connection.execute(statement)}
    return [spent.get(day, 0) for day in range(min(spent, default=today), today, DAY_MS)]


def _next_month(month: int) -> int:
    return Periods.at(month + 32 * DAY_MS).month


def _quantile(buckets: Sequence[tuple[int, int]], q: float) -> float:
    rank, seen = q * sum(n for _, n in buckets), 0
    for le, n in buckets:
        if seen + n >= rank:
            position = LATENCY_BUCKETS_MS.index(le)
            low = LATENCY_BUCKETS_MS[position - 1] if position else 0
            return low + (le - low) * (rank - seen) / n
        seen += n
    return float(buckets[-1][0])


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
