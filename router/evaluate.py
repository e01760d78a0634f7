"""How good a router is: calibration error, and the curve of quality against cost."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from router.calibration import Prices

__all__ = ("CostQualityCurve", "calibration_error", "cost_quality_curve")


class CostQualityCurve(NamedTuple):
    """Three arrays of equal shape, from everything to the teacher to nothing."""

    teacher_share: NDArray[np.float64]
    agreement: NDArray[np.float64]
    cost: NDArray[np.float64]


def calibration_error(p: NDArray[np.float64], y: NDArray[np.bool_], bins: int = 15) -> float:
    """Expected calibration error over equal-width bins (Guo et al. 2017, arXiv:1706.04599); 0 if no rows."""
    if not len(p):
        return 0.0
    bin_of = np.minimum((np.asarray(p) * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(bin_of, weights=np.asarray(y, dtype=np.float64) - p, minlength=bins)
    return float(np.abs(gaps).sum() / len(p))


def cost_quality_curve(
    confidences: NDArray[np.float64], agreed: NDArray[np.bool_], prices: Prices
) -> CostQualityCurve:
    """The curve of the cascade: the student tries every request, the teacher answers the least confident.

    One point per threshold that a confidence, of shape (n,), can set; cost is per request, in the unit of
    `prices`.
    """
    n = len(confidences)
    order = np.argsort(-confidences, kind="stable")
    errors = np.concatenate(([0], np.cumsum(~np.asarray(agreed, dtype=bool)[order])))
    ends = np.concatenate(([0], np.flatnonzero(np.diff(confidences[order], append=-np.inf)) + 1))
    share = 1.0 - ends / max(n, 1)
    return CostQualityCurve(share, 1.0 - errors[ends] / max(n, 1), prices.student + share * prices.teacher)
