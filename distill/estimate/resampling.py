"""Intervals of shares: conversations are drawn again, and with each draw another run of the same size is taken."""

from collections.abc import Sequence
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from distill.evaluate import agreement_interval
from router.evaluation.bootstrap import interval, resampled_counts

__all__ = ("DRAWS", "Draws", "Ends", "drawn_days", "ends_of", "share_ends")

DRAWS: Final = 1_000
Ends: TypeAlias = tuple[float, float]
Floats: TypeAlias = NDArray[np.float64]


class Draws:
    """Resamples of tested requests, by conversation; the same each time."""

    def __init__(self, conversations: Sequence[int], seed: int = 0) -> None:
        clusters = np.unique(np.asarray(conversations, dtype=np.int64), return_inverse=True)[1].reshape(-1)
        self.conversations = int(clusters.max()) + 1
        self._counts = np.concatenate(list(resampled_counts(clusters, DRAWS, seed))).astype(np.float32)

    def mean(self, values: Floats, weights: Floats | None = None) -> Floats:
        """The weighted mean of each draw, shape (`DRAWS`,). ``values`` has shape (runs, n), ``weights`` (n,)."""
        runs = np.arange(DRAWS) % len(values)
        weighted = self._counts if weights is None else self._counts * weights.astype(np.float32)
        total = np.asarray(weighted.sum(axis=1), dtype=np.float64)
        sums = np.zeros(DRAWS)
        for run in range(len(values)):
            mine = runs == run
            sums[mine] = weighted[mine] @ values[run]
        return sums / np.where(total > 0, total, 1.0)


def ends_of(values: Floats) -> Ends:
    """The ends of the percentile interval at 95%."""
    low, high = interval(values)
    return float(low), float(high)


def share_ends(values: Floats, draws: Draws) -> Ends:
    """The interval of a share, of 0s and 1s in shape (runs, n). Where all are alike, redrawing them says nothing:
    then it is the exact one for so many conversations.
    """
    if values.min() < values.max():
        return ends_of(draws.mean(values))
    return agreement_interval([bool(values.max())] * draws.conversations)[1:]


def drawn_days(totals: NDArray[np.float64], seed: int = 0) -> NDArray[np.float64]:
    """Means of days drawn with replacement, as `cost_plan.intervals` draws them: (`DRAWS`, k) of totals (days, k)."""
    chance = np.random.default_rng(seed)
    return totals[chance.integers(0, len(totals), (DRAWS, len(totals)))].mean(axis=1)
