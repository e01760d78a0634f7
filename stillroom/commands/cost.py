"""``cost plan``: what distilling would save, or what it does save by the ledger."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar

import msgspec
import rich_click as click

from distill.cost_history import days_until
from distill.cost_plan import DAYS_A_MONTH, CostPlan, Day, Plan, Spending, intervals, measured, total
from ledger.store import now_ms
from stillroom.commands.common import CommandFailed, as_json, ledger_of, settings_of, show_rows

__all__ = ("group",)

Command = TypeVar("Command", bound=Callable[..., Any])

NUMBER: Final = re.compile(r"\d{1,13}(\.\d{0,12})?|\.\d{1,12}")
MOST: Final = Decimal(10**12)
NEEDED: Final = ("requests_per_day", "teacher_cost", "student_cost", "teacher_share")
ENOUGH_DAYS: Final = 7
"""Fewer say too little of how days differ for an interval."""


Ends: TypeAlias = dict[str, tuple[float, float | None]]
"""By figure: the lower end and the upper one, None for no end."""


class Amount(click.ParamType[Decimal]):
    """An exact decimal number from 0 to `most`, with at most twelve places."""

    name = "number"

    def __init__(self, most: Decimal = MOST) -> None:
        self._most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Decimal:
        """Read it, or fail with one line."""
        if isinstance(value, Decimal):
            return value
        if not NUMBER.fullmatch(value) or Decimal(value) > self._most:
            self.fail(f"{value!r} is not a plain number from 0 to {self._most:f}, as in 0.015.", param, ctx)
        return Decimal(value)


class Figures(msgspec.Struct, kw_only=True):
    """What ``--json`` prints. Money is in the currency of the prices; a month has thirty days."""

    accounting: str
    requests_per_day: float
    teacher_cost: float
    student_cost: float
    teacher_share: float
    training_cost: float
    months: int | None
    monthly_before: float
    monthly_after: float
    saving: float
    payback_days: float | None
    break_even_teacher_cost: float | None
    pays: bool
    why: str
    gpu_hours: float | None = None
    """How long student servers ran in these days, where that is what the student costs."""
    student_cost_by_price: float | None = None
    """Then: what a request to it would have cost by its tokens' price."""
    monthly_beside: float | None = None
    days: float | None = None
    intervals: Ends | None = None


@dataclass(frozen=True)
class Asked:
    """The options: None for what was not given."""

    requests_per_day: int | None
    teacher_cost: Decimal | None
    student_cost: Decimal | None
    teacher_share: Decimal | None
    training_cost: Decimal
    cascade: bool
    months: int | None

    def over(self, plan: Plan) -> Plan:
        """The plan with what was given instead."""
        given: dict[str, Any] = {
            "requests_per_day": None if self.requests_per_day is None else Decimal(self.requests_per_day),
            "teacher_cost": self.teacher_cost,
            "student_cost": self.student_cost,
            "teacher_share": self.teacher_share,
            "accounting": "cascade" if self.cascade else "router first",
        }
        return replace(plan, **{name: value for name, value in given.items() if value is not None})

    @property
    def missing(self) -> list[str]:
        """The options of a plan that were not given."""
        return [f"--{name.replace('_', '-')}" for name in NEEDED if getattr(self, name) is None]

    def of(self, spending: Spending) -> CostPlan:
        """What comes of a day's costs."""
        return CostPlan(spending, self.training_cost, self.months)


OPTIONS: Final = (
    click.option("--requests-per-day", type=click.IntRange(1, 10**12), help="How many are asked."),
    click.option("--teacher-cost", type=Amount(), help="Of a request to the frontier model, in currency units."),
    click.option("--student-cost", type=Amount(), help="Of a request to the student."),
    click.option("--teacher-share", type=Amount(Decimal(1)), help="Share of the requests that go on to the teacher."),
    click.option(
        "--training-cost", type=Amount(), default="0", show_default=True, help="Of making the student, once."
    ),
    click.option("--cascade", is_flag=True, help="The student tries every request; else the router picks first."),
    click.option("--months", type=click.IntRange(1, 1_200), help="In how many training has to come back."),
)


