"""Releases in words: what one saved, when it has paid for itself, how it is tried, and what a button does."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from dashboards import words
from ledger.canaries import Canary
from ledger.distilling import Payback
from ledger.release_history import Saved
from ledger.releases import Release

__all__ = ("OUTCOMES", "agreement", "cost_of", "paid_back", "promotion", "rules", "saved", "trial")

MOST_COST: Final = Decimal(10**9)
OUTCOMES: Final = {
    None: "open",
    "promoted": "promoted",
    "rolled_back": "taken back: shown to do worse, or not shown to hold in time",
    "stopped": "stopped by hand",
    "rejected": "rejected",
    "superseded": "superseded by another live release",
}
MOST_DAYS: Final = 36_500
"""Beyond it no date is named."""


def agreement(release: Release) -> str:
    """Of the student alone on held-out requests, with its interval and n."""
    share, n = release.summary.get("student_agreement"), release.summary.get("held_out")
    if share is None:
        return words.NOTHING
    return f"{words.percent(share)} ({words.interval(release.summary.get('student_agreement_ci'))}, n = {n:,})"


def saved(found: Saved | None) -> str:
    """With its interval, where the hours suffice for one."""
    if found is None:
        return words.NOTHING
    if found.bounds is None:
        return f"{words.money(found.saved_nano)} ({found.hours} h, too few for an interval)"
    low, high = found.bounds
    return f"{words.money(found.saved_nano)} ({words.money(low)} to {words.money(high)})"


def cost_of(text: str) -> Decimal | None:
    """A cost in currency units, None for what is none."""
    try:
        cost = Decimal(text.strip())
    except InvalidOperation:
        return None
    return cost if cost.is_finite() and 0 <= cost <= MOST_COST else None


def paid_back(known: Payback | None, since: int) -> list[dict[str, str]]:
    """Figures of a release that went live at a time (ms)."""
    if known is None:
        return []
    bounds = known.saved_a_day_bounds
    days = "1 day" if known.days == 1 else f"{known.days:g} days"
    a_day = f"mean of {days} since it went live, at most the last 30; what was asked to learn is in it"
    if bounds is not None:
        a_day = f"{words.money(bounds[0])} to {words.money(bounds[1])} (95\u00a0%), {a_day}"
    figures = [{"name": "Saved a day", "value": words.money(known.saved_a_day_nano), "note": a_day}]
    if not known.training_nano:
        return figures
    cost = words.money(known.training_nano)
    if known.payback_days is None:
        note = f"nothing is saved, so a training of {cost} never pays"
        return [*figures, {"name": "Pays for itself", "value": "never", "note": note}]
    note = f"after {known.payback_days:,.1f} days{_bounds(known)}, of a training of {cost}"
    return [*figures, {"name": "Pays for itself on", "value": _day(since, known.payback_days), "note": note}]


def _bounds(known: Payback) -> str:
    if known.payback_bounds is None:
        return ", interval from 7 days on" if known.days < 7 else ""
    low, high = known.payback_bounds
    return f" ({low:,.1f} to {'never' if high is None else f'{high:,.1f}'}, 95\u00a0%)"


def _day(since: int, days: float) -> str:
    if days > MOST_DAYS:
        return "in more than a century"
    return (datetime.fromtimestamp(since / 1000, UTC) + timedelta(days=days)).strftime("%Y-%m-%d")


def promotion(release: Release, live: Release | None) -> str:
    """What happens where a person makes a release live."""
    before = "No release is live now"
    if live is not None:
        again = "brings it back" if release.parent_id == live.id else f"of {release.id} does not bring it back"
        before = f"{live.id} is retired; a rollback {again}"
    return (
        f"Make {release.id} live?\n\nGateways follow within a second, its student as soon as it is ready; until then "
        f"the teacher answers. {before}. A trial that is open ends. Neither a gate nor a trial is asked."
    )


def trial(canary: Canary) -> list[dict[str, str]]:
    """Figures of a canary's newest look."""
    figures = canary.figures
    mine, theirs = figures.get("requests", (None, None))
    what = "answers" if canary.mode == "canary" else "answers beside the live one, unseen,"
    return [
        {"name": "Tried", "value": canary.release_id, "note": f"beside {canary.champion_id}"},
        {"name": "Share", "value": words.percent(canary.share, 0), "note": f"of the conversations it {what}"},
        {"name": "Requests", "value": words.count(mine), "note": f"and {words.count(theirs)} of the live release"},
        {
            "name": "State",
            "value": OUTCOMES.get(canary.outcome, str(canary.outcome)),
            "note": str(figures.get("why", "a worker has not looked yet")),
        },
    ]


def rules(figures: Mapping[str, Any]) -> list[list[str]]:
    """Each rule of a sequential test: both sides, where the difference lies at every look, bound, n, and so far."""
    found: Sequence[Mapping[str, Any]] = figures.get("rules", ())
    return [[str(rule["name"]), *_sides(rule), _counts(rule["n"]), _so_far(rule)] for rule in found]


def _sides(rule: Mapping[str, Any]) -> list[str]:
    low, high, bound = rule["low"], rule["high"], rule["bound"]
    if rule["name"] == "latency":
        sides = [words.milliseconds(rule["candidate"]), words.milliseconds(rule["champion"])]
        return [*sides, _between(low, high, "{:.2f} times"), f"at most {bound:g} times"]
    sides = [words.percent(rule["candidate"]), words.percent(rule["champion"])]
    return [*sides, _between(low, high, "{:+.1%}"), f"worse by {bound:.1%} at most"]


def _between(low: float | None, high: float | None, form: str) -> str:
    ends = [words.NOTHING if end is None else form.format(end) for end in (low, high)]
    return words.NOTHING if low is None and high is None else " to ".join(ends)


def _counts(n: Sequence[int]) -> str:
    return f"{n[0]:,} and {n[1]:,}"


def _so_far(rule: Mapping[str, Any]) -> str:
    if rule["broken"]:
        return "shown to be broken"
    return "shown to hold" if rule["holds"] else "open"
