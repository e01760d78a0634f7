"""What a ranking of requests is worth: the measures that papers about routers report, each from its definition.

A ranking is `delegate` of shape (n,): the higher, the sooner a request goes to the strong model. Requests with equal
values are a block whose order is nobody's choice, so between a block's ends a curve is the straight line that the
mean over all orders is. A router that says the same of every request is therefore the random router, exactly.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ("Blocks", "Curve", "Outcomes", "aiq", "apgr", "benefit_auc", "blocks", "cpt", "curve")

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What each model scores and costs on each prompt; arrays of shape (n,), scores in 0..1."""

    weak: Floats
    strong: Floats
    weak_cost: Floats
    strong_cost: Floats

    @property
    def gain(self) -> Floats:
        """What the strong model adds to the score."""
        return self.strong - self.weak

    @property
    def benefit(self) -> NDArray[np.bool_]:
        """Where it adds something: for right and wrong, where it is right and the weak one wrong."""
        return self.strong > self.weak

    def take(self, rows: NDArray[np.int64]) -> "Outcomes":
        """The outcomes of some rows."""
        return Outcomes(self.weak[rows], self.strong[rows], self.weak_cost[rows], self.strong_cost[rows])

    def followed_by(self, others: "Outcomes") -> "Outcomes":
        """These outcomes and then those."""
        return Outcomes(
            np.concatenate((self.weak, others.weak)),
            np.concatenate((self.strong, others.strong)),
            np.concatenate((self.weak_cost, others.weak_cost)),
            np.concatenate((self.strong_cost, others.strong_cost)),
        )


@dataclass(frozen=True, eq=False)
class Blocks:
    """A ranking's order, shape (n,), and where in it each block of equal values begins, shape (blocks,)."""

    order: NDArray[np.int64]
    starts: NDArray[np.int64]

    def sums(self, values: Floats) -> Floats:
        """Sums of the last axis, of size n in the rows' own order, by block."""
        return np.add.reduceat(values[..., self.order], self.starts, axis=-1)


@dataclass(frozen=True, eq=False)
class Curve:
    """A router's choices from nothing delegated to everything: share of strong calls, mean score, mean cost."""

    share: Floats
    quality: Floats
    cost: Floats

    def at(self, share: Floats) -> tuple[Floats, Floats]:
        """Quality and cost at such shares, by interpolation."""
        return np.interp(share, self.share, self.quality), np.interp(share, self.share, self.cost)


def blocks(delegate: Floats) -> Blocks:
    """The blocks of a ranking of at least one row, those to delegate first in front."""
    order = np.argsort(-delegate, kind="stable")
    starts = np.flatnonzero(np.diff(delegate[order], prepend=np.inf))
    return Blocks(order, starts)


def curve(ranking: Blocks, outcomes: Outcomes) -> Curve:
    """Share, quality and cost after each block; one model runs per request, so one is paid."""
    n = ranking.order.size

    def after(start: float, change: Floats) -> Floats:
        return start + np.concatenate(([0.0], np.cumsum(ranking.sums(change)))) / n

    return Curve(
        after(0.0, np.ones(n)),
        after(float(outcomes.weak.mean()), outcomes.gain),
        after(float(outcomes.weak_cost.mean()), outcomes.strong_cost - outcomes.weak_cost),
    )


def apgr(ranking: Blocks, gain: Floats, counts: Floats | None = None) -> Floats:
    """Average performance gap recovered (RouteLLM, arXiv:2406.18665, section 4.1), shape () or that of the resamples.

    PGR(c) is the part of the gap between the weak and the strong model that is recovered when a share c of calls
    goes to the strong one; this is the exact area under it. RouteLLM sums it over thresholds in 10 % steps, which is
    the same by the trapezoidal rule for ten rows, and nears it for more. `counts`, shape (..., n), says how often a
    resample holds each row. NaN where the strong model is not better than the weak one: there is no gap.
    """
    held = np.ones(gain.size) if counts is None else counts
    sizes, gains = ranking.sums(held), ranking.sums(held * gain)
    total, rows = gains.sum(axis=-1), sizes.sum(axis=-1)
    # A block's gain comes in evenly over its width and stays: its area is gain x what is right of its middle.
    right = 1.0 - (np.cumsum(sizes, axis=-1) - sizes / 2) / rows[..., np.newaxis]
    safe = np.where(total > 0, total, 1.0)
    return np.where(total > 0, (gains * right).sum(axis=-1) / safe, np.nan)


def cpt(ranking: Blocks, gain: Floats, recovered: float) -> float:
    """Call-performance threshold (RouteLLM, arXiv:2406.18665, section 4.1): the smallest share of strong calls, 0..1,
    that recovers this part, 0..1, of the performance gap. NaN where there is no gap.
    """
    total = float(gain.sum())
    if total <= 0:
        return float("nan")
    ends = np.cumsum(np.concatenate(([0.0], ranking.sums(gain)))) / total
    shares = np.cumsum(np.concatenate(([0.0], ranking.sums(np.ones(gain.size))))) / gain.size
    # the last end is 1 but for rounding
    first = int(np.argmax(ends >= min(recovered, ends[-1])))
    if first == 0:
        return 0.0
    part = (recovered - ends[first - 1]) / (ends[first] - ends[first - 1])
    return float(shares[first - 1] + min(part, 1.0) * (shares[first] - shares[first - 1]))


def benefit_auc(ranking: Blocks, benefit: NDArray[np.bool_]) -> float:
    """Chance that a request with benefit is ranked before one without, ties half (the area under the ROC curve;
    Hanley and McNeil 1982, doi:10.1148/radiology.143.1.7063747). NaN with one class only.
    """
    with_benefit = ranking.sums(benefit.astype(np.float64))
    without = ranking.sums((~benefit).astype(np.float64))
    pairs = with_benefit.sum() * without.sum()
    after = without.sum() - np.cumsum(without) + without / 2
    return float((with_benefit * after).sum() / pairs) if pairs else float("nan")


def aiq(points: Curve) -> float:
    """Average improvement in quality (RouterBench, arXiv:2403.12031, section 3): the mean quality over the cost range
    of the non-decreasing convex hull of the router's cost-quality points. NaN where all points cost the same.

    The range is the router's own, from the cheapest point to the dearest.
    """
    order = np.lexsort((-points.quality, points.cost))
    cost, quality = points.cost[order], np.maximum.accumulate(points.quality[order])
    width = float(cost[-1] - cost[0])
    if width <= 0:
        return float("nan")
    hull: list[int] = []
    for i in range(cost.size):
        while len(hull) > 1 and _is_below(hull[-2], hull[-1], i, cost, quality):
            hull.pop()
        if not hull or cost[i] > cost[hull[-1]]:
            hull.append(i)
    return float(np.trapezoid(quality[hull], cost[hull]) / width)


def _is_below(a: int, b: int, c: int, x: Floats, y: Floats) -> bool:
    return bool((y[b] - y[a]) * (x[c] - x[a]) <= (y[c] - y[a]) * (x[b] - x[a]))
