"""The tables of the overview: each is on the page and, by its name, in CSV."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final
from urllib.parse import quote

from dashboards import words
from dashboards.tables import COUNT, MONEY, MS, SHARE, TEXT, WHEN, Table
from ledger.events import Event
from ledger.jobs import Job
from ledger.keys import Key
from ledger.overview_figures import TRAIL_DAYS, Agreement, Forecast, KeySpend, Timing
from ledger.records import NANO, UNASKED
from ledger.releases import Release
from ledger.requests import Usage

__all__ = ("GROUPS", "Found", "own", "student_shares", "tables")

GROUPS: Final = {
    "reason": ("route and reason", ("route", "reason")),
    "route": ("route", ("route",)),
    "release": ("release", ("release_id",)),
    "key": ("key", ("key_id",)),
    "tag": ("tag", ("tag",)),
    "model": ("model", ("model",)),
}
"""How the page names a grouping, and the columns of the rollups that it is."""
HEADS: Final = {"release_id": "release", "key_id": "key"}
RELEASES_SHOWN: Final = 10

Grouped = Mapping[tuple[Any, ...], Usage]
Traffic = Callable[[dict[str, str]], str]
"""Where the requests are that these filters take."""
FILTERS: Final = {
    "route": "route", "reason": "reason", "release_id": "release", "key_id": "key", "tag": "tag", "model": "model",
}  # fmt: skip
"""The filter of the explorer that takes a value of each column."""
REASONS: Final = {
    "hard": "the router expected the student to fail, and did not ask it",
    "low_confidence": "the student began, and was not sure enough",
    "unsupported": "the student cannot do it: too long, tools, pictures",
    "pinned": "the caller or the key asked for the teacher",
    "no_release": "no release was live",
    "student_down": "the student did not answer",
    "budget": "a ceiling",
}


@dataclass(frozen=True, slots=True)
class Found:
    """What was read for one page."""

    usage: Grouped
    """By route and reason."""
    grouped: Grouped
    hours: Grouped
    last_hour: Grouped
    """By route and reason, of the last hour whatever the range."""
    steps: Grouped
    days: Grouped
    latencies: Mapping[str, Timing]
    first_tokens: Mapping[str, Timing]
    agreement: Agreement | None
    spend: Mapping[str, KeySpend]
    forecast: Forecast | None
    keys: Sequence[Key]
    releases: Sequence[Release]
    jobs: Sequence[Job]
    events: Sequence[Event]
    is_hourly: bool


def own(usage: Grouped) -> dict[tuple[Any, ...], Usage]:
    """Usage by (route, reason) without what no client asked for."""
    return {key: each for key, each in usage.items() if key[1] not in UNASKED}


def student_shares(days: Grouped) -> dict[int, tuple[int, float | None]]:
    """(requests, share of the student) by the time of ``(time, route, beside)``, without what was asked beside."""
    counts: dict[int, list[int]] = {}
    for (at, route, beside), each in days.items():
        found = counts.setdefault(at, [0, 0])
        if not beside:
            found[0] += each.requests
            found[1] += each.requests if route == "student" else 0
    return {at: (total, student / total if total else None) for at, (total, student) in counts.items()}


def tables(found: Found, group: str, span: str, traffic: Traffic) -> dict[str, Table]:
    """All of them by name, in the page's order; ``span`` names the time range, ``traffic`` leads to its requests."""
    made = (
        _usage(found, group, span, traffic),
        _why(found, span, traffic),
        _latency(found, span),
        _over_time(found, span),
        _shares(found, span),
        _budgets(found),
        _events(found),
        _releases(found),
        _jobs(found),
    )
    return {table.name: table for table in made}


def _usage(found: Found, group: str, span: str, traffic: Traffic) -> Table:
    said, columns = GROUPS[group]
    names = {key.id: key.name for key in found.keys}
    rows: list[tuple[Any, ...]] = []
    for key, each in found.grouped.items():
        shown = [names.get(part, part) if name == "key_id" else part for part, name in zip(key, columns, strict=True)]
        tokens = each.prompt_tokens, each.completion_tokens
        rate = each.errors / each.requests if each.requests else None
        rows.append((*shown, each.requests, each.errors, rate, *tokens, each.cost_nano, each.baseline_nano))
    heads = [(HEADS.get(name, name), TEXT) for name in columns]
    counts = [("requests", COUNT), ("errors", COUNT), ("error rate", SHARE)]
    tokens_ = [("prompt tokens", COUNT), ("completion tokens", COUNT)]
    money = [("cost", MONEY), ("baseline", MONEY)]
    links = [_link(traffic, dict(zip(columns, key, strict=True))) for key in found.grouped]
    return Table("usage", f"Requests by {said}, {span}", [*heads, *counts, *tokens_, *money], rows, links=links)


def _link(traffic: Traffic, values: Mapping[str, Any]) -> str:
    """To the requests of a row; nowhere for what no filter takes, as requests without a key."""
    if not all(values.values()):
        return ""
    return traffic({FILTERS[name]: str(value) for name, value in values.items()})


