"""The settings of ``[distill]`` as the gateway and the pages are told them, with what only ``distill`` can reckon."""

from decimal import Decimal
from functools import partial
from typing import Final

import msgspec

from distill.capabilities import NOT_ALLOWED
from distill.cost_history import days_until
from distill.cost_plan import DAYS_A_MONTH, CostPlan, Day, intervals, measured, total
from distill.schedule import opens_at, parse_window
from distill.trigger_settings import TriggerSettings
from distill.triggers import trigger_states
from ledger import jobs, trigger_facts
from ledger.distilling import Distilling, Hold, Payback, Schedule, Trigger
from ledger.records import NANO
from ledger.requests import HOUR_MS
from ledger.rollups import DAY_MS
from ledger.spending import Periods
from ledger.store import Store, now_ms
from router.comparators import DEFERRED
from stillroom.settings import Settings

__all__ = ("distilling",)

ENOUGH_DAYS: Final = 7
"""Fewer say too little of how days differ for an interval."""
NOT_SERVED: Final = "student.base_url is set, so nothing serves a candidate to evaluate it"


def distilling(settings: Settings) -> Distilling:
    """What is said of distillation, as it is set."""
    distill = settings.distill
    refused = "" if settings.teacher.terms_allow_training else NOT_ALLOWED
    return Distilling(
        min_examples=distill.min_examples,
        max_examples=distill.max_examples,
        holdout_share=distill.holdout_share,
        start_from=distill.start_from,
        approval=distill.approval,
        refused=refused or (NOT_SERVED if settings.student.base_url is not None else ""),
        paid_reasons=DEFERRED,
        hour_cost=settings.student.gpu_hour_cost,
        data=distill.data,
        schedule=partial(_schedule, distill.triggers),
        payback=partial(_payback, settings.student.gpu_hour_cost),
    )


def _schedule(settings: TriggerSettings, store: Store, now: int) -> Schedule:
    triggers = [
        Trigger(each.name, each.state, each.value, each.threshold, each.next_at, each.why)
        for each in trigger_states(store, settings, now)
    ]
    return Schedule(msgspec.to_builtins(settings), triggers, _holds(settings, store, now))


def _holds(settings: TriggerSettings, store: Store, now: int) -> list[Hold]:
    """What may hold a job back that would start by itself; the limits that are not set are none."""
    month, last = Periods.at(now).month, jobs.newest(store)
    after = Periods.at(month + 32 * DAY_MS).month
    since = None if last is None else (now - last.created_at) / HOUR_MS
    ready = None if last is None else last.created_at + round(settings.min_hours_between_jobs * HOUR_MS)
    cooling = ready is not None and ready > now
    found = [Hold("cool_down", "hours", since, settings.min_hours_between_jobs, ready if cooling else None, cooling)]
    for name, unit, limit, used in (
        ("teacher_budget", "currency units", settings.teacher_budget_month, _paid),
        ("compute_budget", "hours", settings.compute_hours_month, _trained),
    ):
        if limit is not None:
            spent = used(store, month)
            found.append(Hold(name, unit, spent, limit, after, spent >= limit))
    if settings.windows:
        opens = opens_at([parse_window(text) for text in settings.windows], now)
        found.append(Hold("window", "", None, None, opens if opens > now else None, opens > now))
    return found


def _paid(store: Store, month: int) -> float:
    return trigger_facts.paid_since(store, DEFERRED, month)


def _trained(store: Store, month: int) -> float:
    return trigger_facts.trained_seconds(store, month) / 3_600


def _payback(hour_cost: Decimal | None, store: Store, since: int, training: Decimal) -> Payback | None:
    """By what was saved since a release went live, in the newest thirty days at most; None without a request."""
    now = now_ms()
    days = days_until(store, now, min(DAYS_A_MONTH, max(1, -(-(now - since) // DAY_MS))), hour_cost)
    whole = total(days)
    if not whole.requests:
        return None
    plan = CostPlan(measured(whole), training)
    ends = intervals(days, _saving)["saving"] if len(days) >= ENOUGH_DAYS else None
    return Payback(
        training_nano=int(training * NANO),
        saved_a_day_nano=int(plan.spending.saving * NANO),
        saved_a_day_bounds=None if ends is None else (int(ends[0] * NANO), int(ends[1] * NANO)),
        days=round(float(whole.length), 1),
        payback_days=None if plan.payback_days is None else float(plan.payback_days),
        payback_bounds=None if ends is None or ends[1] <= 0 else _back(training, ends),
    )


def _saving(day: Day) -> dict[str, Decimal]:
    return {"saving": measured(day).saving}


def _back(training: Decimal, saving: tuple[Decimal, Decimal]) -> tuple[float, float | None]:
    """The more is saved, the sooner: the ends change places."""
    low, high = saving
    return float(training / high), float(training / low) if low > 0 else None
