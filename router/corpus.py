"""Requests as matrices, word by word; for the trainer, so that the gateway loads no SciPy.

A request's n-gram features are its words' n-grams added up, so a corpus is kept as requests by words and words by
n-grams. Their product, ten times as large, is never made.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_matrix, csr_matrix, diags_array

from router.dense import DENSE, dense_row
from router.features import RequestView, edges
from router.hashing import BUCKETS, PAIR_START, Grams, grams_of, pair_columns
from router.lexicon import tallied

__all__ = ("Corpus", "Ngrams", "corpus_of", "surprise_of")

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Corpus:
    """n requests of t distinct words.

    `dense` (n, len(DENSE)); `words` (n, t), each word's weight in each request; `pairs` (n, BUCKETS - PAIR_START),
    rows of unit norm; `roots` and `means` (t, PAIR_START): a word's own column has 1, and each of its k character
    n-grams 1 / sqrt(k) in the one and 1 / k in the other.
    """

    dense: Floats
    words: csr_matrix
    pairs: csr_matrix
    roots: csr_matrix
    means: csr_matrix

    def take(self, rows: Rows) -> "Corpus":
        """Some of the requests, with the words that these have."""
        words = self.words[rows]
        used = np.unique(words.indices)
        return replace(
            self,
            dense=self.dense[rows],
            words=words[:, used],
            pairs=self.pairs[rows],
            roots=self.roots[used],
            means=self.means[used],
        )

    def counts(self, rows: Rows) -> Floats:
        """How many of these rows have each n-gram, shape (PAIR_START,)."""
        having = np.bincount(self.words[rows].indices, minlength=self.roots.indptr.size - 1)
        each = np.repeat(having, np.diff(self.roots.indptr))
        # two words of one request may share an n-gram, so that it is counted twice
        return np.minimum(np.bincount(self.roots.indices, weights=each, minlength=PAIR_START), rows.size)

    def surprises(self, surprise: Floats) -> Floats:
        """The mean surprise of every request, shape (n,)."""
        total = np.asarray(self.words.sum(axis=1)).ravel()
        return (self.words @ (self.means @ surprise)) / (2.0 * np.maximum(total, 1.0))

    def ngrams(self, surprise: Floats) -> "Ngrams":
        """The n-gram features, with n-grams weighed by surprise."""
        squares = self.words.multiply(self.words) @ (self.means @ np.square(surprise))
        scale = 1.0 / np.sqrt(np.where(squares > 0.0, squares, 1.0))
        return Ngrams(
            csr_matrix(diags_array(scale) @ self.words), csr_matrix(self.roots @ diags_array(surprise)), self.pairs
        )


@dataclass(frozen=True, eq=False)
class Ngrams:
    """A matrix (n, BUCKETS) in factors: [words @ grams, pairs]."""

    words: csr_matrix
    grams: csr_matrix
    pairs: csr_matrix
    split: int = PAIR_START
    """Columns of grams; those of pairs come after."""

    def take(self, rows: Rows) -> "Ngrams":
        """Some of its rows."""
        return Ngrams(self.words[rows], self.grams, self.pairs[rows], self.split)

    def compact(self) -> tuple["Ngrams", Rows]:
        """Itself without the columns that no request has, and which columns are left."""
        grams, pairs = np.unique(self.grams.indices), np.unique(self.pairs.indices)
        kept = np.concatenate((grams, pairs + self.split)).astype(np.int64)
        return Ngrams(self.words, self.grams[:, grams], self.pairs[:, pairs], grams.size), kept

    def __matmul__(self, weights: Floats) -> Floats:
        """Its product with weights, one per column."""
        return self.words @ (self.grams @ weights[: self.split]) + self.pairs @ weights[self.split :]

    def transposed(self, errors: Floats) -> Floats:
        """The product of its transpose with a vector of shape (n,)."""
        words, grams, pairs = self._turned
        return np.concatenate((grams @ (words @ errors), pairs @ errors))

    @cached_property
    def _turned(self) -> tuple[csc_matrix, csc_matrix, csc_matrix]:
        return self.words.T, self.grams.T, self.pairs.T


def corpus_of(views: Sequence[RequestView]) -> Corpus:
    """The matrices of the views' features, the numbers that `Classifier.assess` works with."""
    known: dict[str, int] = {}
    dense = np.zeros((len(views), len(DENSE)))
    rows: list[Rows] = []
    for i, view in enumerate(views):
        text = view.text()
        read = edges(text)
        words = read.casefold().split()
        dense[i] = dense_row(view, text, read, words)
        rows.append(np.array([known.setdefault(word, len(known)) for word in words], dtype=np.int64))
    grams = grams_of(list(known))
    pairs = _stacked(
        [pair_columns(grams.hashes[row]) - PAIR_START for row in rows], BUCKETS - PAIR_START, unit_norm=True
    )
    return Corpus(dense, _stacked(rows, len(known)), pairs, *_by_word(grams))


def surprise_of(counts: Floats, rows: float) -> Floats:
    """What an n-gram that `counts` of so many requests have adds to a request's surprise; 0 for one that all have."""
    return np.log((rows + 1.0) / (counts + 1.0))


def _stacked(rows: Sequence[Rows], width: int, unit_norm: bool = False) -> csr_matrix:
    found = [tallied(row) for row in rows]
    if unit_norm:
        found = [(columns, often / np.sqrt(often @ often)) for columns, often in found]
    ends = np.cumsum([0, *(columns.size for columns, _ in found)])
    columns = np.concatenate([np.zeros(0, dtype=np.int32), *(columns.astype(np.int32) for columns, _ in found)])
    weights = np.concatenate([np.zeros(0), *(often for _, often in found)])
    return csr_matrix((weights, columns, ends), shape=(len(rows), width))


def _by_word(grams: Grams) -> tuple[csr_matrix, csr_matrix]:
    count = np.diff(grams.ends, prepend=0)
    starts = np.concatenate(([0], grams.ends[:-1])).astype(np.int64) if count.size else grams.ends
    columns = np.insert(grams.chars, starts, grams.words).astype(np.int32)
    ends = np.concatenate(([0], grams.ends + np.arange(1, count.size + 1)))
    each = np.repeat(count, count + 1).astype(np.float64)
    own = ends[:-1]
    shape = (count.size, PAIR_START)
    roots, means = 1.0 / np.sqrt(each), 1.0 / each
    roots[own] = means[own] = 1.0
    return csr_matrix((roots, columns, ends), shape=shape), csr_matrix((means, columns, ends), shape=shape)
