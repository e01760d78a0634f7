"""What distilling costs and saves in a month of thirty days, as planned or as the ledger has it.

Two accountings. *Router first*: the escalated requests skip the student. *Cascade*: the student tries every request,
and the teacher is asked again where its answer will not do.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import Final, Literal, TypeAlias

__all__ = ("DAYS_A_MONTH", "Accounting", "CostPlan", "Day", "Plan", "Spending", "intervals", "measured", "total")

Accounting: TypeAlias = Literal["router first", "cascade", "measured"]

DAYS_A_MONTH: Final = 30
RESAMPLES: Final = 2_000
ONE: Final = Decimal(1)


@dataclass(frozen=True)
class Plan:
    """What one expects, in currency units per request; ``teacher_share`` in [0, 1] goes on to the teacher."""

    requests_per_day: Decimal
    teacher_cost: Decimal
    student_cost: Decimal
    teacher_share: Decimal
    accounting: Accounting = "router first"

    @property
    def spending(self) -> "Spending":
        """A day's costs."""
        requests, tried = self.requests_per_day, ONE - self.teacher_share
        return Spending(
            before=requests * self.teacher_cost,
            on_teacher=requests * self.teacher_share * self.teacher_cost,
            on_student=requests * self.student_cost * (ONE if self.accounting == "cascade" else tried),
            spared=requests * tried,
        )


@dataclass(frozen=True)
class Spending:
    """A day's costs in currency units: with the teacher alone, and on either side with a student.

    ``spared`` is how many of its mean requests a day the teacher is not asked; break-even is by it.
    """

    before: Decimal
    on_teacher: Decimal
    on_student: Decimal
    spared: Decimal

    @property
    def saving(self) -> Decimal:
        """Of a day; below 0 where the student costs more than it spares."""
        return self.before - self.on_teacher - self.on_student


@dataclass(frozen=True)
class CostPlan:
    """The answer: money in currency units, exact.

    ``months`` is the time in which training has to come back, None where that is not asked.
    """

    spending: Spending
    training_cost: Decimal = Decimal(0)
    months: int | None = None

    @property
    def monthly_before(self) -> Decimal:
        """With the teacher alone."""
        return self.spending.before * DAYS_A_MONTH

    @property
    def monthly_after(self) -> Decimal:
        """With the student."""
        return (self.spending.on_teacher + self.spending.on_student) * DAYS_A_MONTH

    @property
    def saving(self) -> Decimal:
        """Of a month, before training."""
        return self.spending.saving * DAYS_A_MONTH

    @property
    def payback_days(self) -> Decimal | None:
        """Until the savings have paid for training; None where nothing is saved."""
        return self.training_cost / self.spending.saving if self.spending.saving > 0 else None

    @property
    def pays(self) -> bool:
        """Whether something is saved, and training comes back within ``months``."""
        days = self.payback_days
        return days is not None and (self.months is None or days <= self.months * DAYS_A_MONTH)

    @property
    def break_even(self) -> Decimal | None:
        """The teacher's price per request at which, and below which, distilling does not pay; None: at any price.

        With the shares as they are, and training spread over ``months`` where they are given.
        """
        if self.spending.spared <= 0:
            return None
        training = self.training_cost / (self.months * DAYS_A_MONTH) if self.months else Decimal(0)
        return (self.spending.on_student + training) / self.spending.spared

    @property
    def why_not(self) -> str | None:
        """One sentence where distilling does not pay."""
        if self.spending.spared <= 0:
            return "Distilling does not pay: the teacher is spared no request."
        if self.spending.saving <= 0:
            return "Distilling does not pay: the student costs no less than the teacher's requests that it spares."
        if not self.pays:
            return f"Distilling does not pay within {self.months} month(s), which save less than training costs."
        return None


@dataclass(frozen=True)
class Day:
    """What the ledger has of a day, or of several: counts, and money in currency units.

    ``baseline`` is what the clients' requests would have cost on the teacher; ``on_teacher`` and ``on_student`` are
    all that was spent on either route, with what was asked to learn beside (``beside``); ``length`` is in days.
    ``gpu_hours`` is how long student servers ran, where their hours are what the student costs: ``on_student`` is
    theirs then, and ``by_price`` what the clients' requests to it would have cost by its tokens' price.
    """

    length: Decimal = Decimal(0)
    requests: Decimal = Decimal(0)
    to_teacher: Decimal = Decimal(0)
    baseline: Decimal = Decimal(0)
    on_teacher: Decimal = Decimal(0)
    on_student: Decimal = Decimal(0)
    beside_on_teacher: Decimal = Decimal(0)
    beside_on_student: Decimal = Decimal(0)
    gpu_hours: Decimal = Decimal(0)
    by_price: Decimal = Decimal(0)

    @property
    def plan(self) -> Plan:
        """Requests a day, the teacher's cost of the mean request, the student's of those it answered, and the share.

        The student's cost is 0 where it answered nothing.
        """
        to_student = self.requests - self.to_teacher
        return Plan(
            requests_per_day=self.requests / self.length,
            teacher_cost=self.baseline / (self.requests or 1),
            student_cost=(self.on_student - self.beside_on_student) / (to_student or 1),
            teacher_share=self.to_teacher / (self.requests or 1),
            accounting="measured",
        )


def total(days: Sequence[Day]) -> Day:
    """The days as one."""
    names = [field.name for field in fields(Day)]
    return Day(**{name: sum((getattr(day, name) for day in days), start=Decimal(0)) for name in names})


def measured(day: Day) -> Spending:
    """A day's costs as they were, what was asked to learn beside included.

    An attempt of the student that the teacher's answer replaced is in the request's cost, and so on the teacher's
    side: break-even comes out a little high where many are.
    """
    price = day.plan.teacher_cost
    saved = day.baseline - day.on_teacher
    return Spending(
        before=day.baseline / day.length,
        on_teacher=day.on_teacher / day.length,
        on_student=day.on_student / day.length,
        spared=saved / price / day.length if price else Decimal(0),
    )


def intervals(
    days: Sequence[Day], figures: Callable[[Day], dict[str, Decimal]], confidence: float = 0.95
) -> dict[str, tuple[Decimal, Decimal]]:
    """A percentile bootstrap over whole days (Efron and Tibshirani 1993, chapter 13), the same each time.

    Days are drawn and not requests, since requests of a day are alike.

    Args:
        days: At least one.
        figures: What is asked of a total.
        confidence: Of each interval by itself.

    Returns:
        The lower and the upper end of each figure.
    """
    draw = random.Random(0)  # noqa: S311 - no secret
    drawn = [figures(total(draw.choices(days, k=len(days)))) for _ in range(RESAMPLES)]
    low = round((1 - confidence) / 2 * (RESAMPLES - 1))
    ordered = {name: sorted(values[name] for values in drawn) for name in drawn[0]}
    return {name: (values[low], values[-1 - low]) for name, values in ordered.items()}
