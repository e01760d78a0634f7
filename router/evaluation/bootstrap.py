"""Intervals by resampling prompts: all rankings see the same resamples, and near-duplicates are drawn together."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from router.evaluation.metrics import Blocks, Floats, Outcomes, apgr

__all__ = ("RESAMPLES", "Resampled", "interval", "resample", "resampled_counts")

RESAMPLES = 1_000
LEVEL = 0.95
CELLS = 4_000_000
"""Of a chunk of resamples, so that memory does not grow with the table."""


@dataclass(frozen=True, eq=False)
class Resampled:
    """`apgr` of each ranking, shape (resamples,), and the first one's quality at `shares`, (resamples, shares)."""

    apgr: dict[str, Floats]
    quality: Floats


def resampled_counts(clusters: NDArray[np.int64], resamples: int, seed: int) -> Iterator[Floats]:
    """How often each row is drawn, in chunks of shape (some resamples, n), when whole clusters are drawn with
    replacement: the cluster bootstrap (Field and Welsh 2007, doi:10.1111/j.1467-9868.2007.00593.x).

    `clusters` numbers each row's cluster from 0 without gaps.
    """
    rng = np.random.default_rng(seed)
    number = int(clusters.max()) + 1
    chunk = max(1, CELLS // clusters.size)
    even = np.full(number, 1.0 / number)
    for begin in range(0, resamples, chunk):
        yield rng.multinomial(number, even, size=min(chunk, resamples - begin)).astype(np.float64)[:, clusters]


def resample(
    rankings: Mapping[str, Blocks], outcomes: Outcomes, clusters: NDArray[np.int64], shares: Floats, seed: int
) -> Resampled:
    """APGR of every ranking under paired resamples, and the first one's quality at some shares of strong calls."""
    found: dict[str, list[Floats]] = {name: [] for name in rankings}
    quality: list[Floats] = []
    first = next(iter(rankings.values()))
    for counts in resampled_counts(clusters, RESAMPLES, seed):
        for name, ranking in rankings.items():
            found[name].append(apgr(ranking, outcomes.gain, counts))
        quality.append(_quality(first, outcomes, counts, shares))
    return Resampled({name: np.concatenate(parts) for name, parts in found.items()}, np.concatenate(quality))


def interval(values: Floats, axis: int | None = None) -> Floats:
    """The percentile interval at 95 % (Efron 1979, doi:10.1214/aos/1176344552), shape (2,) or (2, ...); NaNs, which
    are resamples without a gap between the models, are left out.
    """
    tail = (1 - LEVEL) / 2
    if np.isnan(values).all():
        return np.full(2, np.nan)
    return np.nanquantile(values, [tail, 1 - tail], axis=axis)


def _quality(ranking: Blocks, outcomes: Outcomes, counts: Floats, shares: Floats) -> Floats:
    rows = counts.sum(axis=1, keepdims=True)
    at = np.cumsum(ranking.sums(counts), axis=1) / rows
    quality = np.cumsum(ranking.sums(counts * outcomes.gain), axis=1) / rows
    start = (counts @ outcomes.weak) / rows[:, 0]
    return np.stack(
        [
            begin + np.interp(shares, np.concatenate(([0.0], x)), np.concatenate(([0.0], y)))
            for begin, x, y in zip(start, at, quality, strict=True)
        ]
    )
