"""An estimate as one HTML page, in the style of the gate's report: no script, and nothing of what was said."""

import re
from datetime import UTC, datetime
from html import escape
from typing import Final

from distill.estimate.drawing import bars, growth
from distill.estimate.findings import Accounted, Findings, FormShare, Inventory, Money
from distill.pictures import Interval, intervals
from distill.report_page import UNKNOWN, document, section, table

__all__ = ("page",)

WEEKDAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
MOST_DAYS: Final = 120
"""Bars of days; before them weeks are put together."""
CODE: Final = re.compile("`(.*?)`")
GOOD: Final = ("pays", "may pay", "no money")
STYLE: Final = (
    "<style>svg .beyond{fill:var(--candidate);opacity:.15}ul{padding-left:1.2rem}li{margin:.3rem 0}</style>"
)
HOW: Final = (
    "The logs are cut in time. A stand-in for the student, a linear model of the requests' words that only repeats "
    "answers it has seen, learns from the earlier part as a job would, with a part held out; thresholds are chosen "
    "on that part with the same guarantee as a release's. What they let through is counted on the later part. So "
    "the shares are what is already within reach without any language model: a student learns more from the same "
    "answers, as a rule and not for certain. Free text agrees here only where it is the same to the letter. Five "
    "runs a point, 95% intervals by drawing conversations again."
)


def page(found: Findings) -> str:
    """The page of an estimate."""
    sections = [
        section("What to do next", _steps(found.verdict.next)),
        section("Share that a student could take", _curve(found)),
        section("A month", _money(found.money)),
        section("By the form of the answer", _forms(found.forms)),
        section("What the logs hold", _inventory(found.inventory)),
        section("When requests come", _times(found.inventory)),
        section("What was read, and what was left out", _left_out(found.inventory)),
        section("How this was estimated", f"<p>{HOW}</p>"),
    ]
    title = "What distilling would bring"
    colour = "good" if found.verdict.says in GOOD else "bad"
    head = (
        f'{STYLE}<h1>{title}</h1><p><strong class="{colour}">{found.verdict.says}</strong></p>'
        f"<p>{escape(found.verdict.sentence)}</p>"
    )
    return document(title, head + "".join(sections))


def _steps(steps: list[str]) -> str:
    items = (CODE.sub(r"<code>\1</code>", escape(step)) for step in steps)
    return f"<ul>{''.join(f'<li>{item}</li>' for item in items)}</ul>" if steps else ""


def _curve(found: Findings) -> str:
    if not found.curve:
        return ""
    last = found.curve[-1]
    low, high = found.agreement_ends or (0.0, 1.0)
    note = (
        f'<p class="note">At an agreement of {found.target:.0%} with confidence {found.confidence:.0%}. Line with '
        "bars: the share that the proxy may answer. Other line: how often it would agree, were it to answer "
        "everything. Shaded: not measured; from no further gain to the curve going on as it went.</p>"
        f"<p>On {found.tested:,} later requests the whole agrees in {last.agreement:.1%} "
        f"({low:.1%} to {high:.1%}).</p>"
    )
    rows = [
        [
            f"{each.answers:,}",
            f"{each.moved:.1%}",
            _ends(each.ends),
            UNKNOWN if each.where_moved is None else f"{each.where_moved:.1%}",
            f"{each.alone:.1%}",
            f"{each.agreement:.1%}",
        ]
        for each in found.curve
    ]
    rows += [
        [f"{each.answers:,}", UNKNOWN, f"{_ends(each.ends)} (drawn on)", *[UNKNOWN] * 3] for each in found.beyond
    ]
    heads = ["#answers", "#may answer", "#95% interval", "#agrees there", "#agrees alone", "#agreement of the whole"]
    return note + growth(found.curve, found.beyond) + table(heads, rows)


def _money(money: Money | None) -> str:
    if money is None:
        return ""
    before = "" if money.before_ends is None else f" ({_money_ends(money.before_ends)})"
    note = (
        f"<p>Before: {money.before:,.2f} a month{before}; a request costs {money.teacher_cost:.6g} on the teacher, "
        f"{money.student_cost:.6g} on the student. Training costs {money.training_cost:,.2f} once. "
        f"{money.cost_moved:.1%} of the teacher's cost is spared ({_ends(money.cost_moved_ends)}).</p>"
        '<p class="note">Router first: what goes on to the teacher skips the student. Cascade: the student tries '
        "everything it can take.</p>"
    )
    rows = [
        [
            each.accounting,
            f"{each.after:,.2f}",
            f"{each.saving:,.2f}",
            _money_ends(each.saving_ends),
            *_payback(each, money.training_cost),
        ]
        for each in money.accountings
    ]
    return note + table(
        ["", "#a month after", "#saved a month", "#95% interval", "#payback, days", "#95% interval"], rows
    )


