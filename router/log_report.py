"""The router's report from the ledger: what is in force, how well it does by the labels, what else it could do."""

from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from ledger import releases
from ledger.artifact_store import local_part
from ledger.artifacts import ArtifactError
from ledger.observed import MAX_ROWS, Observed, observed
from ledger.set_thresholds import set_on
from ledger.store import Store
from router.estimators import (
    ESTIMATORS,
    Cutoffs,
    Estimator,
    Point,
    Prices,
    calibration_error,
    curve,
    estimate,
    plain_agreement,
)
from router.model import RouterFileError, RouterModel
from router.thresholds import NEVER, Thresholds, in_force

__all__ = ("ALL", "Asked", "LogReport", "cutoffs_of", "log_of", "log_report", "report_on", "router_of")

ALL = "all"
"""Instead of a release's id: the requests of all of them."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Which report. ``since`` is milliseconds since the epoch; ``release`` an id, `ALL`, or None for the live one."""

    prices: Prices
    cache: Path
    """Where a release's files are kept that are not on this machine."""
    since: int = 0
    release: str | None = None
    estimator: Estimator = "dr"
    points: int = 101
    most: int = MAX_ROWS
    """How many requests are read, the newest ones."""


class LogReport(msgspec.Struct, frozen=True):
    """Of the requests that the router decided on. Money in the settings' currency, per request."""

    release: str | None
    since: int
    requests: int
    asked: int
    """For how many of them both answers exist."""
    labelled: int
    """For how many of them these are compared."""
    thresholds: Thresholds | None
    """Those in force: the release's, or what a person set instead; None where it has no router that can be read."""
    in_force: dict[Estimator, Point]
    """The thresholds in force, by each estimator."""
    plain_agreement: float | None
    """Of the labelled requests as if they were an even sample. Biased: for comparison."""
    score_calibration_error: float | None
    confidence_calibration_error: float | None
    estimator: Estimator
    """The curve's."""
    curve: list[Point]


def log_report(store: Store, asked: Asked) -> LogReport:
    """Read the ledger and estimate. Heavy: seconds for hundreds of thousands of requests.

    Raises `ReleaseError` for a release that there is not.
    """
    return report_on(*log_of(store, asked), store, asked)


def log_of(store: Store, asked: Asked) -> tuple[Observed, str | None]:
    """The requests of a report and their release. Raises as `log_report`."""
    release_id = _release(store, asked.release)
    return observed(store, asked.since, release_id, asked.most), release_id


def report_on(log: Observed, release_id: str | None, store: Store, asked: Asked) -> LogReport:
    """`log_report` of requests that are read already."""
    router = router_of(store, release_id, asked.cache)
    thresholds = router.thresholds if router else None
    cutoffs = cutoffs_of(thresholds)
    return LogReport(
        release=release_id,
        since=asked.since,
        requests=len(log),
        asked=int(log.asked.sum()),
        labelled=int(log.labelled.sum()),
        thresholds=thresholds,
        in_force=_in_force(log, cutoffs, asked.prices),
        plain_agreement=plain_agreement(log),
        score_calibration_error=calibration_error(log, "score"),
        confidence_calibration_error=calibration_error(log, "confidence"),
        estimator=asked.estimator,
        curve=curve(log, asked.prices, asked.points, asked.estimator, cutoffs or Cutoffs(0.5, 0.5, 0.5)),
    )


def router_of(store: Store, release_id: str | None, cache: Path) -> RouterModel | None:
    """The router of a release, by the thresholds that a person set where one has; fetched where it is not here.

    None where there is no such release, or its files cannot be read any more.
    """
    if not release_id:
        return None
    try:
        release = releases.get(store, release_id)
        router = RouterModel.load(local_part(release, "router", cache))
    except (releases.ReleaseError, RouterFileError, ArtifactError, OSError):
        return None
    return replace(router, thresholds=in_force(router.thresholds, set_on(release)))


def cutoffs_of(thresholds: Thresholds | None) -> Cutoffs | None:
    """As the estimates take them."""
    if thresholds is None:
        return None
    if not thresholds.feasible:
        return Cutoffs(NEVER, NEVER, NEVER)
    return Cutoffs(thresholds.hard, thresholds.confident, thresholds.confident_end)


def _release(store: Store, wanted: str | None) -> str | None:
    if wanted == ALL:
        return None
    if wanted is not None:
        return releases.get(store, wanted).id
    champion = releases.live(store)
    return champion.id if champion else None


def _in_force(log: Observed, cutoffs: Cutoffs | None, prices: Prices) -> dict[Estimator, Point]:
    if cutoffs is None or not len(log):
        return {}
    return {estimator: estimate(log, cutoffs, prices, estimator) for estimator in ESTIMATORS}
