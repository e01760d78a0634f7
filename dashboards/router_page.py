"""``/ops/router``: what the router decides by, how right it is, what other thresholds would do, and drift.

What the router itself computes comes from the gateway: ``state.read_router`` the estimates, which take up to seconds
and are a part of the page of their own, and ``state.read_drift``. All else is the ledger's.
"""

import asyncio
from dataclasses import dataclass
from typing import Any, Final

from litestar import Request, Response, get
from sqlalchemy.exc import SQLAlchemyError

from dashboards import router_tables, router_words
from dashboards.ranges import TimeRange
from dashboards.router_words import Volume, Watch
from dashboards.site import READ, csv_answer, fragment, page
from ledger import drift_rows, events, keys, releases
from ledger import overview_figures as figures
from ledger.events import Event
from ledger.observed import DECIDED
from ledger.overview_figures import Span
from ledger.releases import Release
from ledger.rollups import DAY_MS
from ledger.set_thresholds import SetThresholds, set_on
from ledger.store import Store, now_ms

__all__ = ("router", "router_estimates")

DAYS: Final = 30
EVENTS_SHOWN: Final = 20
AWAY: Final = "The ledger cannot be read now. Try again in a moment."


@dataclass(frozen=True, slots=True)
class Found:
    """What the ledger knows at once."""

    release: Release | None
    set: SetThresholds | None
    names: dict[str, str]
    events: list[Event]
    alarms: dict[str, int]


@get("/ops/router", opt=READ)
async def router(request: Request[Any, Any, Any]) -> Response[bytes]:
    """The page. With ``at``, a point of the curve, or ``estimates`` the estimates are a part of it at once."""
    query, state = request.query_params, request.app.state
    if query.get("format") == "csv":
        return await _csv(request)
    try:
        found = await asyncio.to_thread(_read, state.store)
        looked = await state.read_drift(request)
        estimates = await _estimates(request) if query.get("at") or "estimates" in query else None
    except SQLAlchemyError:
        return page(request, "router.html", "Router", 503, problem=AWAY)
    live = state.live.snapshot.release
    watch = Watch(looked or [], found.alarms, state.router_settings, found.release, live)
    return page(
        request,
        "router.html",
        "Router",
        problem="",
        release=found.release,
        is_read=live is not None and found.release is not None and live.id == found.release.id,
        router=router_words.thresholds(live, found.set, found.names) if live else None,
        detectors=router_words.detectors(watch) if live and found.release else [],
        events=router_words.drift_events(found.events),
        estimates=estimates,
    )


@get("/ops/router/estimates", opt=READ)
async def router_estimates(request: Request[Any, Any, Any]) -> Response[bytes]:
    """The part of the page that takes a while: estimates from the log, and the form that sets thresholds."""
    try:
        return fragment(request, "router_estimates.html", estimates=await _estimates(request))
    except SQLAlchemyError:
        return fragment(request, "router_estimates.html", estimates={"problem": AWAY})


async def _estimates(request: Request[Any, Any, Any]) -> dict[str, Any]:
    """For the template."""
    state, now = request.app.state, now_ms()
    since = now - DAYS * DAY_MS
    found = await state.read_router(request, since)
    if found is None:
        return {"problem": "", "empty": router_words.NO_RELEASE}
    volume = await asyncio.to_thread(_volume, state.store, since, now)
    empty = router_words.why_empty(found, state.router_settings, DAYS)
    shown: dict[str, Any] = {"problem": "", "empty": empty, "spread": None, "choices": [], "days": DAYS}
    if found.report.requests:
        shown |= router_tables.spread(found)
    if not empty:
        shown |= router_tables.calibration(found) | router_words.choices(
            found, volume, request.query_params.get("at")
        )
    return shown | {"figures": router_words.estimated(found, volume)}


async def _csv(request: Request[Any, Any, Any]) -> Response[bytes]:
    """One of the tables of the estimates."""
    shown = await _estimates(request)
    table = shown.get(f"{request.query_params.get('table', '')}_table")
    if table is None:
        return page(
            request, "missing.html", "No such table", 404, missing="There is no such table now.", back="/ops/router"
        )
    now = now_ms()
    return csv_answer(table.names, table.plain, table.filename(TimeRange(f"{DAYS}d", now - DAYS * DAY_MS, now)))


def _read(store: Store) -> Found:
    release = releases.live(store)
    return Found(
        release=release,
        set=set_on(release) if release else None,
        names={key.id: key.name for key in keys.list_keys(store)},
        events=events.newest(store, EVENTS_SHOWN, drift_rows.KIND),
        alarms=drift_rows.alarms(store, release.id) if release else {},
    )


def _volume(store: Store, since: int, now: int) -> Volume:
    """The requests that the router decided on, without those that failed, and over how long."""
    span = Span(since, now)
    usage = figures.usage_in(store, span, ["reason"])
    hours = [hour for hour, *_ in figures.usage_over_time(store, span)]
    decided = sum(each.requests - each.errors for (reason,), each in usage.items() if reason in DECIDED)
    return Volume(decided, now - min(hours) if hours else 0)
