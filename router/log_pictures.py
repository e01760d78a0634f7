"""What the ops pages draw of a log: whether the router's numbers mean what they say, and how they are spread."""

from typing import Final, Literal, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from ledger.observed import Observed
from router.estimators import weights

__all__ = ("BINS", "STEPS", "Bin", "Spread", "calibration_bins", "spread")

BINS: Final = 10
STEPS: Final = 20
"""Bins of a histogram, of equal width."""
Z95: Final = 1.959964

Bools: TypeAlias = NDArray[np.bool_]


class Bin(msgspec.Struct, frozen=True):
    """Requests of like probability. All but `labels` are weighted to stand for the traffic."""

    predicted: float
    """Mean of the router's probability that the student's answer agrees."""
    observed: float
    """Share that does."""
    low: float
    high: float
    """95 % interval of that share."""
    labels: int
    share: float
    """Of the traffic."""


class Spread(msgspec.Struct, frozen=True):
    """How many requests have a score in each of `STEPS` bins from 0 to 1; each list is of that length."""

    answered: list[int]
    """By the student."""
    abandoned: list[int]
    """Begun by the student and given to the teacher."""
    kept: list[int]
    """Given to the teacher at once."""
    agreed: list[int]
    """Of those with a label: both answers agree, by half or more."""
    differed: list[int]


def calibration_bins(log: Observed, of: Literal["score", "confidence"]) -> list[Bin]:
    """The bins that `estimators.calibration_error` is the mean gap of, from the least probability on.

    At most ten, of equal weight; empty without labels. Intervals are Wilson's (1927,
    doi:10.1080/01621459.1927.10502953) at the number of equal labels that says as much as these unequal ones (Kish
    1965, Survey Sampling, section 11.7): the square of the weights' sum over the sum of their squares.
    """
    p = log.score if of == "score" else log.confidence
    rows = np.flatnonzero(log.labelled & ~np.isnan(p))
    if not rows.size:
        return []
    rows = rows[np.argsort(p[rows], kind="stable")]
    weight = weights(log, log.labelled)[rows]
    total = float(weight.sum())
    which = np.minimum((np.cumsum(weight) - weight / 2) * BINS // total, BINS - 1)
    return [_bin(p[own], log.agreement[own], weight[which == number] / total)
            for number in range(BINS) if (own := rows[which == number]).size]  # fmt: skip


def spread(log: Observed) -> Spread:
    """Histograms of the scores, by what became of the request and by what its label says."""
    agreed = log.agreement >= 0.5
    return Spread(
        answered=_histogram(log, log.student),
        abandoned=_histogram(log, log.tried & ~log.student),
        kept=_histogram(log, ~log.tried),
        agreed=_histogram(log, log.labelled & agreed),
        differed=_histogram(log, log.labelled & ~agreed),
    )


def _bin(p: NDArray[np.float64], agreement: NDArray[np.float64], weight: NDArray[np.float64]) -> Bin:
    share = float(weight.sum())
    observed = float(weight @ agreement) / share
    low, high = _wilson(observed, share * share / float(weight @ weight))
    return Bin(float(weight @ p) / share, observed, low, high, len(p), share)


def _wilson(share: float, n: float) -> tuple[float, float]:
    square = Z95 * Z95
    middle = (share + square / (2 * n)) / (1 + square / n)
    half = Z95 / (1 + square / n) * float(np.sqrt(max(share * (1 - share), 0.0) / n + square / (4 * n * n)))
    # rounding must not leave the share outside
    return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))


def _histogram(log: Observed, chosen: Bools) -> list[int]:
    return np.histogram(log.score[chosen], STEPS, (0.0, 1.0))[0].tolist()
