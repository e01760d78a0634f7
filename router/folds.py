"""Ways to leave requests out: at random, or whole groups of like requests at a time; for the trainer."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans
from sklearn.model_selection import GroupKFold, StratifiedKFold

from router.corpus import Corpus, surprise_of
from router.hashing import PAIR_START

__all__ = ("Folds", "clusters", "grouped_folds", "groups_of", "random_folds")

Folds = list[tuple[NDArray[np.int64], NDArray[np.int64]]]
"""Of each fold: rows to train on, rows left out."""
CLUSTERS: Final = 20
CLUSTERED: Final = 6_000
"""Rows that the clusters are found on; all rows are put into them."""
PROJECTION: Final = 64


def random_folds(agreed: NDArray[np.bool_], folds: int, seed: int) -> Folds:
    """Up to `folds` folds, each with its share of both labels; none where a label has fewer than two rows."""
    count = min(folds, int(agreed.sum()), int((~agreed).sum()))
    if count < 2:
        return []
    splitter = StratifiedKFold(count, shuffle=True, random_state=seed)
    return list(splitter.split(np.zeros(agreed.size), agreed))


def grouped_folds(groups: NDArray[np.int64], folds: int) -> Folds:
    """Up to `folds` folds of whole groups; none where all rows are of one."""
    count = min(folds, np.unique(groups).size)
    if count < 2:
        return []
    return list(GroupKFold(count).split(groups, groups=groups))


def groups_of(names: Sequence[str]) -> NDArray[np.int64]:
    """Numbers in place of names, shape (n,)."""
    return np.unique(np.asarray(names, dtype=np.str_), return_inverse=True)[1]


def clusters(corpus: Corpus, seed: int) -> NDArray[np.int64]:
    """Groups of requests that share their rarer words, shape (n,): k-means of a random projection of the n-grams
    (Johnson and Lindenstrauss 1984, doi:10.1090/conm/026/737400).
    """
    size = corpus.dense.shape[0]
    if size < 2 * CLUSTERS:
        return np.arange(size)
    rng = np.random.default_rng(seed)
    ngrams = corpus.ngrams(surprise_of(corpus.counts(np.arange(size)), size))
    near = ngrams.words @ (ngrams.grams @ rng.normal(size=(PAIR_START, PROJECTION)))
    sample = rng.permutation(size)[:CLUSTERED]
    found = MiniBatchKMeans(CLUSTERS, random_state=seed, batch_size=1024).fit(near[sample])
    return np.asarray(found.predict(near), dtype=np.int64)
