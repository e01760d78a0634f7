"""How prompts are split into training and test rows: no near-duplicate is ever on both sides."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ("Fold", "in_domain", "out_of_domain", "transfer")

Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Fold:
    """Rows to train on, and rows to test on."""

    train: Rows
    test: Rows


def in_domain(clusters: Rows, folds: int, seed: int) -> list[Fold]:
    """Random folds of whole clusters of near-duplicates. Raises ValueError with fewer than two clusters."""
    return _folds(clusters, clusters, folds, seed)


def out_of_domain(groups: Sequence[str], clusters: Rows, folds: int, seed: int) -> list[Fold]:
    """Folds of whole groups; a row with a near-duplicate in the test rows' groups is not trained on.

    Raises ValueError with fewer than two groups.
    """
    numbers = np.unique(np.asarray(groups, dtype=object), return_inverse=True)[1].reshape(-1)
    return _folds(numbers, clusters, folds, seed)


def transfer(train: int, clusters: Rows) -> list[Fold]:
    """One fold: the first `train` rows to train on, without those that have a near-duplicate in the others."""
    return [_fold(np.arange(clusters.size) >= train, clusters)]


def _folds(units: Rows, clusters: Rows, folds: int, seed: int) -> list[Fold]:
    sizes = np.bincount(units)
    if sizes.size < 2:
        raise ValueError("a split needs at least two groups of prompts")
    folds = min(folds, sizes.size)
    fold_of, filled = np.zeros(sizes.size, dtype=np.int64), np.zeros(folds)
    shuffled = np.random.default_rng(seed).permutation(sizes.size)
    # the largest first, each into the fold with the fewest rows, so that folds come out even
    for unit in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:
        fold_of[unit] = np.argmin(filled)
        filled[fold_of[unit]] += sizes[unit]
    return [_fold(fold_of[units] == fold, clusters) for fold in range(folds)]


def _fold(tested: NDArray[np.bool_], clusters: Rows) -> Fold:
    known = np.zeros(int(clusters.max()) + 1, dtype=bool)
    known[clusters[tested]] = True
    return Fold(np.flatnonzero(~tested & ~known[clusters]), np.flatnonzero(tested))
