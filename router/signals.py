"""What the student's own log-probabilities say about its answer."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ("SIGNALS", "SIGNAL_TOP", "TokenLogprob", "confidence_signals")

SIGNALS = (
    "mean_logprob",
    "min_logprob",
    "first_logprob",
    "mean_margin",
    "min_margin",
    "mean_entropy",
    "max_entropy",
    "lowest_window",
    "log_length",
)
WINDOW = 3
SIGNAL_TOP = 5
"""Alternatives per token that are asked of a student, in training and in serving alike."""
FLOOR = -30.0  # a probability of 1e-13; engines write -inf, NaN or -9999 for "as good as never"


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One generated token: its log-probability, and those of the top k at its position (natural log,
    descending).
    """

    logprob: float
    top: tuple[float, ...]


def confidence_signals(tokens: Sequence[TokenLogprob]) -> NDArray[np.float64]:
    """Vector of the `SIGNALS`, in that order, finite for any input; zeros when there are no tokens.

    The margin is the difference of the two largest probabilities; with one listed, the rest of the mass
    stands for the second. The entropy (nats) is over the listed probabilities and one bucket for the rest
    of the mass, so signals are comparable only between answers asked with the same k. Why minimum and
    windows and not the mean alone: Gupta et al. 2024, arXiv:2404.10136.
    """
    if not tokens:
        return np.zeros(len(SIGNALS))
    chosen = _clean(np.array([token.logprob for token in tokens], dtype=np.float64))
    margins, entropies = _spread(tokens)
    window = min(WINDOW, chosen.size)
    windows = np.convolve(chosen, np.full(window, 1.0 / window), mode="valid")
    return np.array(
        [
            chosen.mean(),
            chosen.min(),
            chosen[0],
            margins.mean(),
            margins.min(),
            entropies.mean(),
            entropies.max(),
            windows.min(),
            np.log1p(chosen.size),
        ]
    )


def _spread(tokens: Sequence[TokenLogprob]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Top-2 margin and entropy of each token, both of shape (len(tokens),)."""
    listed = [token.top or (token.logprob,) for token in tokens]
    width = max(map(len, listed))
    logprobs = _clean(np.array([top + (FLOOR,) * (width - len(top)) for top in listed], dtype=np.float64))
    mass = np.exp(logprobs)
    tail = np.clip(1.0 - mass.sum(axis=1), np.exp(FLOOR), 1.0)
    entropies = -(mass * logprobs).sum(axis=1) - tail * np.log(tail)
    second = mass[:, 1] if width > 1 else np.minimum(tail, mass[:, 0])
    return mass[:, 0] - second, entropies


def _clean(logprobs: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.clip(np.nan_to_num(logprobs, nan=FLOOR), FLOOR, 0.0)