def _payback(each: Accounted, training: float) -> tuple[str, str]:
    if not training:
        return UNKNOWN, UNKNOWN
    days = "never" if each.payback_days is None else f"{each.payback_days:,.1f}"
    return days, " to ".join("never" if end is None else f"{end:,.1f}" for end in each.payback_ends)


def _forms(forms: list[FormShare]) -> str:
    if not forms:
        return ""
    rows = [
        [
            escape(each.form),
            f"{each.share:.1%}",
            UNKNOWN if each.cost_share is None else f"{each.cost_share:.1%}",
            f"{each.seen_before:.1%}",
            f"{each.tested:,}",
            f"{each.moved:.1%}" if each.tested else UNKNOWN,
        ]
        for each in forms
    ]
    drawn = [Interval(each.form, each.ends[0], each.moved, each.ends[1]) for each in forms if each.tested]
    note = (
        '<p class="note">Bars: the share of each form that the proxy may answer, with 95% intervals. Answers seen '
        "twice: of the sample's answers, those that it has at least two times.</p>"
    )
    heads = ["form", "#of requests", "#of cost", "#answers seen twice", "#tested", "#may answer"]
    return (note + intervals(drawn) if drawn else "") + table(heads, rows)


def _inventory(held: Inventory) -> str:
    rate = "" if held.requests_per_day is None else f", {held.requests_per_day:,.0f} a day"
    period = f" of {held.days:,.1f} days" if held.days else ""
    told = [f"{held.requests:,} requests{period}{rate}; of {held.kept:,} the text was kept."]
    told += [f"The dearest {share:.0%} of the requests are {cost:.0%} of the cost." for share, cost in held.dearest]
    told.append(f"{held.repeated:.1%} of the requests had come before, to the letter.")
    again, same = held.same_answer
    if again:
        told.append(
            f"Asked the same again, the teacher gave the same answer in {same / again:.1%} of {again:,} times."
        )
    rows = [
        [
            escape(each.model),
            f"{each.requests:,}",
            f"{each.prompt_tokens:,}",
            f"{each.completion_tokens:,}",
            UNKNOWN if each.cost is None else f"{each.cost:,.2f}",
        ]
        for each in held.models
    ]
    heads = ["model", "#requests", "#prompt tokens", "#completion tokens", "#cost"]
    return "".join(f"<p>{line}</p>" for line in told) + table(heads, rows)


def _times(held: Inventory) -> str:
    if not held.first:
        return ""
    days = held.by_day
    if len(days) > MOST_DAYS:
        days = [(days[at][0], sum(day[1] for day in days[at : at + 7]), 0.0) for at in range(0, len(days), 7)]
    names = [datetime.fromtimestamp(day[0] / 1000, UTC).strftime("%d %b") for day in days]
    unit = "week" if len(held.by_day) > MOST_DAYS else "day"
    return (
        f'<p class="note">Requests by {unit}, by hour of the day and by day of the week, in UTC.</p>'
        f"{bars([day[1] for day in days], names, f'Requests by {unit}')}"
        f"{bars(held.by_hour, [str(hour) for hour in range(24)], 'Requests by hour')}"
        f"{bars(held.by_weekday, WEEKDAYS, 'Requests by day of the week')}"
    )


def _left_out(held: Inventory) -> str:
    rows = [[escape(name), f"{count:,}"] for name, count in held.counts.items()]
    rows += [[f"no student is asked: {escape(name)}", f"{count:,}"] for name, count in held.unsupported.items()]
    bad = "".join(f'<p class="note">{escape(line)}</p>' for line in held.bad_lines)
    return table(["", "#requests"], rows) + bad


def _ends(ends: tuple[float, float]) -> str:
    return f"{ends[0]:.1%} to {ends[1]:.1%}"


def _money_ends(ends: tuple[float, float]) -> str:
    return f"{ends[0]:,.2f} to {ends[1]:,.2f}"
