"""Watches an open canary: compares both releases by the ledger, and promotes or takes back by itself.

Four rules, each of which may be shown broken or shown to hold, at any look: the student's agreement, failures,
escalations, and the time an answer takes. One that is shown broken ends the canary; all must hold for a promotion.
"""

import asyncio
import math
import time
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import msgspec
import numpy as np
import structlog

from distill.canary_settings import CanarySettings
from ledger import canaries, jobs, releases
from ledger.canaries import Canary
from ledger.canary_rows import Side, sides
from ledger.releases import ReleaseError
from ledger.rollups import HOUR_MS
from ledger.store import Store, now_ms
from router.sequential import Arm, arm, arm_of_counts, evidence, interval, tail_bounds
from router.settings import RouterSettings

__all__ = ("CanaryWatch", "Decision", "Look", "Rule", "judge")

RULES: Final = 4
SLOW: Final = 0.05
"""Share of the answers beyond the 95th percentile."""
EVERY_S: Final = 10.0
LEAST_REST: Final = 20.0
"""A look that takes long on a large ledger is followed by so many times its duration of rest."""
ACTOR: Final = "canary"

Decision: TypeAlias = Literal["go_on", "promote", "roll_back"]

log = structlog.get_logger(__name__)


class Rule(msgspec.Struct, frozen=True):
    """One comparison. ``low`` to ``high`` is where the difference lies (of ``latency`` the ratio), at every look with
    probability 0.95; None where nothing bounds it. ``n``: what was seen of the candidate and of the champion.

    Differences are those of the badness: disagreement, failures, escalations of the candidate above the champion's.
    """

    name: str
    candidate: float | None
    champion: float | None
    low: float | None
    high: float | None
    bound: float
    n: tuple[int, int]
    broken: bool
    holds: bool


class Look(msgspec.Struct, frozen=True):
    """What one look found."""

    at: int
    requests: tuple[int, int]
    """The candidate's and the champion's."""
    rules: list[Rule]
    decision: Decision
    why: str


@dataclass(frozen=True, slots=True)
class CanaryWatch:
    """Looks at what is open. It keeps nothing between two looks, and any number of workers may look at once."""

    store: Store
    settings: CanarySettings
    router: RouterSettings
    approves: bool = False
    """Whether a job that waits for approval is tried once no other release is: it waited for that only."""

    async def run(self) -> None:
        """Look once, in a thread. Raises the store's error."""
        await asyncio.to_thread(self.look)

    async def watch(self) -> None:
        """Look now and then until cancelled, whatever else the worker does. What fails costs a look."""
        while True:
            began = time.monotonic()
            (failed,) = await asyncio.gather(self.run(), return_exceptions=True)
            if isinstance(failed, Exception):
                log.error("canary_unseen", error=f"{type(failed).__name__}: {str(failed).partition(chr(10))[0]}")
            await asyncio.sleep(max(EVERY_S, LEAST_REST * (time.monotonic() - began)))

    def look(self) -> Look | None:
        """Compare, keep the figures, and do what they say. None where no canary is open."""
        canary = canaries.current(self.store)
        if canary is None:
            self._take_up()
            return None
        found = judge(self.settings, self.router, canary, sides(self.store, canary), now_ms())
        canaries.set_figures(self.store, canary, msgspec.to_builtins(found))
        if found.decision == "go_on":
            return found
        try:
            if found.decision == "promote":
                releases.promote(self.store, canary.release_id, ACTOR, was="canary")
            else:
                canaries.finish(self.store, canary, "rolled_back", ACTOR)
        except ReleaseError as error:
            # another worker, or a person, was faster
            log.info("canary_ended_meanwhile", release=canary.release_id, why=str(error))
        else:
            log.warning("canary_ended", release=canary.release_id, decision=found.decision, why=found.why)
        return found

    def _take_up(self) -> None:
        """Try the newest release that waited for another one's trial to end."""
        trial = self.settings.trial
        if not self.approves or trial is None:
            return
        waiting = [job for job in jobs.list_jobs(self.store) if job.state == "awaiting_approval"]
        if waiting and waiting[0].release_id is not None:
            try:
                canaries.start(self.store, waiting[0].release_id, trial, ACTOR)
            except ReleaseError as error:
                log.info("canary_not_begun", release=waiting[0].release_id, why=str(error))


