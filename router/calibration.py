"""Chooses the cheapest thresholds that keep the system's agreement at the target with stated confidence.

A request that goes to the teacher agrees by definition, so the system disagrees where the student answered
and was wrong. For each `hard` of a fixed grid, the hypotheses "the disagreement rate is above 1 - target"
are tested for `confident` from strict to lax until one is not rejected (Learn then Test, arXiv:2110.01052),
at level delta / len(HARD_GRID) by Bonferroni over the grid. The grid must not depend on the
data; `confident` may take any value, since the disagreement rate falls as it rises (risk control for
monotone losses, arXiv:2101.02703).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, betaincinv

from router.thresholds import Thresholds

__all__ = ("HARD_GRID", "Prices", "Thresholds", "choose_thresholds")

HARD_GRID = (0.0, 0.5)


@dataclass(frozen=True, slots=True)
class Prices:
    """Expected cost of one request at each model, in one unit of money."""

    student: float
    teacher: float


@dataclass(frozen=True, slots=True)
class _Rows:
    scores: NDArray[np.float64]
    confidences: NDArray[np.float64]
    disagreed: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Candidate:
    hard: float
    confident: float
    answered: int
    disagreed: int
    cost: float


def choose_thresholds(  # noqa: PLR0913 -- the contract of the room: three columns, three settings
    scores: NDArray[np.float64],
    confidences: NDArray[np.float64],
    agreed: NDArray[np.bool_],
    target: float,
    delta: float,
    prices: Prices,
) -> Thresholds:
    """The cheapest thresholds that pass, from out-of-sample scores, confidences and labels of shape (n,).

    Raises ValueError for arrays of different lengths or a target or delta outside (0, 1).
    """
    n = _checked_rows(scores, confidences, agreed, target, delta)
    level = delta / len(HARD_GRID)
    allowed = _allowed_disagreements(n, 1.0 - target, level)
    rows = _Rows(np.asarray(scores), np.asarray(confidences), ~np.asarray(agreed, dtype=bool))
    found = [_laxest(rows, hard, allowed, prices) for hard in HARD_GRID]
    usable = [c for c in found if c is not None and c.cost <= prices.teacher]
    if not usable:
        return Thresholds(1.0, 1.0, target, delta, n, 0.0, 1.0, feasible=False)
    best = min(usable, key=lambda c: (c.cost, -c.answered))
    bound = 1.0 - _upper_bound(best.disagreed, n, level)
    return Thresholds(best.hard, best.confident, target, delta, n, best.answered / n, bound, feasible=True)


def _checked_rows(
    scores: NDArray[np.float64],
    confidences: NDArray[np.float64],
    agreed: NDArray[np.bool_],
    target: float,
    delta: float,
) -> int:
    if not len(scores) == len(confidences) == len(agreed):
        raise ValueError(f"{len(scores)} scores, {len(confidences)} confidences, {len(agreed)} labels")
    if not (0.0 < target < 1.0 and 0.0 < delta < 1.0):
        raise ValueError(f"target {target} and delta {delta} must lie between 0 and 1")
    return len(scores)


def _allowed_disagreements(n: int, rate: float, level: float) -> int:
    """Most disagreements among n at which the Clopper-Pearson upper bound is <= rate; -1 if there is none."""
    # The bound is <= rate exactly where P(Binomial(n, rate) <= k) <= level.
    return int(np.count_nonzero(bdtr(np.arange(n), n, rate) <= level)) - 1


def _upper_bound(disagreed: int, n: int, level: float) -> float:
    """Clopper-Pearson upper bound of a rate at confidence 1 - level (doi:10.1093/biomet/26.4.404)."""
    return 1.0 if disagreed >= n else float(betaincinv(disagreed + 1, n - disagreed, 1.0 - level))


def _laxest(rows: _Rows, hard: float, allowed: int, prices: Prices) -> _Candidate | None:
    """The laxest `confident` that passes for this `hard`, or None if none lets the student answer at all."""
    tried = np.flatnonzero(rows.scores >= hard)
    order = tried[np.argsort(-rows.confidences[tried], kind="stable")]
    ranked, errors = rows.confidences[order], np.cumsum(rows.disagreed[order])
    # Equal confidences stand or fall together, so a threshold lies only where the value changes.
    passing = np.flatnonzero((np.diff(ranked, append=-np.inf) < 0) & (errors <= allowed))
    if not passing.size:
        return None
    last = int(passing[-1])
    answered, n = last + 1, rows.scores.size
    # Any value between two neighbours sorts these rows alike; their middle does not hang on a float's last
    # bit.
    below = float(np.append(ranked, 0.0)[answered])
    middle = (float(ranked[last]) + below) / 2
    confident = middle if middle > below else float(ranked[last])
    share_hard, share_answered = 1.0 - order.size / n, answered / n
    cost = prices.teacher * (1.0 - share_answered) + prices.student * (1.0 - share_hard)
    return _Candidate(hard, confident, answered, int(errors[last]), cost)
