"""``/ops``: what the traffic costs and saves, who answers and why, how well, how fast, and what asks for a look."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final
from urllib.parse import urlencode

from litestar import Request, Response, get

from dashboards import overview_tables, words
from dashboards.overview_alerts import alerts
from dashboards.overview_tables import GROUPS, Found
from dashboards.ranges import RANGES, TimeRange, read_range
from dashboards.site import READ, csv_answer, page
from dashboards.tables import Table
from ledger import events, jobs, keys, releases
from ledger import overview_figures as figures
from ledger.overview_figures import Span
from ledger.records import NANO
from ledger.requests import Usage
from ledger.rollups import DAY_MS, HOUR_MS
from ledger.store import Store, now_ms

__all__ = ("Asked", "overview", "read_figures")

HOURLY_UP_TO: Final = 3 * DAY_MS
JOBS_SHOWN: Final = 5
EVENTS_SHOWN: Final = 10


@dataclass(frozen=True, slots=True)
class Asked:
    """What the page's address asks for."""

    range: TimeRange
    group: str
    target: float | None
    """The agreement that the live release's thresholds were chosen for."""


@get("/ops", opt=READ)
async def overview(request: Request[Any, Any, Any]) -> Response[bytes]:
    """The overview of a time range; with ``format=csv`` and ``table`` one of its tables."""
    query = request.query_params
    group = query.get("group", "")
    live = request.app.state.live.snapshot.release
    asked = Asked(
        read_range(query, "30d"),
        group if group in GROUPS else next(iter(GROUPS)),
        live.router.thresholds.agreement_target if live else None,
    )
    found = await asyncio.to_thread(read_figures, request.app.state.store, asked)
    tables = overview_tables.tables(found, asked.group, asked.range.words, _traffic(query, asked))
    if query.get("format") == "csv" and query.get("table") in tables:
        table = tables[query["table"]]
        return csv_answer(table.names, table.plain, table.filename(asked.range))
    standing = await request.app.state.read_serving(request, with_figures=False)
    shown = alerts(found, standing, asked.target)
    return page(request, "overview.html", "Overview", alerts=shown, **_context(query, asked, found, tables))


def read_figures(store: Store, asked: Asked) -> Found:
    """What the page shows, from the store. Blocks; raises the store's error."""
    chosen = asked.range
    span, now = Span(chosen.since, chosen.until), now_ms()
    step = HOUR_MS if chosen.until - chosen.since <= HOURLY_UP_TO else DAY_MS
    usage = figures.usage_in(store, span, ["route", "reason"])
    hours = figures.usage_over_time(store, span)
    return Found(
        usage=usage,
        grouped=figures.usage_in(store, span, GROUPS[asked.group][1]),
        hours=hours,
        last_hour=figures.usage_in(store, Span(now - HOUR_MS, now), ["route", "reason"]),
        steps=_coarser(hours, step),
        days=_coarser(hours, DAY_MS),
        latencies=figures.latencies(store, span),
        first_tokens=figures.first_tokens(store, span),
        agreement=figures.agreement(store, span, usage),
        spend=figures.spend_by_key(store, now),
        forecast=figures.forecast(store, now),
        keys=keys.list_keys(store),
        releases=releases.list_releases(store),
        jobs=jobs.list_jobs(store, JOBS_SHOWN),
        events=events.newest(store, EVENTS_SHOWN),
        is_hourly=step == HOUR_MS,
    )


def _context(query: Mapping[str, str], asked: Asked, found: Found, tables: Mapping[str, Table]) -> dict[str, Any]:
    chosen = asked.range
    return {
        "range": chosen,
        "ranges": [(name, said) for name, (said, _) in RANGES.items()],
        "groups": [(name, said) for name, (said, _) in GROUPS.items()],
        "group": asked.group,
        "dates": (query.get("from", ""), query.get("to", "")) if not chosen.name else ("", ""),
        "csv": _csv_query(query, asked),
        "bill": _bill(found),
        "figures": _figures(found, asked) if found.usage else [],
        "charts": _charts(found) if found.usage else [],
        "tables": tables,
    }


def _range(query: Mapping[str, str], asked: Asked) -> dict[str, str]:
    """The time range, for an address."""
    if asked.range.name:
        return {"range": asked.range.name}
    return {"from": query.get("from", ""), "to": query.get("to", "")}


def _csv_query(query: Mapping[str, str], asked: Asked) -> dict[str, str]:
    """The address of the same figures as CSV, without the table's name."""
    return {**_range(query, asked), "group": asked.group, "format": "csv"}


def _traffic(query: Mapping[str, str], asked: Asked) -> Callable[[dict[str, str]], str]:
    """Leads to the requests that a row counts."""
    return lambda filters: f"/ops/traffic?{urlencode({**_range(query, asked), **filters})}"