def plan_options(command: Command) -> Command:
    """The options of `Asked`."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


@click.group("cost")
def group() -> None:
    """What it costs, and what it saves."""


@group.command()
@plan_options
@click.option("--from-ledger", is_flag=True, help="Take what is not given from the requests recorded.")
@click.option("--days", type=click.IntRange(1, 3_650), default=30, show_default=True,
              help="With --from-ledger: the newest so many.")  # fmt: skip
@as_json
@click.pass_context
def plan(context: click.Context, from_ledger: bool, days: int, as_json: bool, **options: Any) -> None:
    """Cost of a month before and after distilling, and when training has paid for itself."""
    asked = Asked(**options)
    if from_ledger:
        figures = _from_ledger(context, asked, days)
    elif asked.missing:
        raise click.UsageError(f"{', '.join(asked.missing)} missing; or give --from-ledger.", context)
    else:
        figures = _planned(asked)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(figures)).decode())
    else:
        _show(figures)


def _planned(asked: Asked) -> Figures:
    nothing = Plan(Decimal(1), Decimal(0), Decimal(0), Decimal(0))
    planned = asked.over(nothing)
    return _figures(planned, asked.of(planned.spending))


def _from_ledger(context: click.Context, asked: Asked, most: int) -> Figures:
    """As spent, or where a price or a share is given: as it would be, on the ledger's other figures."""
    hour_cost = settings_of(context).student.gpu_hour_cost
    days = days_until(ledger_of(context), now_ms(), most, hour_cost)
    whole = total(days)
    if not whole.requests:
        raise CommandFailed(f"the ledger has no request of the last {most} days to count")
    as_spent = len(asked.missing) == len(NEEDED)
    if as_spent and asked.cascade:
        raise click.UsageError("--cascade is for a plan: what the ledger has is measured.", context)
    if asked.teacher_cost is None and not whole.baseline:
        raise CommandFailed("the ledger has no price of the teacher: set [teacher.price], or give --teacher-cost")
    if asked.student_cost is None and whole.requests == whole.to_teacher:
        raise CommandFailed("the student answered no request yet: give --student-cost and --teacher-share for a plan")
    answer = partial(_answer, asked, as_spent)
    told, result = answer(whole)
    figures = _figures(told, result)
    figures.days = _plain(whole.length)
    if whole.gpu_hours and asked.student_cost is None:
        figures.gpu_hours = _plain(whole.gpu_hours)
        figures.student_cost_by_price = _plain(whole.by_price / (whole.requests - whole.to_teacher))
    if as_spent:
        figures.monthly_beside = _plain(_monthly_beside(whole))
    if len(days) >= ENOUGH_DAYS:
        figures.intervals = _intervals(days, answer, asked.training_cost)
    return figures


def _answer(asked: Asked, as_spent: bool, day: Day) -> tuple[Plan, CostPlan]:
    if as_spent:
        return day.plan, asked.of(measured(day))
    planned = asked.over(day.plan)
    return planned, asked.of(planned.spending)


def _monthly_beside(day: Day) -> Decimal:
    return (day.beside_on_teacher + day.beside_on_student) / day.length * DAYS_A_MONTH


def _intervals(days: list[Day], answer: Callable[[Day], tuple[Plan, CostPlan]], training: Decimal) -> Ends:
    def figures(day: Day) -> dict[str, Decimal]:
        told, result = answer(day)
        return {
            "requests_per_day": told.requests_per_day,
            "teacher_cost": told.teacher_cost,
            "student_cost": told.student_cost,
            "teacher_share": told.teacher_share,
            "monthly_before": result.monthly_before,
            "monthly_after": result.monthly_after,
            "saving": result.saving,
        }

    found = intervals(days, figures)
    ends: Ends = {name: (_plain(low), _plain(high)) for name, (low, high) in found.items()}
    # the more is saved, the sooner: the ends change places
    late, soon = (training * DAYS_A_MONTH / each if each > 0 else None for each in found["saving"])
    if soon is not None:
        ends["payback_days"] = (_plain(soon), None if late is None else _plain(late))
    return ends


