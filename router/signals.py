"""What the student's own log-probabilities say about its answer."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class TokenLogprob:
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
    chosen = _clean(np.array([token.logprob for token in tokens], dtype=np.float64))
    margins, entropies = _spread(_alternatives(tokens))
    ordered = np.sort(chosen)
    window = min(WINDOW, count)
    running = np.concatenate(((0.0,), np.cumsum(chosen)))
    return np.array(
        [
            running[-1] / count,
            np.add.reduce(margins) / count,
            np.add.reduce(entropies) / count,
            ordered[0],
            np.minimum.reduce(margins),
            np.maximum.reduce(entropies),
            ordered[(count - 1) // 10],
            ordered[(count - 1) // 2],
            chosen[0],
            np.minimum.reduce(running[window:] - running[:-window]) / window,
            np.searchsorted(ordered, LOW) / count,
            math.log1p(count),
            cut_off,
        ]
    )


def _alternatives(tokens: Sequence[TokenLogprob]) -> NDArray[np.float64]:
    """The listed log-probabilities, shape (tokens, widest); one that is not listed counts as never."""
    tops = [token.top or (token.logprob,) for token in tokens]
    widths = set(map(len, tops))
    if len(widths) > 1:
        widest = max(widths)
        tops = [top + (FLOOR,) * (widest - len(top)) for top in tops]
    return _clean(np.array(tops, dtype=np.float64))


def _spread(listed: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Top-2 margins and entropies, each of shape (tokens,)."""
    masses = np.exp(listed)
    tail = np.minimum(np.maximum(1.0 - np.add.reduce(masses, axis=1), LEAST), 1.0)
    entropies = -np.add.reduce(masses * listed, axis=1) - tail * np.log(tail)
    first = masses[:, 0]
    second = masses[:, 1] if masses.shape[1] > 1 else np.minimum(tail, first)
    return first - second, entropies


def _clean(logprobs: NDArray[np.float64]) -> NDArray[np.float64]:
    # fmax passes over NaN
    return np.minimum(np.fmax(logprobs, FLOOR), 0.0)
