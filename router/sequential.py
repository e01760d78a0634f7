"""Whether one release does worse than another, from what was seen of both, looked at as often as one likes.

Every test is a bet. Wealth that began at 1 is multiplied, for each value x in [0, 1] that was drawn with weight w, by
1 + b w (x / t - 1) against "the mean is at most t", or by 1 - b w (x - t) / (1 - t) against "at least t": a wager
that wins nothing on average while the claim is true, so that wealth ever reaches 1/alpha with probability alpha at
most, however often and whenever one looks (Ville; betting for bounded means: Waudby-Smith and Ramdas,
arXiv:2010.09686). All of `BETS` are played at once, and the mixture counts (Robbins' method of mixtures; the same as
the mixture test of Johari et al., arXiv:1512.04922). None of them looks at the data, so that wealth hangs on the
values and not on their order, and a look needs no memory of the one before.

Two means are compared by the product of two wealths, the least of it over all means that the claim allows: the true
one is among them, so that it is wealth of the same kind. It is read in cells of a grid, at the end of each cell that
makes it less; between its points nothing is lost.

A value that was drawn with probability p has the weight (least p) / p, in (0, 1]: then the mean is that of all
requests, not of those that were drawn. A p below the least counts as the least, which is the only bias.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ("Arm", "arm", "arm_of_counts", "evidence", "interval", "tail_bounds")

BETS: Final = np.geomspace(0.004, 0.95, 12)
"""Parts of the largest bet."""
NO_BET: Final = 0.2
"""Part of the wealth that is not bet: where a mean lies on the claim's edge, no more than this is lost."""
CELLS: Final = 400
GRID: Final = np.square(np.arange(CELLS + 1) / CELLS)
"""Means at which wealth is known: closer near 0, where error rates lie."""
TINY: Final = 1e-12
STEPS: Final = 30
"""Halvings of an interval's end."""
DIGITS: Final = 3
"""Of a weight; so many values of each kind are told apart."""

Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Arm:
    """What was seen of one release: ``n`` values of a badness from 0 to 1 and their weighted ``mean``.

    ``above`` and ``below`` are log wealths at each mean of `GRID`, shape (CELLS + 1,): against "the mean is at most
    this", never rising, and against "at least this", never falling.
    """

    n: int
    mean: float
    above: Floats
    below: Floats


def arm(values: Floats, weights: Floats | None = None) -> Arm:
    """Of values in [0, 1] with weights in (0, 1], both of shape (n,)."""
    weights = np.ones(values.size) if weights is None else np.round(np.clip(weights, 10.0**-DIGITS, 1.0), DIGITS)
    kinds, counts = np.unique(np.stack([values, weights]), axis=1, return_counts=True)
    return _arm(kinds[0], kinds[1], counts.astype(np.float64))


def arm_of_counts(bad: int, n: int) -> Arm:
    """Of ``n`` requests, ``bad`` of which were."""
    return _arm(np.array([0.0, 1.0]), np.ones(2), np.array([n - bad, bad], np.float64))


def evidence(better: Arm, worse: Arm, excess: float) -> float:
    """Log of the wealth against "the mean of ``worse`` is at most that of ``better`` plus ``excess``".

    It reaches log(1/alpha) with probability alpha at most while that is true. ``excess`` is in [-1, 1].
    """
    ends = GRID[1:] + excess
    possible = ends >= 0.0
    at = np.minimum(np.searchsorted(GRID, ends[possible]), CELLS)
    wealth = better.below[:-1][possible] + worse.above[at]
    return float(wealth.min()) if wealth.size else math.inf


def interval(first: Arm, second: Arm, alpha: float) -> tuple[float, float]:
    """How much the second's mean may exceed the first's: it is inside at every look, with probability 1 - alpha."""
    enough = math.log(2.0 / alpha)
    low = _least(lambda excess: evidence(first, second, excess) < enough)
    high = -_least(lambda excess: evidence(second, first, excess) < enough)
    return low, high


def tail_bounds(values: Floats, counts: Floats, share: float, alpha: float) -> tuple[float, float]:
    """Between what the value lies that a ``share`` of all exceed, at every look with probability 1 - alpha.

    By order statistics: as many values lie above the true one as tosses of a coin of that share show heads, and a bet
    against the coin says how many are too many (the rank of a quantile's confidence sequence, Howard and Ramdas,
    arXiv:1906.09712).

    Args:
        values: In rising order, shape (n,); times of any unit, at least 0.
        counts: How often each was seen.
        share: 0.05 for the 95th percentile.
        alpha: Of both sides together.

    Returns:
        0 and infinity where too few were seen.
    """
    n, enough = int(counts.sum()), math.log(2.0 / alpha)
    # from the largest down: the rank-th largest is the first whose running count reaches the rank
    downward, ranks = values[::-1], np.cumsum(counts[::-1])
    too_many = _first(n, lambda above: _log_wealth(above, n, share, 1) >= enough)
    low = float(downward[np.searchsorted(ranks, too_many)]) if too_many <= n else 0.0
    enough_above = _first(n, lambda above: _log_wealth(above, n, share, -1) < enough)
    high = float(downward[np.searchsorted(ranks, enough_above)]) if 0 < enough_above <= n else math.inf
    return low, high


def _arm(values: Floats, weights: Floats, counts: Floats) -> Arm:
    total = float(counts @ weights)
    mean = float(counts @ (weights * values)) / total if total else math.nan
    rises = values[:, None] / np.maximum(GRID, TINY) - 1.0
    falls = (values[:, None] - GRID) / np.maximum(1.0 - GRID, TINY)
    above = _mixed([counts @ np.log1p(bet * weights[:, None] * rises) for bet in BETS])
    below = _mixed([counts @ np.log1p(-bet * weights[:, None] * falls) for bet in BETS])
    return Arm(int(counts.sum()), mean, above, below)


def _mixed(log_wealths: list[Floats]) -> Floats:
    """Log of the mixture of what each bet has come to."""
    played = np.logaddexp.reduce(np.stack(log_wealths)) + math.log((1.0 - NO_BET) / BETS.size)
    return np.logaddexp(played, math.log(NO_BET))


def _log_wealth(bad: int, n: int, share: float, sign: int) -> float:
    """Against "at most this share is bad" (sign 1), or "at least" (sign -1)."""
    for_bad, for_good = (1.0 / share - 1.0, -1.0) if sign > 0 else (-1.0, share / (1.0 - share))
    wealths = bad * np.log1p(BETS * for_bad) + (n - bad) * np.log1p(BETS * for_good)
    return float(_mixed(list(wealths[:, None]))[0])


def _first(n: int, holds: Callable[[int], bool]) -> int:
    """The first count from 0 to n at which it holds, as it does from there on; n + 1 for none."""
    low, high = 0, n + 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


def _least(holds: Callable[[float], bool]) -> float:
    """The least excess at which it holds, as it does from there on, from below."""
    low, high = -1.0, 1.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return low
