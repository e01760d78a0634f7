"""The days of the ledger, as the cost plan counts them: blocks of 24 hours back from now, from the hourly rollups."""

from collections import defaultdict
from dataclasses import replace
from decimal import Decimal
from typing import Any

from distill.cost_plan import Day
from ledger.records import NANO, UNASKED
from ledger.requests import Usage, usage_by
from ledger.rollups import DAY_MS, HOUR_MS
from ledger.store import Store
from ledger.student_hours import seconds_by_hour

__all__ = ("days_until",)


def days_until(store: Store, now: int, most: int, hour_cost: Decimal | None = None) -> list[Day]:
    """The newest ``most`` blocks of 24 hours, oldest first, from the ledger's first request on.

    The newest ends now, and the oldest may be short; one without a request counts, being as true as the others. A
    ledger younger than an hour is taken as an hour old, which is how fine the rollups are.

    With ``hour_cost`` the student costs the hours of its servers times that, whatever its tokens' price, from the
    first hour on that is recorded of one; without such an hour, its tokens' price.

    Args:
        store: The ledger.
        now: Milliseconds since 1970.
        most: At least 1.
        hour_cost: Of one student server, in currency units.

    Returns:
        No day where the ledger has no request of a chat.
    """
    end = now // HOUR_MS * HOUR_MS + HOUR_MS
    hours = [hour for hour, route in usage_by(store, ["hour", "route"]) if route in ("student", "teacher")]
    if not hours:
        return []
    first = max(min(hours), end - most * DAY_MS)
    ran = seconds_by_hour(store, first) if hour_cost is not None else {}
    first = max(first, min(ran, default=first))
    sums: dict[int, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for (hour, route, reason), usage in usage_by(store, ["hour", "route", "reason"], first).items():
        if route in ("student", "teacher"):
            _add(sums[(end - HOUR_MS - hour) // DAY_MS], route, reason, usage)
    blocks = range((end - HOUR_MS - first) // DAY_MS, -1, -1)
    days = [_day(sums[block], _length(end - block * DAY_MS, first, now)) for block in blocks]
    if hour_cost is None or not ran:
        return days
    seconds: dict[int, float] = defaultdict(float)
    for hour, some in ran.items():
        seconds[(end - HOUR_MS - hour) // DAY_MS] += some
    return [_by_hours(day, seconds[block], hour_cost) for day, block in zip(days, blocks, strict=True)]


def _by_hours(day: Day, seconds: float, hour_cost: Decimal) -> Day:
    """The student's part by how long its servers ran."""
    hours = Decimal(repr(seconds)) / 3_600
    by_price = day.on_student - day.beside_on_student
    return replace(
        day, gpu_hours=hours, by_price=by_price, on_student=hours * hour_cost, beside_on_student=Decimal(0)
    )


def _length(end: int, first: int, now: int) -> int:
    """Milliseconds of a block that ends at ``end``, of what the ledger can have seen."""
    return max(min(end, now) - max(end - DAY_MS, first), HOUR_MS)


def _add(sums: dict[str, int], route: str, reason: str, usage: Usage) -> None:
    sums[f"on_{route}"] += usage.cost_nano
    if reason in UNASKED:
        sums[f"beside_on_{route}"] += usage.cost_nano
        return
    sums["requests"] += usage.requests
    sums["baseline"] += usage.baseline_nano
    if route == "teacher":
        sums["to_teacher"] += usage.requests


def _day(sums: dict[str, int], milliseconds: int) -> Day:
    counts: Any = {name: Decimal(n) for name, n in sums.items() if name in ("requests", "to_teacher")}
    money: Any = {name: Decimal(n) / NANO for name, n in sums.items() if name not in counts}
    return Day(length=Decimal(milliseconds) / DAY_MS, **counts, **money)
