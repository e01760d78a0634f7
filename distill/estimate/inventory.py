"""What the logs hold, from the columns of all requests: models, money, time, repetition."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from distill.estimate.columns import FORMS, MONEY_UNKNOWN, NOT_KEPT, Columns
from distill.estimate.findings import Inventory, ModelUse
from distill.estimate.reading import Reading
from ledger.records import NANO
from ledger.rollups import DAY_MS, HOUR_MS

__all__ = ("daily", "inventory_of", "mean_cost")

DEAREST: Final = (0.01, 0.1)
MONDAY: Final = 3
"""The epoch was a Thursday."""

Ints = NDArray[np.int64]


def inventory_of(reading: Reading, requests_per_day: float | None) -> Inventory:
    """Of what was read; ``requests_per_day`` is what one knows better than the logs."""
    columns = reading.columns
    times, known_times = columns.of("at"), columns.of("at")[columns.of("at") > 0]
    days = columns.days
    rate = requests_per_day or (len(columns) / days if days else None)
    cost = mean_cost(columns)
    by_day = daily(columns)
    return Inventory(
        requests=len(columns),
        kept=int(np.count_nonzero(columns.of("form") != FORMS.index(NOT_KEPT))),
        days=round(days, 3),
        requests_per_day=None if rate is None else round(rate, 3),
        first=int(known_times.min()) if known_times.size else 0,
        last=int(known_times.max()) if known_times.size else 0,
        models=_models(reading),
        cost=None if cost is None else cost * len(columns),
        by_day=[(int(day), int(count), float(spent)) for day, count, spent in by_day],
        by_hour=np.bincount(known_times // HOUR_MS % 24, minlength=24).tolist(),
        by_weekday=np.bincount((known_times // DAY_MS + MONDAY) % 7, minlength=7).tolist(),
        dearest=_dearest(columns.of("cost")),
        repeated=_repeated(columns.of("asked")),
        same_answer=_same_answer(columns.of("asked"), columns.of("answered"), times),
        counts={name: count for name, count in reading.seen.items() if count},
        formats=dict(reading.formats),
        unsupported=dict(reading.why.most_common()),
        bad_lines=reading.bad_lines,
    )


def mean_cost(columns: Columns) -> float | None:
    """Of a request, in currency units, of those whose cost is known."""
    cost = columns.of("cost")
    known = cost[cost != MONEY_UNKNOWN]
    return float(known.sum()) / NANO / known.size if known.size and known.any() else None


def daily(columns: Columns) -> NDArray[np.float64]:
    """Of each day (UTC) with a request, and those between: its beginning in ms, requests, cost; shape (days, 3)."""
    times, cost = columns.of("at"), np.maximum(columns.of("cost"), 0)
    has = times > 0
    if not has.any():
        return np.zeros((0, 3))
    day = times[has] // DAY_MS
    first = int(day.min())
    requests = np.bincount(day - first)
    spent = np.bincount(day - first, weights=cost[has] / NANO)
    beginnings = (first + np.arange(requests.size)) * DAY_MS
    return np.column_stack((beginnings, requests, spent)).astype(np.float64)


def _models(reading: Reading) -> list[ModelUse]:
    columns, count = reading.columns, len(reading.models)
    which, cost = columns.of("model"), columns.of("cost")
    requests = np.bincount(which, minlength=count)
    sums = {name: np.bincount(which, weights=columns.of(name), minlength=count) for name in ("prompt", "completion")}
    spent = np.bincount(which, weights=np.maximum(cost, 0) / NANO, minlength=count)
    priced = np.bincount(which, weights=cost != MONEY_UNKNOWN, minlength=count)
    found = [
        ModelUse(
            model=name or "(not said)",
            requests=int(requests[at]),
            prompt_tokens=int(sums["prompt"][at]),
            completion_tokens=int(sums["completion"][at]),
            cost=float(spent[at]) if priced[at] else None,
        )
        for name, at in reading.models.items()
    ]
    return sorted(found, key=lambda each: (-(each.cost or 0.0), -each.requests))


def _dearest(cost: Ints) -> list[tuple[float, float]]:
    ranked = -np.sort(-np.maximum(cost, 0))
    total = float(ranked.sum())
    if not total:
        return []
    return [(share, float(ranked[: max(1, round(share * ranked.size))].sum()) / total) for share in DEAREST]


def _repeated(asked: Ints) -> float:
    known = asked[asked != 0]
    return 1.0 - np.unique(known).size / known.size if known.size else 0.0


def _same_answer(asked: Ints, answered: Ints, times: Ints) -> tuple[int, int]:
    """(repetitions, of which the answer was the former one's)."""
    rows = np.flatnonzero(asked != 0)
    order = rows[np.lexsort((times[rows], asked[rows]))]
    again = asked[order][1:] == asked[order][:-1]
    same = again & (answered[order][1:] == answered[order][:-1])
    return int(again.sum()), int(same.sum())