def judge(
    settings: CanarySettings, router: RouterSettings, canary: Canary, seen: tuple[Side, Side], now: int
) -> Look:
    """Hold what was seen of champion and candidate against the rules. ``now`` is in ms."""
    champion, candidate = seen
    alpha = 1.0 - settings.confidence
    pairs = {
        "agreement": (_disagreement(router, champion, champion=True), _disagreement(router, candidate)),
        "errors": _counted(seen, "failed"),
        "escalation": _counted(seen, "escalated"),
    }
    bounds = {
        "agreement": settings.agreement_margin,
        "errors": settings.error_margin,
        "escalation": settings.escalation_margin,
    }
    rules = [_means(name, pair, bounds[name], alpha) for name, pair in pairs.items()]
    rules.append(_latency(champion, candidate, settings.latency_ratio, alpha))
    enough = candidate.requests >= settings.min_requests
    is_late = now - canary.started_at >= settings.max_hours * HOUR_MS
    decision, why = _decided(settings, rules, enough, is_late)
    return Look(now, (candidate.requests, champion.requests), rules, decision, why)


def _decided(settings: CanarySettings, rules: list[Rule], enough: bool, is_late: bool) -> tuple[Decision, str]:
    broken = [_said(rule) for rule in rules if rule.broken]
    if broken:
        return "roll_back", f"shown to do worse than the champion: {'; '.join(broken)}"
    open_ = [rule.name for rule in rules if not rule.holds]
    if enough and not open_:
        return "promote", "every rule is shown to hold"
    missing = f"not shown to hold: {', '.join(open_)}" if open_ else "too few requests"
    if not is_late:
        return "go_on", missing
    decision: Decision = "promote" if settings.undecided == "promote" else "roll_back"
    return decision, f"undecided after {settings.max_hours:g} hours ({missing})"


def _said(rule: Rule) -> str:
    if rule.name == "latency":
        return f"its slow answers (95th percentile) take {rule.low:.2f} times as long or more, allowed {rule.bound:g}"
    return (
        f"{rule.name} {rule.candidate:.1%} against {rule.champion:.1%}, worse by {rule.low:.1%} or more, "
        f"allowed {rule.bound:.1%}"
    )


def _means(name: str, pair: tuple[Arm, Arm], margin: float, alpha: float) -> Rule:
    champion, candidate = pair
    low, high = interval(champion, candidate, 0.05)
    broken = evidence(champion, candidate, margin) >= math.log(RULES / alpha)
    holds = evidence(candidate, champion, -margin) >= math.log(1.0 / alpha)
    mine, theirs = (_shown_mean(name, each) for each in (candidate, champion))
    return Rule(name, mine, theirs, low, high, margin, (candidate.n, champion.n), broken, holds)


def _shown_mean(name: str, of: Arm) -> float | None:
    if math.isnan(of.mean):
        return None
    # reckoned as disagreement
    return 1.0 - of.mean if name == "agreement" else of.mean


def _latency(champion: Side, candidate: Side, ratio: float, alpha: float) -> Rule:
    def bounds(part: float) -> tuple[float, float]:
        (low, high), (base_low, base_high) = (
            tail_bounds(side.times_ms, side.times_seen, SLOW, part) for side in (candidate, champion)
        )
        return low / max(base_high, 1.0), high / max(base_low, 1.0) if base_low else math.inf

    # one side of both intervals, and half the probability for each release
    broken = bounds(alpha / RULES)[0] > ratio
    holds = bounds(alpha)[1] <= ratio
    low, high = bounds(0.025)
    counts = (int(candidate.times_seen.sum()), int(champion.times_seen.sum()))
    mine, theirs = _percentile(candidate), _percentile(champion)
    return Rule("latency", mine, theirs, low, None if math.isinf(high) else high, ratio, counts, broken, holds)


def _percentile(side: Side) -> float | None:
    """The 95th, in ms."""
    if not side.times_ms.size:
        return None
    total = np.cumsum(side.times_seen)
    return float(side.times_ms[np.searchsorted(total, (1.0 - SLOW) * total[-1])])


def _disagreement(router: RouterSettings, side: Side, champion: bool = False) -> Arm:
    # the least that a request of this side is drawn with: exploration goes down to a quarter of its share
    least = router.explore_share / 4 if champion else router.canary_explore_share
    weights = np.minimum((least or 1.0) / np.maximum(side.propensity, 1e-9), 1.0)
    return arm(1.0 - side.agreement, weights)


def _counted(seen: tuple[Side, Side], what: Literal["failed", "escalated"]) -> tuple[Arm, Arm]:
    champion, candidate = (arm_of_counts(getattr(side, what), side.requests) for side in seen)
    return champion, candidate