def _why(found: Found, span: str, traffic: Traffic) -> Table:
    asked = own(found.usage)
    total = sum(each.requests for each in asked.values())
    teacher = [(reason, each.requests) for (route, reason), each in asked.items() if route == "teacher"]
    teacher.sort(key=lambda row: -row[1])
    rows = [(reason, n, n / total if total else None, REASONS.get(reason, "")) for reason, n in teacher]
    columns = [("reason", TEXT), ("requests", COUNT), ("share of all", SHARE), ("in words", TEXT)]
    links = [traffic({"route": "teacher", "reason": reason}) for reason, _ in teacher]
    said = f"Why the teacher answered, {span}"
    return Table("reasons", said, columns, rows, "The teacher answered nothing.", links)


def _latency(found: Found, span: str) -> Table:
    rows = [
        (route, what, *timing.quantiles, timing.n)
        for route in found.latencies
        for what, by_route in (("whole answer", found.latencies), ("first token", found.first_tokens))
        if (timing := by_route.get(route)) is not None
    ]
    columns = [("route", TEXT), ("time to", TEXT), ("p50", MS), ("p95", MS), ("p99", MS), ("n", COUNT)]
    return Table("latency", f"Latency by route, {span}", columns, rows)


def _over_time(found: Found, span: str) -> Table:
    sums: dict[int, list[int]] = {}
    for (at, *_), each in found.steps.items():
        row = sums.setdefault(at, [0, 0, 0])
        for i, amount in enumerate((each.requests, each.cost_nano, each.baseline_nano)):
            row[i] += amount
    unit = "hour" if found.is_hourly else "day"
    columns = [(f"{unit} from", WHEN), ("requests", COUNT), ("cost", MONEY), ("baseline", MONEY)]
    return Table("spend", f"Spend per {unit}, {span}", columns, [(at, *row) for at, row in sums.items()])


def _shares(found: Found, span: str) -> Table:
    rows = [(at, *row) for at, row in student_shares(found.days).items()]
    columns = [("day from", WHEN), ("requests", COUNT), ("student", SHARE)]
    return Table("share", f"Share of the student per day, {span}", columns, rows)


def _budgets(found: Found) -> Table:
    rows: list[tuple[Any, ...]] = []
    links: list[str] = []
    for key in found.keys:
        if key.revoked_at is None and key.policy.has_budget:
            links.append(f"/ops/keys/{quote(key.id, safe='')}")
            spent = found.spend.get(key.id, KeySpend(0, 0, 0))
            day, month = _nano(key.policy.budget_day), _nano(key.policy.budget_month)
            used = (spent.day, day, _part(spent.day, day), spent.month, month, _part(spent.month, month))
            rows.append((key.name, *used, spent.trail // TRAIL_DAYS))
    columns = [
        ("key", TEXT), ("today", MONEY), ("of a day's", MONEY), ("day used", SHARE), ("this month", MONEY),
        ("of a month's", MONEY), ("month used", SHARE), ("a day, last 7", MONEY),
    ]  # fmt: skip
    return Table("budgets", "Keys with a budget, now", columns, rows, "No key has a budget.", links)


def _events(found: Found) -> Table:
    rows = [(each.at, each.kind, each.subject, _said(each.data)) for each in found.events]
    columns = [("at", WHEN), ("kind", TEXT), ("about", TEXT), ("what", TEXT)]
    return Table("events", "Events, the newest first", columns, rows)


def _releases(found: Found) -> Table:
    rows = [
        (each.id, each.state, each.promoted_at, _bounds(each), str(each.summary.get("held_out", words.NOTHING)))
        for each in found.releases[: -RELEASES_SHOWN - 1 : -1]
    ]
    columns = [
        ("release", TEXT),
        ("state", TEXT),
        ("live since", WHEN),
        ("student agreement", TEXT),
        ("held out", TEXT),
    ]
    links = [f"/ops/releases/{quote(row[0], safe='')}" for row in rows]
    return Table("releases", "Releases, the newest first", columns, rows, links=links)


def _jobs(found: Found) -> Table:
    rows = [(each.id, each.state, each.created_at, each.error) for each in found.jobs]
    columns = [("job", TEXT), ("state", TEXT), ("created", WHEN), ("cause", TEXT)]
    links = [f"/ops/jobs/{quote(each.id, safe='')}" for each in found.jobs]
    return Table("jobs", "Jobs, the newest first", columns, rows, links=links)


def _bounds(release: Release) -> str:
    return words.interval(release.summary.get("student_agreement_ci"))


def _said(data: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in data.items() if not isinstance(value, dict | list))


def _nano(limit: float | None) -> int | None:
    return None if limit is None else int(Decimal(str(limit)) * NANO)


def _part(spent: int, limit: int | None) -> float | None:
    return spent / limit if limit else None
