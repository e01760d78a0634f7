"""What the student's own log-probabilities say about its answer."""

import math
import operator
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
LEAST = math.exp(FLOOR)


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
    # plain floats: on the few tokens that are held back, NumPy's cost per call is several times that of the sums
    chosen = [_clean(token.logprob) for token in tokens]
    widest = max(len(token.top) for token in tokens)
    spread = [_spread(token, widest) for token in tokens]
    margins, entropies = [margin for margin, _ in spread], [entropy for _, entropy in spread]
    count = len(chosen)
    window = min(WINDOW, count)
    return np.array(
        [
            sum(chosen) / count,
            min(chosen),
            chosen[0],
            sum(margins) / count,
            min(margins),
            sum(entropies) / count,
            max(entropies),
            min(sum(chosen[start : start + window]) for start in range(count - window + 1)) / window,
            math.log1p(count),
        ]
    )


def _spread(token: TokenLogprob, widest: int) -> tuple[float, float]:
    """Top-2 margin and entropy. Where other tokens have more alternatives, one that is not listed counts as never."""
    top = token.top or (token.logprob,)
    logprobs = list(map(_clean, top))
    masses = list(map(math.exp, logprobs))
    tail = min(max(1.0 - sum(masses), LEAST), 1.0)
    entropy = -sum(map(operator.mul, masses, logprobs)) - tail * math.log(tail)
    second = masses[1] if len(masses) > 1 else LEAST if widest > 1 else min(tail, masses[0])
    return masses[0] - second, entropy


def _clean(logprob: float) -> float:
    return min(max(logprob, FLOOR), 0.0) if logprob == logprob else FLOOR
