"""What the ops page of the router shows beyond the ledger's own sums: estimates, calibration, and drift as it is."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from litestar import Request

from gateway.admin_requests import store_of
from gateway.live_release import LiveRelease
from ledger import drift_rows, releases
from ledger.drift_rows import Labelled
from ledger.releases import Release
from ledger.rollups import DAY_MS
from ledger.set_thresholds import Bars, set_on
from ledger.store import Store, now_ms
from router.drift import shift, student_target
from router.estimators import Point, Prices, estimate
from router.log_pictures import Bin, Spread, calibration_bins, spread
from router.log_report import Asked, LogReport, cutoffs_of, log_of, report_on
from router.settings import RouterSettings
from router.thresholds import Thresholds, bars_of, keeps_guarantee

__all__ = ("Choice", "Looked", "RouterFigures", "read_drift", "read_router")

MOST: Final = 20_000
"""Requests that are read for the page, the newest ones."""
POINTS: Final = 41
LEAST_SCORED: Final = 500
"""`distill.drift_watch` tests no fewer, and the newest so many of more than `MOST_SCORED`."""
MOST_SCORED: Final = 5_000
MOST_LABELS: Final = 20_000
MONTH_MS: Final = 30 * DAY_MS
KINDS: Final = 3
LARGEST_BUDGET: Final = 0.05


class Choice(msgspec.Struct, frozen=True):
    """Thresholds that can be set, and what they would do."""

    point: Point
    bars: Bars
    guaranteed: bool
    in_force: bool


class RouterFigures(msgspec.Struct, frozen=True):
    """Of the newest `read_at_most` requests that the live release's router decided on since a time."""

    report: LogReport
    read_at_most: int
    choices: list[Choice]
    """From the laxest to the strictest, those in force among them; empty where nothing can be estimated."""
    own: Choice | None
    """The release's own thresholds, where others are in force."""
    score: list[Bin]
    confidence: list[Bin]
    spread: Spread


class Looked(msgspec.Struct, frozen=True):
    """One kind of drift now: ``value`` against ``bound``, None for what is not known; ``n`` requests or labels."""

    kind: str
    n: int
    value: float | None = None
    bound: float | None = None


@dataclass(frozen=True, slots=True)
class _Known:
    release: Release
    live: LiveRelease
    settings: RouterSettings
    prices: Prices
    cache: Path


async def read_router(request: Request[Any, Any, Any], since: int) -> RouterFigures | None:
    """The estimates of the page, from the log since a time (ms); None without a live release. Takes up to seconds."""
    return await asyncio.to_thread(_figures, request, since)


async def read_drift(request: Request[Any, Any, Any]) -> list[Looked] | None:
    """What the watch for drift looks at, as it stands since its last alarms; None without a live release."""
    return await asyncio.to_thread(_drift, request)


def _known(request: Request[Any, Any, Any]) -> _Known | None:
    state = request.app.state
    release, live = releases.live(store_of(request)), state.live.snapshot.release
    if release is None or live is None or live.id != release.id:
        return None
    pricing = state.relay.pricing
    prices = Prices(pricing.student, pricing.teacher)
    return _Known(release, live, state.router_settings, prices, state.release_cache)


def _figures(request: Request[Any, Any, Any], since: int) -> RouterFigures | None:
    store, known = store_of(request), _known(request)
    if known is None:
        return None
    asked = Asked(known.prices, known.cache, since, known.release.id, points=POINTS, most=MOST)
    log, release_id = log_of(store, asked)
    report = report_on(log, release_id, store, asked)
    own = known.live.own_thresholds
    choices = _choices(report, own)
    set_aside = None
    if choices and known.live.set_aside is not None and (cutoffs := cutoffs_of(own)) is not None:
        set_aside = Choice(estimate(log, cutoffs, known.prices), bars_of(own), True, False)
    return RouterFigures(
        report=report,
        read_at_most=MOST,
        choices=choices,
        own=set_aside,
        score=calibration_bins(log, "score"),
        confidence=calibration_bins(log, "confidence"),
        spread=spread(log),
    )


