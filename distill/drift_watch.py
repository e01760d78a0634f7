"""Watches the live release's traffic for drift, and notes an event of it for the triggers and for people.

Three kinds: ``novelty`` and ``score`` are spread otherwise than over the requests that the router was trained on;
``agreement`` of the student's answers is below what the release's target asks of them.
"""

import asyncio
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import structlog

from ledger import drift_rows, releases
from ledger.artifact_store import local_part
from ledger.artifacts import ArtifactError
from ledger.drift_rows import LabelKey, Scored
from ledger.releases import Release
from ledger.rollups import DAY_MS
from ledger.set_thresholds import set_on
from ledger.store import Store, now_ms
from router.drift import AgreementWatch, Drift, shift, student_target
from router.reference import Reference, read_reference
from router.settings import RouterSettings

__all__ = ("BLOCK", "DriftWatch")

KINDS: Final = 3
MONTH_MS: Final = 30 * DAY_MS
LAG_MS: Final = 60_000
"""Rows come in up to so late: those younger are left for the next look."""
BLOCK: Final = 500
"""Requests in one test of scores and novelty."""
MOST: Final = 5_000
"""Requests in it where more came in between two looks: the newest."""
QUIET_MS: Final = DAY_MS
"""A kind of drift that lasts is noted again after so long."""
LARGEST_BUDGET: Final = 0.05
"""Of one test of scores, however long it took to fill."""
SAID: Final = {
    "novelty": "requests are unlike those the router was trained on",
    "score": "the router's scores are spread otherwise than over its training requests",
    "agreement": "the student's answers agree less with the teacher's than the target asks",
}

log = structlog.get_logger(__name__)


@dataclass
class _Watched:
    """What is known of one release; a worker that starts again reads it from the ledger again."""

    release: Release
    reference: Reference | None
    agreement: AgreementWatch | None
    """None until it is known what share the student has by thresholds that a person set."""
    read_until: int
    """Scores up to here are in the block, or were."""
    label_key: LabelKey
    block: deque[Scored] = field(default_factory=lambda: deque[Scored](maxlen=MOST))


@dataclass
class DriftWatch:
    """One look at a time, with bounded memory. False alarms are paid for by time, a third for each kind."""

    store: Store
    settings: RouterSettings
    cache: Path
    """Where a release's files are kept that are not on this machine."""
    _watched: _Watched | None = None

    async def run(self) -> None:
        """Look, in a thread. Raises the store's error."""
        await asyncio.to_thread(self.look, now_ms() - LAG_MS)

    def look(self, until: int) -> list[Drift]:
        """Take in what came up to a time (ms); the alarms, each of them an event unless one was noted lately."""
        release = releases.live(self.store) if self.settings.drift_alarms_per_month > 0 else None
        if release is None:
            self._watched = None
            return []
        watched = self._watched
        if watched is None or watched.release.id != release.id or set_on(watched.release) != set_on(release):
            watched = self._watched = self._begin(release)
        found = [*self._look_at_scores(watched, until), *self._look_at_labels(watched, until)]
        for drift in found:
            self._raise(release, drift)
        return found

    def _begin(self, release: Release) -> _Watched:
        raised = drift_rows.alarms(self.store, release.id)
        since = release.promoted_at or release.created_at
        scored = max(since, raised.get("score", 0), raised.get("novelty", 0))
        labelled = max(since, raised.get("agreement", 0), _set_at(release))
        return _Watched(
            release,
            self._reference(release),
            self._agreement_watch(release),
            read_until=scored,
            label_key=(labelled, "", ""),
        )

    def _look_at_scores(self, watched: _Watched, until: int) -> list[Drift]:
        watched.block += drift_rows.scored_after(self.store, watched.release.id, watched.read_until, until, MOST)
        watched.read_until = max(until, watched.read_until)
        if len(watched.block) < BLOCK or watched.reference is None:
            return []
        block = list(watched.block)
        watched.block.clear()
        budget = min(self._budget(block[-1].created_at - block[0].created_at), LARGEST_BUDGET)
        return [drift for drift in _shifts(watched.reference, block, budget) if drift.drifted]

    def _look_at_labels(self, watched: _Watched, until: int) -> list[Drift]:
        watched.agreement = watched.agreement or self._agreement_watch(watched.release)
        if watched.agreement is None:
            return []
        found: list[Drift] = []
        for row in drift_rows.labels_after(self.store, watched.release.id, watched.label_key, until):
            budget = self._budget(row.created_at - watched.label_key[0])
            watched.label_key = row[:3]
            drift = watched.agreement.see(row.agreement, row.propensity, budget)
            found += [drift] if drift.drifted else []
        # the newest says it of now
        return found[-1:]

    def _reference(self, release: Release) -> Reference | None:
        try:
            return read_reference(local_part(release, "router", self.cache))
        except (ArtifactError, OSError) as error:
            log.warning("router_unreadable", release=release.id, error=str(error))
            return None

    def _agreement_watch(self, release: Release) -> AgreementWatch | None:
        """None where the release says of no thresholds that it keeps to, or it is not known what those that a person
        set in their place leave to the student.
        """
        kept: dict[str, Any] = release.summary.get("thresholds", {})
        if not kept.get("feasible"):
            return None
        share: float | None = kept["student_share"]
        if set_on(release) is not None:
            share = drift_rows.student_share(self.store, release.id, _set_at(release), BLOCK)
        if share is None:
            return None
        # the least that exploration takes a request with; where it is off, what was labelled before counts alike
        return AgreementWatch(student_target(kept["agreement_target"], share), self.settings.explore_share / 4 or 1.0)

    def _budget(self, passed_ms: int) -> float:
        """False alarms of one kind that so much time may bring."""
        return self.settings.drift_alarms_per_month * max(passed_ms, 1) / MONTH_MS / KINDS

    def _raise(self, release: Release, drift: Drift) -> None:
        data: dict[str, Any] = {
            "drift": drift.kind,
            "text": SAID[drift.kind],
            "statistic": round(drift.statistic, 4),
            "threshold": round(drift.threshold, 4),
            "n": drift.n,
        }
        if drift_rows.raise_once(self.store, release.id, data, QUIET_MS):
            log.warning("drift", release=release.id, **data)


def _shifts(reference: Reference, block: list[Scored], budget: float) -> list[Drift]:
    values = {
        "score": (reference.score, [row.score for row in block]),
        "novelty": (reference.novelty, [row.novelty for row in block if row.novelty is not None]),
    }
    return [
        shift(kind, expected, reference.rows, np.array(seen), budget)
        for kind, (expected, seen) in values.items()
        if expected and len(seen) >= BLOCK
    ]


def _set_at(release: Release) -> int:
    kept = set_on(release)
    return kept.at if kept is not None else 0
