"""What held-out answers prove: tests for shares and for paired differences, and their correction for many."""

import math
from collections.abc import Sequence
from typing import Any, Final

from scipy.optimize import brentq
from scipy.special import bdtr, ndtri

__all__ = ("discordant", "holm", "paired_difference", "shown_below", "shown_worse")

EDGE: Final = 1e-12


def paired_difference(
    candidate: Sequence[bool], champion: Sequence[bool], confidence: float = 0.95
) -> tuple[float, float]:
    """Mean difference in agreement on the same requests and its one-sided lower bound by Tango's score interval.

    Tango, Statistics in Medicine 17 (1998) 891-908. It holds its level also where the two hardly ever differ: the
    percentile bootstrap resamples what it saw, and is certain of no difference where it saw none among 50 requests
    (docs/evaluation-and-gate.md has the figures). Raises ``ValueError`` for two of different lengths.
    """
    n = len(candidate)
    if n != len(champion):
        raise ValueError(f"{n} answers of the candidate and {len(champion)} of the champion are no pairs")
    if not n:
        return 0.0, -1.0
    better, worse = discordant(candidate, champion)
    difference, critical = (better - worse) / n, float(ndtri(confidence))

    def excess(bound: float) -> float:
        return _score(better, worse, n, bound) - critical

    if excess(-1 + EDGE) < 0:
        return difference, -1.0
    bound: Any = brentq(excess, -1 + EDGE, max(difference - EDGE, -1 + 2 * EDGE))
    return difference, float(bound)


def discordant(candidate: Sequence[bool], champion: Sequence[bool]) -> tuple[int, int]:
    """How often only the candidate agreed, and how often only the champion did."""
    pairs = list(zip(candidate, champion, strict=True))
    return sum(one and not other for one, other in pairs), sum(other and not one for one, other in pairs)


def _score(better: int, worse: int, n: int, difference: float) -> float:
    """Tango's statistic of the hypothesis that the true difference is this: standard normal if it is."""
    # the probability that only the champion agrees, by maximum likelihood under the hypothesis
    linear = (2 * n - better + worse) * difference - better - worse
    constant = -worse * difference * (1 - difference)
    probability = (math.sqrt(max(linear * linear - 8 * n * constant, 0.0)) - linear) / (4 * n)
    variance = n * (2 * probability + difference * (1 - difference))
    return (better - worse - n * difference) / math.sqrt(variance) if variance > 0 else math.inf


def shown_below(agreed: int, n: int, floor: float) -> float:
    """P-value of so few agreements or fewer where the true share is the floor: the exact binomial test, one-sided."""
    return float(bdtr(agreed, n, floor)) if n else 1.0


def shown_worse(better: int, worse: int) -> float:
    """P-value of so many turned for the worse where either turn is as likely: McNemar's test in its exact form.

    McNemar, Psychometrika 12 (1947) 153-157; one-sided.
    """
    return float(bdtr(better, better + worse, 0.5)) if better + worse else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values for the whole family, in their order: none is below alpha by luck with more than alpha's chance.

    Holm, Scandinavian Journal of Statistics 6 (1979) 65-70. Holds whatever the dependence, and slices overlap.
    """
    m, largest = len(p_values), 0.0
    adjusted = [0.0] * m
    for rank, index in enumerate(sorted(range(m), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (m - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
