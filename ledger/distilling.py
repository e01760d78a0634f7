"""What the settings say of distillation, for those who show it and do not know the settings: the gateway, the pages.

Who composes the process fills it in; by itself it is that of a process that nobody told.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import msgspec

from ledger.request_filters import DatedFilters
from ledger.store import Store

__all__ = ("Distilling", "Hold", "Payback", "Schedule", "Trigger")


class Trigger(msgspec.Struct, frozen=True):
    """One trigger of jobs, now. ``state``: off, waiting, due, held. ``next_at`` is ms since the epoch."""

    name: str
    state: str
    value: float | None
    threshold: float | None
    next_at: int | None
    why: str


class Hold(msgspec.Struct, frozen=True):
    """What may keep jobs from starting by themselves. ``used`` and ``limit`` are in ``unit``; ``until`` is ms."""

    name: str
    unit: str
    used: float | None
    limit: float | None
    until: int | None
    holds: bool


class Schedule(msgspec.Struct, frozen=True):
    """``settings`` are those of the triggers, as they are set."""

    settings: dict[str, Any]
    triggers: list[Trigger]
    holds: list[Hold]


class Payback(msgspec.Struct, frozen=True):
    """When training has paid for itself, by what was saved lately. Money in nano-units; intervals are of 95 %.

    ``days`` is how many the saving was measured over; ``payback_days`` counts from when the release went live and is
    None where nothing is saved; of its interval the upper end is None where that may be never.
    """

    training_nano: int
    saved_a_day_nano: int
    saved_a_day_bounds: tuple[int, int] | None
    days: float
    payback_days: float | None
    payback_bounds: tuple[float, float | None] | None


def _nothing_set(_store: Store, _now: int) -> Schedule:
    return Schedule({}, [], [])


def _unknown(_store: Store, _since: int, _training: Decimal) -> Payback | None:
    return None


@dataclass(frozen=True, slots=True)
class Distilling:
    """The settings of ``[distill]`` that matter to who looks at jobs, and what only its code can reckon."""

    min_examples: int = 1
    max_examples: int = 1_000_000_000
    holdout_share: float = 0.25
    start_from: str = "base"
    approval: str = "manual"
    refused: str = ""
    """Why no job can succeed, whatever the ledger holds; empty where one can."""
    paid_reasons: tuple[str, ...] = ()
    """Reasons of the requests that comparing answers costs."""
    hour_cost: Decimal | None = None
    """What an hour of computing costs in currency units: a student server's, where that is set."""
    data: DatedFilters = field(default_factory=DatedFilters)
    """What a dataset takes of the ledger."""
    schedule: Callable[[Store, int], Schedule] = _nothing_set
    """Triggers and holds at a time (ms)."""
    payback: Callable[[Store, int, Decimal], Payback | None] = _unknown
    """Of a release that went live at a time (ms) and whose training cost so many currency units."""
