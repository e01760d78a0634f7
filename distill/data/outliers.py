"""Answers that the teacher itself found unlikely: somebody, or something in the prompt, made it say them."""

from itertools import islice
from typing import Final

from distill.data.index import RowIndex

__all__ = ("drop_unlikely",)

MAD_TO_SIGMA: Final = 1.4826
"""Of a normal distribution."""
LEAST_SPREAD: Final = 0.5
"""Nats per token. Where nearly all answers are certain, the merely uncertain ones are no outliers."""
FEWEST: Final = 30


def drop_unlikely(index: RowIndex, z: float) -> int:
    """Take rows out of ``train`` whose mean log-probability per token is too low; returns how many.

    That is by more than z robust deviations below the median: (median - x) / max(1.4826 MAD, 0.5) > z, MAD the median
    distance from the median. Only the low side: an answer that is certain is nothing unusual. Among fewer than 30
    there is none. Nobody's correction is one.
    """
    known = index.number_of("select count(likelihood) from trainable")
    if not z or known < FEWEST:
        return 0
    median = _median(index, known, None)
    spread = max(MAD_TO_SIGMA * _median(index, known, median), LEAST_SPREAD)
    return index.keep(
        """
        select rank, number, chance from trainable
        where likelihood is null or corrected or (:median - likelihood) / :spread <= :z order by rank
        """,
        median=median,
        spread=spread,
        z=z,
    )


def _median(index: RowIndex, known: int, away_from: float | None) -> float:
    """Of the known likelihoods, or of their distances from something."""
    found = index.execute(
        """
        select coalesce(abs(likelihood - :away_from), likelihood) as measured from trainable
        where likelihood is not null order by measured
        """,
        away_from=away_from,
    )
    middle = [measured for (measured,) in islice(found, (known - 1) // 2, known // 2 + 1)]
    found.close()
    return sum(middle) / len(middle)