def _choices(report: LogReport, own: Thresholds) -> list[Choice]:
    now = report.in_force.get(report.estimator)
    if report.thresholds is None or now is None:
        return []
    bars = bars_of(report.thresholds)
    found: list[Choice] = []
    for point in _apart([*report.curve, now], now):
        wanted = bars if point is now else _bars(point, bars)
        found.append(Choice(point, wanted, keeps_guarantee(own, wanted), point is now))
    return found


def _apart(points: Sequence[Point], now: Point) -> list[Point]:
    """From the laxest on, without those that do what the one before does."""
    found: list[Point] = []
    for point in sorted(points, key=_strictness):
        if found and _effect(point) == _effect(found[-1]):
            found[-1] = now if now in (point, found[-1]) else found[-1]
        else:
            found.append(point)
    return found


def _strictness(point: Point) -> float:
    """Rises along the curve."""
    return sum(min(bar, 1.0 + 1e-9) for bar in (point.hard, point.confident, point.confident_end))


def _effect(point: Point) -> tuple[float, ...]:
    return point.teacher_share, point.agreement, point.low, point.high, point.cost


def _bars(point: Point, now: Bars) -> Bars:
    """What has the effect of a point of the curve: sure requests stay so, which is what the estimates take."""

    def bar(value: float, in_force: float) -> float:
        # the curve ends just above 1, where nothing passes
        return max(value, in_force) if value >= 1.0 else value

    return Bars(
        hard=bar(point.hard, now.hard),
        confident=bar(point.confident, now.confident),
        confident_end=bar(point.confident_end, now.confident_end),
        sure=max(now.sure, point.hard),
    )


def _drift(request: Request[Any, Any, Any]) -> list[Looked] | None:
    store, known = store_of(request), _known(request)
    if known is None:
        return None
    raised = drift_rows.alarms(store, known.release.id)
    return [*_looked_at_scores(store, known, raised), _looked_at_labels(store, known, raised.get("agreement", 0))]


def _looked_at_scores(store: Store, known: _Known, raised: dict[str, int]) -> list[Looked]:
    begun = known.release.promoted_at or known.release.created_at
    since = max(begun, raised.get("score", 0), raised.get("novelty", 0))
    rows = drift_rows.scored_after(store, known.release.id, since, now_ms(), MOST_SCORED)
    values = {
        "novelty": [row.novelty for row in rows if row.novelty is not None],
        "score": [row.score for row in rows],
    }
    passed = rows[-1].created_at - rows[0].created_at if rows else 0
    budget = known.settings.drift_alarms_per_month * max(passed, 1) / MONTH_MS / KINDS
    reference = known.live.router.reference
    found: list[Looked] = []
    for kind, seen in values.items():
        expected: tuple[float, ...] = getattr(reference, kind)
        if len(seen) < LEAST_SCORED or not expected or budget <= 0:
            found.append(Looked(kind, len(seen)))
            continue
        drift = shift(kind, expected, reference.rows, np.array(seen), min(budget, LARGEST_BUDGET))
        found.append(Looked(kind, drift.n, drift.statistic, drift.threshold))
    return found


def _looked_at_labels(store: Store, known: _Known, raised: int) -> Looked:
    own, kept = known.live.own_thresholds, set_on(known.release)
    since = max(known.release.promoted_at or known.release.created_at, raised, kept.at if kept else 0)
    after = drift_rows.labels_after(store, known.release.id, (since, "", ""), now_ms())
    labels: list[Labelled] = list(islice(after, MOST_LABELS))
    share: float | None = own.student_share
    if kept is not None:
        share = drift_rows.student_share(store, known.release.id, kept.at, LEAST_SCORED)
    bound = student_target(own.agreement_target, share) if own.feasible and share is not None else None
    weight = np.array([1.0 / row.propensity if row.propensity > 0 else 1.0 for row in labels])
    value = float(weight @ [row.agreement for row in labels] / weight.sum()) if labels else None
    return Looked("agreement", len(labels), value, bound)