def _figures(told: Plan, result: CostPlan) -> Figures:
    payback, even = result.payback_days, result.break_even
    return Figures(
        accounting=told.accounting,
        requests_per_day=_plain(told.requests_per_day),
        teacher_cost=_plain(told.teacher_cost),
        student_cost=_plain(told.student_cost),
        teacher_share=_plain(told.teacher_share),
        training_cost=_plain(result.training_cost),
        months=result.months,
        monthly_before=_plain(result.monthly_before),
        monthly_after=_plain(result.monthly_after),
        saving=_plain(result.saving),
        payback_days=None if payback is None else _plain(payback),
        break_even_teacher_cost=None if even is None else _plain(even),
        pays=result.pays,
        why=result.why_not or _why(told, result),
    )


def _why(told: Plan, result: CostPlan) -> str:
    """One sentence where it pays."""
    days, even = result.payback_days or Decimal(0), result.break_even or Decimal(0)
    back = f"training has paid for itself after {days:.1f} days" if result.training_cost else "training costs nothing"
    fall, within = 1 - even / told.teacher_cost, f" within {result.months} month(s)" if result.months else ""
    return (
        f"Distilling pays: {back}. It would no longer{within} if the teacher's request cost {_plain(even):.6g} "
        f"instead of {_plain(told.teacher_cost):.6g} ({fall:.1%} less)."
    )


def _plain(value: Decimal) -> float:
    """For people and JSON: to a billionth, which is how fine the ledger is."""
    return round(float(value), 9)


def _show(figures: Figures) -> None:
    ends = figures.intervals or {}
    rows = [
        ("requests a day", f"{figures.requests_per_day:,.6g}", "requests_per_day"),
        ("teacher, a request", f"{figures.teacher_cost:.6g}", "teacher_cost"),
        ("student, a request", f"{figures.student_cost:.6g}", "student_cost"),
        ("to the teacher", f"{figures.teacher_share:.2%}", "teacher_share"),
        ("a month before", f"{figures.monthly_before:,.2f}", "monthly_before"),
        (f"a month after ({figures.accounting})", f"{figures.monthly_after:,.2f}", "monthly_after"),
        ("saving a month", f"{figures.saving:,.2f}", "saving"),
    ]
    if figures.gpu_hours is not None:
        by_price = f"{figures.student_cost_by_price:.6g}"
        rows[3:3] = [
            ("  from hours of its servers", f"{figures.gpu_hours:,.1f}", ""),
            ("  by its tokens' price instead", by_price, ""),
        ]
    if figures.monthly_beside is not None:
        rows.insert(-1, ("  of it to learn, unasked", f"{figures.monthly_beside:,.2f}", ""))
    shown = [{"": label, "value": value} | _interval(ends.get(name), ends != {}) for label, value, name in rows]
    payback = "never" if figures.payback_days is None else f"{figures.payback_days:,.1f}"
    shown.append({"": "payback in days", "value": payback} | _interval(ends.get("payback_days"), ends != {}))
    show_rows(shown, False, "")
    click.echo(figures.why)
    if figures.days is not None and not ends:
        click.echo(f"No intervals: the ledger has {figures.days:.1f} days, and they take {ENOUGH_DAYS}.")


def _interval(ends: tuple[float, float | None] | None, wanted: bool) -> dict[str, str]:
    if not wanted:
        return {}
    if ends is None:
        return {"95%": ""}
    low, high = ends
    return {"95%": f"{low:,.6g} to {'never' if high is None else f'{high:,.6g}'}"}
