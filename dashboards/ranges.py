"""The time range of a page, from its query: a name such as ``24h``, or ``from`` and ``to``."""

import calendar
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from ledger.rollups import HOUR_MS
from ledger.store import now_ms

__all__ = ("RANGES", "TimeRange", "read_range")

RANGES: Final = {
    "1h": ("last hour", HOUR_MS),
    "24h": ("last 24 hours", 24 * HOUR_MS),
    "7d": ("last 7 days", 7 * 24 * HOUR_MS),
    "30d": ("last 30 days", 30 * 24 * HOUR_MS),
    "90d": ("last 90 days", 90 * 24 * HOUR_MS),
}
DEFAULT: Final = "7d"


@dataclass(frozen=True, slots=True)
class TimeRange:
    """From ``since`` up to, and without, ``until``: ms since the epoch. ``name`` is a key of `RANGES`, or empty."""

    name: str
    since: int
    until: int

    @property
    def words(self) -> str:
        """For a heading."""
        if self.name:
            return RANGES[self.name][0]
        return f"{_day(self.since)} to {_day(self.until - 1)}"


def read_range(query: Mapping[str, str], default: str = DEFAULT) -> TimeRange:
    """The range that a page's query asks for; what cannot be read counts as not said. Days are those of UTC."""
    now = now_ms()
    since, until = _midnight(query.get("from", "")), _midnight(query.get("to", ""))
    if since is not None:
        end = until + 24 * HOUR_MS if until is not None else now
        return TimeRange("", since, max(end, since + 1))
    name = query.get("range", default)
    name = name if name in RANGES else default
    return TimeRange(name, now - RANGES[name][1], now)


def _midnight(day: str) -> int | None:
    try:
        return calendar.timegm(datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC).timetuple()) * 1000
    except ValueError:
        return None


def _day(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d")
