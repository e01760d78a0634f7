"""Answers that the teacher itself found unlikely: somebody, or something in the prompt, made it say them."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ("unlikely",)

MAD_TO_SIGMA: Final = 1.4826
"""Of a normal distribution."""
LEAST_SPREAD: Final = 0.5
"""Nats per token. Where nearly all answers are certain, the merely uncertain ones are no outliers."""
FEWEST: Final = 30


def unlikely(likelihood: NDArray[np.float32], z: float) -> NDArray[np.bool_]:
    """Which mean log-probabilities per token (nats, NaN for unknown), shape (n,), are too low.

    That is by more than z robust deviations below the median: (median - x) / max(1.4826 MAD, 0.5) > z, MAD the median
    distance from the median. Only the low side: an answer that is certain is nothing unusual. Among fewer than 30
    there is none.
    """
    known = likelihood[~np.isnan(likelihood)].astype(np.float64)
    if not z or known.size < FEWEST:
        return np.zeros(likelihood.size, dtype=bool)
    median = float(np.median(known))
    spread = max(MAD_TO_SIGMA * float(np.median(np.abs(known - median))), LEAST_SPREAD)
    # NaN compares as False
    return (median - likelihood) / spread > z
