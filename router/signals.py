"""What the student's own log-probabilities say about its answer."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from itertools import chain

import msgspec
import numpy as np
from numpy.typing import NDArray

__all__ = ("SIGNALS", "SIGNAL_TOP", "TokenLogprob", "confidence_signals")

SIGNALS = (
    "mean_logprob",
    "mean_margin",
    "mean_entropy",
    "min_logprob",
    "min_margin",
    "max_entropy",
    "q10_logprob",
    "q50_logprob",
    "first_logprob",
    "lowest_window",
    "low_share",
    "log_length",
    "cut_off",
)
WINDOW = 3
SIGNAL_TOP = 5
"""Alternatives per token that are asked of a student, in training and in serving alike."""
FLOOR = -30.0  # a probability of 1e-13; engines write -inf, NaN or -9999 for "as good as never"
LEAST = math.exp(FLOOR)
LOW = math.log(0.5)


class TokenLogprob(msgspec.Struct, frozen=True, gc=False):
    """One generated token: its log-probability, and those of the top k at its position (natural log,
    descending).
    """

    logprob: float
    top: tuple[float, ...]


def confidence_signals(tokens: Sequence[TokenLogprob], cut_off: bool = False) -> NDArray[np.float64]:
    """Vector of the `SIGNALS`, in that order, finite for any input; zeros when there are no tokens.

    The margin is the difference of the two largest probabilities; with one listed, the rest of the mass
    stands for the second. The entropy (nats) is over the listed probabilities and one bucket for the rest
    of the mass, so signals are comparable only between answers asked with the same k. `low_share` counts
    tokens less likely than not; `cut_off` says that the answer ended at its length limit. Why quantiles and
    windows and not the mean alone, and no sum: Gupta et al. 2024, arXiv:2404.10136.
    """
    if not tokens:
        return np.zeros(len(SIGNALS))
    count = len(tokens)
    chosen = [each if FLOOR <= (each := token.logprob) <= 0.0 else _bounded(each) for token in tokens]
    tops = [token.top or (token.logprob,) for token in tokens]
    widest = max(map(len, tops))
    if min(map(len, tops)) < widest:
        tops = [top + (FLOOR,) * (widest - len(top)) for top in tops]
    margins, entropies = _spread(tops, widest)
    ordered = sorted(chosen)
    window = min(WINDOW, count)
    return np.array(
        [
            sum(chosen) / count,
            sum(margins) / count,
            sum(entropies) / count,
            ordered[0],
            min(margins),
            max(entropies),
            ordered[(count - 1) // 10],
            ordered[(count - 1) // 2],
            chosen[0],
            min(map(sum, zip(*(chosen[start:] for start in range(window)), strict=False))) / window,
            bisect_left(ordered, LOW) / count,
            math.log1p(count),
            cut_off,
        ]
    )


def _spread(tops: Sequence[tuple[float, ...]], width: int) -> tuple[list[float], list[float]]:
    """Top-2 margins and entropies of tokens, from the log-probabilities of ``width`` alternatives of each."""
    listed = np.fromiter(chain.from_iterable(tops), dtype=np.float64, count=len(tops) * width).reshape(-1, width)
    # fmax passes over NaN
    listed = np.minimum(np.fmax(listed, FLOOR), 0.0)
    masses = np.exp(listed)
    tail = np.minimum(np.maximum(1.0 - np.add.reduce(masses, axis=1), LEAST), 1.0)
    entropies = -np.add.reduce(masses * listed, axis=1) - tail * np.log(tail)
    first = masses[:, 0]
    second = masses[:, 1] if masses.shape[1] > 1 else np.minimum(tail, first)
    return (first - second).tolist(), entropies.tolist()


def _bounded(logprob: float) -> float:
    """At least `FLOOR`, which NaN counts as, and at most 0."""
    if FLOOR <= logprob <= 0.0:
        return logprob
    return 0.0 if logprob > 0.0 else FLOOR
