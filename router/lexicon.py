"""What the words of a text say together, from a memory of what each says: all that the n-grams cost per request.

Traffic repeats its words. A word that was seen is one look-up; the n-grams of new ones are hashed together.
"""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from router.hashing import grams_of, pair_columns

__all__ = ("CHARS", "WORDS", "Lexicon", "tallied")

WORDS: Final = 65_536
CHARS: Final = 1 << 20
"""Words and characters it holds; beyond either it begins anew."""
_FREQUENCY = 1.0 + np.log(np.maximum(np.arange(16_384), 1))
"""Weight of a word or pair by how often a request has it."""


class Lexicon:
    """Of each word seen: its hash, what its n-grams add to the score, their squared norm, and its surprise."""

    def __init__(self, weights: NDArray[np.float32], surprise: NDArray[np.float32]) -> None:
        self._weights = weights.astype(np.float64)
        known = surprise.astype(np.float64)
        self._grams = np.column_stack((self._weights[: known.size] * known, np.square(known), known))
        self._known: dict[str, int] = {}
        self._chars = 0
        self._hashes = np.zeros(WORDS, dtype=np.uint64)
        self._values = np.zeros((WORDS, 3))

    def __len__(self) -> int:
        """How many words it knows."""
        return len(self._known)

    def read(self, words: Sequence[str]) -> tuple[float, float]:
        """The n-gram part of the logit, and the mean surprise, of a text's words in order; (0, 0) for none."""
        if not words:
            return 0.0, 0.0
        try:
            rows = self._rows(words)
        except KeyError:
            self._learn(words)
            rows = self._rows(words)
        distinct, frequency = tallied(rows)
        values = self._values.take(distinct, axis=0)
        said, _, surprise = (frequency @ values).tolist()
        squares = float((frequency * frequency) @ values[:, 1])
        pairs, often = tallied(pair_columns(self._hashes.take(rows)))
        paired = float(self._weights.take(pairs) @ often) / math.sqrt(float(often @ often) or 1.0)
        return said / math.sqrt(squares or 1.0) + paired, surprise / float(frequency.sum())

    def _rows(self, words: Sequence[str]) -> NDArray[np.int64]:
        return np.fromiter(map(self._known.__getitem__, words), dtype=np.int64, count=len(words))

    def _learn(self, words: Sequence[str]) -> None:
        new = list({word: None for word in words if word not in self._known})
        chars = sum(map(len, new))
        if len(self._known) + len(new) > WORDS or self._chars + chars > CHARS:
            self._known, self._chars = {}, 0
            new = list(dict.fromkeys(words))
            chars = sum(map(len, new))
        begin = len(self._known)
        self._hashes[begin : begin + len(new)], self._values[begin : begin + len(new)] = self._read_new(new)
        self._known.update(zip(new, range(begin, begin + len(new)), strict=True))
        self._chars += chars

    def _read_new(self, words: Sequence[str]) -> tuple[NDArray[np.uint64], NDArray[np.float64]]:
        grams = grams_of(words)
        starts = np.zeros_like(grams.ends)
        starts[1:] = grams.ends[:-1]
        count = (grams.ends - starts)[:, np.newaxis]
        values = np.add.reduceat(self._grams.take(grams.chars, axis=0), starts)
        values /= np.hstack((np.sqrt(count), count, count))
        values += self._grams.take(grams.words, axis=0)
        values[:, 2] /= 2.0
        return grams.hashes, values


def tallied(columns: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The distinct values, sorted, and the weight of each: 1 + log of how often it is there."""
    if not columns.size:
        return columns, np.zeros(0)
    columns = columns.copy()
    columns.sort()
    changes = (columns[1:] != columns[:-1]).nonzero()[0]
    bounds = np.empty(changes.size + 2, dtype=np.int64)
    bounds[0], bounds[1:-1], bounds[-1] = 0, changes + 1, columns.size
    return columns[bounds[:-1]], _FREQUENCY[bounds[1:] - bounds[:-1]]