def _bill(found: Found) -> list[dict[str, str]]:
    budgets = [key.policy for key in found.keys if key.revoked_at is None]
    day = [policy.budget_day for policy in budgets if policy.budget_day is not None]
    month = [policy.budget_month for policy in budgets if policy.budget_month is not None]
    shown = [
        _figure("Spent today", words.money(sum(s.day for s in found.spend.values())), _budgets(day)),
        _figure("Spent this month", words.money(sum(s.month for s in found.spend.values())), _budgets(month)),
    ]
    ahead = found.forecast
    if ahead is None:
        return [*shown, _figure("Month's end, forecast", words.NOTHING, "after the first whole day")]
    days = f"mean of {ahead.days} whole {'day' if ahead.days == 1 else 'days'}"
    if ahead.low is not None:
        days = f"{words.money(ahead.low)} to {words.money(ahead.high)} (95\u00a0%), {days}"
    return [*shown, _figure("Month's end, forecast", words.money(ahead.month_end), days)]


def _budgets(limits: Sequence[float]) -> str:
    if not limits:
        return "no key has a budget for it"
    total = sum((Decimal(str(limit)) for limit in limits), Decimal(0))
    return f"budgets of {len(limits)} {'key' if len(limits) == 1 else 'keys'}: {total:,.2f}"


def _figures(found: Found, asked: Asked) -> list[dict[str, str]]:
    cost = sum(u.cost_nano for u in found.usage.values())
    baseline = sum(u.baseline_nano for u in found.usage.values())
    own = overview_tables.own(found.usage)
    total = sum(u.requests for u in own.values())
    student = sum(u.requests for (route, _), u in own.items() if route == "student")
    escalated = sum(u.requests for (_, reason), u in own.items() if reason == "low_confidence")
    errors = sum(u.errors for u in own.values())
    bounds = figures.saving_interval(_sums(found.hours).values())
    live = next((release for release in found.releases if release.state == "live"), None)
    return [
        _figure("Spent", words.money(cost), "exploration included"),
        _figure("On the teacher alone", words.money(baseline), "estimate: the same requests at the teacher's price"),
        _figure("Saved", words.percent(1 - cost / baseline if baseline else None), _saving_note(bounds, found)),
        _figure("Answered by the student", words.percent(student / total if total else None), f"n = {total:,}"),
        _figure("Escalated", words.percent(escalated / total if total else None), "begun by the student, not kept"),
        _agreement_figure(found, asked),
        _figure("Errors", words.percent(errors / total if total else None), f"{errors:,} with status 400 or above"),
        _figure("Requests", words.count(total), "without those of exploration"),
        _figure("Live release", live.id if live else "none", f"since {words.when(live.promoted_at)}" if live else ""),
    ]  # fmt: skip


def _saving_note(bounds: tuple[float, float] | None, found: Found) -> str:
    if bounds is None:
        return "interval from 8 hours with traffic on"
    hours = len(_sums(found.hours))
    return f"{words.interval(bounds)} (95\u00a0%), spread of {hours:,} hours"


def _agreement_figure(found: Found, asked: Asked) -> dict[str, str]:
    target = f"target {asked.target:.0%}" if asked.target is not None else "no live release, so no target"
    known = found.agreement
    if known is None:
        return _figure("Agreement", words.NOTHING, f"no labels of explored requests; {target}")
    note = f"{words.interval(known.whole_bounds)} (95\u00a0%), n = {known.labels:,} labels; {target}"
    return _figure("Agreement", words.percent(known.whole), note)


def _coarser(hours: Mapping[tuple[Any, ...], Usage], step: int) -> dict[tuple[Any, ...], Usage]:
    """The sums of hours as those of longer steps (ms); their first column is the time."""
    found: dict[tuple[Any, ...], Usage] = {}
    for (at, *others), each in hours.items():
        key = (at - at % step, *others)
        before = found.get(key)
        found[key] = each if before is None else before + each
    return found


def _sums(usage: Mapping[tuple[Any, ...], Usage]) -> dict[int, Usage]:
    """By the first column alone."""
    found: dict[int, Usage] = {}
    for (at, *_), each in usage.items():
        before = found.get(at)
        found[at] = each if before is None else before + each
    return found


def _charts(found: Found) -> list[tuple[str, str, dict[str, Any]]]:
    """(id, caption, data for ops.js); floats are for drawing only."""
    steps = _sums(found.steps)
    unit = "hour" if found.is_hourly else "day"
    money = {
        "x": [at // 1000 for at in steps],
        "time": True,
        "series": [
            {"name": "spent", "values": [each.cost_nano / NANO for each in steps.values()], "kind": "bars"},
            {"name": "on the teacher alone", "values": [each.baseline_nano / NANO for each in steps.values()]},
        ],
    }
    shares = overview_tables.student_shares(found.days)
    student = {
        "x": [at // 1000 for at in shares],
        "time": True,
        "y": {"min": 0, "max": 100, "unit": " %"},
        "series": [
            {"name": "student", "values": [None if s is None else round(100 * s, 2) for _, s in shares.values()]}
        ],
    }
    return [
        ("spend", f"Spend and what the teacher alone would have cost, per {unit} (UTC)", money),
        ("share", "Requests that the student answered, per day (UTC)", student),
    ]


def _figure(name: str, value: str, note: str = "") -> dict[str, str]:
    return {"name": name, "value": value, "note": note}
