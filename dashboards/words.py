"""How figures are written on a page: money from nano-units without floats, shares, intervals, times, durations."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

from ledger.records import NANO

__all__ = (
    "FILTERS",
    "NOTHING",
    "count",
    "duration",
    "interval",
    "milliseconds",
    "moment",
    "money",
    "percent",
    "when",
)

NOTHING: Final = "-"
"""Shown where there is no figure."""
CENTS: Final = Decimal("0.01")
FINE: Final = Decimal("0.0001")


def money(nano: int | None) -> str:
    """An amount of nano-units: two decimals, four below one unit."""
    if nano is None:
        return NOTHING
    amount = Decimal(nano) / NANO
    return f"{amount.quantize(CENTS if abs(amount) >= 1 or not nano else FINE):,}"


def percent(share: float | None, digits: int = 1) -> str:
    """A share of 1 as a percentage."""
    return NOTHING if share is None else f"{share:.{digits}%}"


def interval(bounds: Sequence[float] | None) -> str:
    """An interval of shares."""
    return NOTHING if not bounds else f"{bounds[0]:.1%} to {bounds[-1]:.1%}"


def count(number: int | None) -> str:
    """A whole number with thousands set apart."""
    return NOTHING if number is None else f"{number:,}"


def milliseconds(value: float | None) -> str:
    """A latency in ms, or in seconds from ten on."""
    if value is None:
        return NOTHING
    return f"{value:,.0f} ms" if value < 10_000 else f"{value / 1000:,.1f} s"


def duration(seconds: float | None) -> str:
    """A time span: seconds, minutes or hours."""
    if seconds is None:
        return NOTHING
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7_200 else f"{seconds / 3600:.1f} h"


def when(ms: int | None) -> str:
    """A moment of milliseconds since the epoch, in UTC."""
    return NOTHING if ms is None else datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def moment(ms: int | None) -> str:
    """`when`, where a heading says that it is UTC."""
    return NOTHING if ms is None else when(ms).removesuffix(" UTC")


FILTERS: Final[dict[str, Callable[..., Any]]] = {
    "count": count,
    "duration": duration,
    "interval": interval,
    "money": money,
    "ms": milliseconds,
    "percent": percent,
    "when": when,
}
