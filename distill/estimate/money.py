"""What a month costs before and after, by the accountings of ``cost plan``, with intervals.

The share that is moved comes from the tested requests, volume and price level from all of them. Both are drawn again
for the intervals: the one by conversation, the other by day where there are days enough to say how they differ.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

import numpy as np

from distill.cost_plan import DAYS_A_MONTH, CostPlan, Spending
from distill.estimate.columns import Columns
from distill.estimate.curve import Learned
from distill.estimate.findings import Accounted, Money
from distill.estimate.inventory import daily, mean_cost
from distill.estimate.reading import Sampled
from distill.estimate.resampling import Draws, Floats, drawn_days, ends_of
from ledger.prices import Price, Tokens, cost_nano
from ledger.records import NANO

__all__ = ("Costs", "money_of", "student_costs")

ENOUGH_DAYS: Final = 7
"""Fewer say too little of how days differ."""
ACCOUNTINGS: Final = ("router first", "cascade")


@dataclass(frozen=True, slots=True)
class Costs:
    """What one says of costs: of a student's request (else ``student_price`` by its tokens), and of making it."""

    student_cost: Decimal | None
    student_price: Price
    training: Decimal
    months: int | None


def student_costs(sample: Sequence[Sampled], costs: Costs) -> Floats:
    """What each request would cost on the student, in currency units, shape (n,)."""
    if costs.student_cost is not None:
        return np.full(len(sample), float(costs.student_cost))
    found = [cost_nano(costs.student_price, Tokens(each.prompt, each.completion)) for each in sample]
    return np.array(found, dtype=np.float64) / NANO


def money_of(
    columns: Columns, rate: float, tested: Sequence[Sampled], learned: Learned, costs: Costs
) -> Money | None:
    """By the last size of the curve; None where no request has a cost. ``rate`` is requests a day."""
    price = mean_cost(columns)
    if price is None or not any(each.cost for each in tested):
        return None
    teacher = np.array([each.cost for each in tested], dtype=np.float64) / NANO
    student = student_costs(tested, costs)
    moved = learned.sizes[-1].moved.astype(np.float64)
    draws = Draws([each.conversation for each in tested])
    spared, spared_draws = float(moved.mean(axis=0) @ teacher / teacher.sum()), draws.mean(moved, teacher)
    volume = _volumes(columns, rate, price)
    tried = {
        "router first": moved * student,
        "cascade": np.broadcast_to(learned.supported * student, moved.shape),
    }
    accounted = [
        _accounted(name, (rate, price, spared, float(moved.mean())), tried[name], costs,
                   volume[:, 1] * spared_draws - volume[:, 0] * draws.mean(tried[name]))
        for name in ACCOUNTINGS
    ]  # fmt: skip
    return Money(
        before=rate * price * DAYS_A_MONTH,
        before_ends=ends_of(volume[:, 1] * DAYS_A_MONTH) if len(daily(columns)) >= ENOUGH_DAYS else None,
        teacher_cost=price,
        student_cost=float(student.mean()),
        cost_moved=spared,
        cost_moved_ends=ends_of(spared_draws),
        training_cost=float(costs.training),
        accountings=accounted,
    )


def _volumes(columns: Columns, rate: float, price: float) -> Floats:
    """Requests and cost of a day, drawn again; without days enough the same each time. Shape (draws, 2)."""
    days = daily(columns)[:, 1:]
    if len(days) < ENOUGH_DAYS:
        days = np.ones((1, 2))
    drawn = drawn_days(days)
    return drawn / np.where(days.mean(axis=0) > 0, days.mean(axis=0), 1.0) * np.array([rate, rate * price])


def _accounted(
    name: str, day: tuple[float, float, float, float], tried: Floats, costs: Costs, savings: Floats
) -> Accounted:
    """``day`` is requests, the mean request's cost, and the shares of the cost and of the requests that are moved."""
    rate, price, spared, moved = day
    amounts = (rate * price, rate * price * (1 - spared), rate * float(tried.mean()), rate * moved)
    spending = Spending(*(Decimal(f"{amount:.9f}") for amount in amounts))
    plan = CostPlan(spending, costs.training, costs.months)
    low, high = ends_of(savings * DAYS_A_MONTH)
    return Accounted(
        accounting=name,
        after=float(plan.monthly_after),
        saving=float(plan.saving),
        saving_ends=(low, high),
        payback_days=None if plan.payback_days is None else float(plan.payback_days),
        payback_ends=(_payback(costs.training, high), _payback(costs.training, low)),
        pays=plan.pays,
        why_not=plan.why_not,
    )


def _payback(training: Decimal, saving: float) -> float | None:
    """Days; the more is saved, the sooner."""
    return float(training) * DAYS_A_MONTH / saving if saving > 0 else None
