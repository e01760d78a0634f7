"""``/ops``: what the traffic costs and saves, which route it takes and why, releases and jobs."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

from litestar import Request, Response, get

from dashboards import words
from dashboards.login import login
from dashboards.ranges import RANGES, TimeRange, read_range
from dashboards.site import READ, page, static_file
from ledger import jobs, releases
from ledger.requests import Usage, latency_quantile, usage_by
from ledger.store import Store

__all__ = ("handlers",)

JOBS_SHOWN: Final = 20


@get("/ops", opt=READ)
async def overview(request: Request[Any, Any, Any]) -> Response[bytes]:
    """The overview of a time range."""
    chosen = read_range(request.query_params, "30d")
    shown = await asyncio.to_thread(_overview, request.app.state.store, chosen)
    return page(request, "overview.html", "Overview", range=chosen, ranges=_range_names(), **shown)


def _range_names() -> list[tuple[str, str]]:
    return [(name, said) for name, (said, _) in RANGES.items()]


def _overview(store: Store, chosen: TimeRange) -> dict[str, Any]:
    usage = usage_by(store, ["route", "reason"], chosen.since)
    return {
        "figures": _figures(usage) if usage else [],
        "routes": _route_rows(usage),
        "latency": _latency_rows(store, chosen.since),
        "releases": _release_rows(store),
        "jobs": _job_rows(store),
    }


def _figures(usage: Mapping[tuple[Any, ...], Usage]) -> list[dict[str, str]]:
    cost = sum(u.cost_nano for u in usage.values())
    baseline = sum(u.baseline_nano for u in usage.values())
    asked = {key: u for key, u in usage.items() if key[1] != "explore"}
    total = sum(u.requests for u in asked.values())
    student = sum(u.requests for (route, _), u in asked.items() if route == "student")
    figures = (
        ("Spent", words.money(cost)),
        ("On the teacher alone", words.money(baseline)),
        ("Saved", words.percent(1 - cost / baseline if baseline else None)),
        ("Answered by the student", words.percent(student / total if total else None)),
        ("Requests", words.count(total)),
    )
    return [{"name": name, "value": value, "note": ""} for name, value in figures]


def _route_rows(usage: Mapping[tuple[Any, ...], Usage]) -> list[Sequence[str]]:
    return [
        (route, reason, words.count(u.requests), words.count(u.errors), words.money(u.cost_nano),
         words.money(u.baseline_nano))
        for (route, reason), u in sorted(usage.items())
    ]  # fmt: skip


def _latency_rows(store: Store, since: int) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = []
    for route in ("student", "teacher"):
        p50, p95, p99 = (latency_quantile(store, route, q, since) for q in (0.5, 0.95, 0.99))
        if p50 is not None:
            rows.append((route, *map(words.milliseconds, (p50, p95, p99))))
    return rows


def _release_rows(store: Store) -> list[Sequence[str]]:
    return [
        (
            release.id,
            release.state,
            words.when(release.promoted_at),
            words.interval(release.summary.get("student_agreement_ci")),
            str(release.summary.get("held_out", words.NOTHING)),
        )
        for release in reversed(releases.list_releases(store))
    ]


def _job_rows(store: Store) -> list[Sequence[str]]:
    listed = jobs.list_jobs(store, JOBS_SHOWN)
    return [(job.id, job.state, words.when(job.created_at), job.error or "") for job in listed]


handlers = [overview, login, static_file]
