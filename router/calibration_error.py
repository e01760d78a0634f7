"""How far probabilities are from what comes true."""

import numpy as np
from numpy.typing import NDArray

__all__ = ("calibration_error",)


def calibration_error(p: NDArray[np.float64], y: NDArray[np.bool_], bins: int = 15) -> float:
    """Expected calibration error over equal-width bins (Guo et al. 2017, arXiv:1706.04599); 0 if no rows."""
    if not len(p):
        return 0.0
    bin_of = np.minimum((np.asarray(p) * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(bin_of, weights=np.asarray(y, dtype=np.float64) - p, minlength=bins)
    return float(np.abs(gaps).sum() / len(p))
