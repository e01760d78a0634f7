"""How much a training row counts, so that the rows stand for the traffic and not for the router's choices.

Let f(x) be the loss of a request x of the traffic. The teacher's answer to x is in the ledger with a probability p(x)
that was logged when it was drawn: 1 where the router sent x to the teacher (or no release was live), that of the
exploration where it trusted the student. A row is then chosen with a probability s(x), 1 where everything is taken.
With the indicator R(x) of being in the dataset, E[R(x) f(x) / (p(x) s(x))] = f(x), so that rows of weight
w = 1 / (p s) give the traffic's mean loss without bias (Horvitz and Thompson 1952,
doi:10.1080/01621459.1952.10483446); divided by their mean, with a bias that vanishes as rows are added (Hájek's
ratio). The escalated requests alone, all of weight 1, would be the hard tail of the traffic.

s(x) is priority sampling's (Duffield, Lund and Thorup 2007, doi:10.1145/1314690.1314696): a row of size u gets the
priority u / r, r uniform in (0, 1]; the k highest are taken, and with t the next one's, s = min(1, u / t).

Few explored rows may stand for very many: weights are cut at `MOST` times the mean, which trades variance for bias.
A request that came back is taken once, for all of its occurrences, while p is of one: where it was explored its
weight is too large, by at most 1 / p, and cut as well. Corrections by feedback come by no known chance, and count by
the propensity of what they correct.
"""

from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ("effective_size", "priority", "priority_sample", "weights_of")

MOST: Final = 10.0
LEAST_CHANCE: Final = 1e-6
LIFT: Final = 3.0
"""A row of full interest is this much more likely, on top, than one of none."""

Floats = NDArray[np.float64]
Number = TypeVar("Number", float, Floats)


def weights_of(chances: Floats) -> Floats:
    """Weights of mean 1 for rows that are there by these chances, shape (n,)."""
    if not chances.size:
        return chances
    weights = 1.0 / np.maximum(chances, LEAST_CHANCE)
    weights = np.minimum(weights / weights.mean(), MOST)
    return weights / weights.mean()


def effective_size(weights: Floats) -> float:
    """Kish's: as many rows of equal weight have a mean that varies as much."""
    return float(weights.sum() ** 2 / (weights**2).sum()) if weights.size else 0.0


def priority(interest: Number, draw: Number) -> Number:
    """Those of the highest are taken, by their interest (0 to 1) and draws from (0, 1]."""
    return (1.0 + LIFT * interest) / draw


def priority_sample(interest: Floats, draws: Floats, most: int) -> tuple[NDArray[np.int64], Floats]:
    """At most so many rows, those of more interest (0 to 1) more likely, by draws from (0, 1].

    Returns their places, ascending, and the chance that each had.
    """
    size = 1.0 + LIFT * interest
    if size.size <= most:
        return np.arange(size.size), np.ones(size.size)
    priorities = priority(interest, draws)
    order = np.argsort(-priorities, kind="stable")
    taken = np.sort(order[:most])
    return taken, np.minimum(1.0, size[taken] / priorities[order[most]])
