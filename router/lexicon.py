"""What the words of a text say together, from a memory of what each says: all that the n-grams cost per request.

Traffic repeats its words. A word that was seen is one look-up; the n-grams of new ones are hashed together.
"""

import math
from collections.abc import Sequence
from itertools import islice
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from router.hashing import Batch, batches_of, pair_columns, pair_columns_of_few, word_columns

__all__ = ("CHARS", "FEW", "WORDS", "Lexicon", "tallied")

WORDS: Final = 65_536
CHARS: Final = 1 << 20
"""Words and characters that it holds; beyond either it begins anew with the next text."""
FEW: Final = 96
"""Up to so many words of a text, Python's own numbers are quicker than arrays."""
_FREQUENCY = 1.0 + np.log(np.maximum(np.arange(16_384), 1))
"""Weight of a word or pair by how often a request has it."""
_OF_FEW: Final[list[float]] = _FREQUENCY[: FEW + 1].tolist()


class _Numbers(dict[str, int]):
    """Words, each with its number; a new one gets the next."""

    def __missing__(self, word: str) -> int:
        number = self[word] = len(self)
        return number


class Lexicon:
    """Of each word seen: its hash, what its n-grams add to the score, their squared norm, and its surprise."""

    def __init__(self, weights: NDArray[np.float32], surprise: NDArray[np.float32]) -> None:
        self._weights = weights.astype(np.float64)
        known = surprise.astype(np.float64)
        grams = np.column_stack((self._weights[: known.size] * known, np.square(known), known))
        # one more, of no n-gram
        self._grams = np.vstack((grams, np.zeros(3)))
        self._known = _Numbers()
        self._chars = 0
        self._hashes = np.zeros(WORDS, dtype=np.uint64)
        self._values = np.zeros((WORDS, 3))
        # the same memory, of which single numbers are read at less cost
        self._cells, self._weight, self._hash = map(_numbers_of, (self._values, self._weights, self._hashes))

    def __len__(self) -> int:
        """How many words it knows."""
        return len(self._known)

    def read(self, words: Sequence[str]) -> tuple[float, float]:
        """The n-gram part of the logit, and the mean surprise, of a text's words in order; (0, 0) for none."""
        if not words:
            return 0.0, 0.0
        if len(self._known) + len(words) > WORDS or self._chars > CHARS:
            self._known, self._chars = _Numbers(), 0
        known = len(self._known)
        if len(words) <= FEW:
            numbers = [*map(self._known.__getitem__, words)]
            self._learn(known)
            return self._read_few(numbers)
        rows = np.fromiter(map(self._known.__getitem__, words), dtype=np.int64, count=len(words))
        self._learn(known)
        return self._read_many(rows)

    def _read_few(self, numbers: list[int]) -> tuple[float, float]:
        cells, weight, hashed = self._cells, self._weight, self._hash
        said = squares = surprise = total = 0.0
        for number, count in _counts(numbers).items():
            frequency, at = _OF_FEW[count], 3 * number
            said += frequency * cells[at]
            squares += frequency * frequency * cells[at + 1]
            surprise += frequency * cells[at + 2]
            total += frequency
        paired = norm = 0.0
        for column, count in _counts(pair_columns_of_few([hashed[number] for number in numbers])).items():
            frequency = _OF_FEW[count]
            paired += frequency * weight[column]
            norm += frequency * frequency
        return said / math.sqrt(squares or 1.0) + paired / math.sqrt(norm or 1.0), surprise / total

    def _read_many(self, rows: NDArray[np.int64]) -> tuple[float, float]:
        pairs, often = tallied(pair_columns(self._hashes.take(rows)))
        distinct, frequency = tallied(rows)
        values = self._values.take(distinct, axis=0)
        said, _, surprise = (frequency @ values).tolist()
        squares = float((frequency * frequency) @ values[:, 1])
        paired = float(self._weights.take(pairs) @ often) / math.sqrt(float(often @ often) or 1.0)
        return said / math.sqrt(squares or 1.0) + paired, surprise / float(frequency.sum())

    def _learn(self, begin: int) -> None:
        """Work out what the words from this number on say."""
        end = len(self._known)
        if begin == end:
            return
        new = [*islice(reversed(self._known), end - begin)]
        new.reverse()
        for batch in batches_of(new):
            end = begin + len(batch.starts)
            self._hashes[begin:end], self._values[begin:end] = batch.hashes, self._said(batch)
            begin = end
        self._chars += sum(map(len, new))

    def _said(self, batch: Batch) -> NDArray[np.float64]:
        """Values of new words, shape (n, 3)."""
        characters, kinds = batch.columns.shape
        of_grams = self._grams.take(batch.columns, axis=0).reshape(characters, -1)
        values = np.add.reduceat(of_grams, batch.starts).reshape(-1, kinds, 3).sum(axis=1)
        values /= np.array([(math.sqrt(size), size, size) for size in batch.sizes])
        values += self._grams.take(word_columns(batch.hashes), axis=0)
        values[:, 2] /= 2.0
        return values


def _numbers_of(array: NDArray[Any]) -> "memoryview[Any]":
    return memoryview(cast("Any", array.reshape(-1)))


def _counts(numbers: list[int]) -> dict[int, int]:
    """How often each is there."""
    counts = dict.fromkeys(numbers, 1)
    if len(counts) < len(numbers):
        counts = dict.fromkeys(numbers, 0)
        for number in numbers:
            counts[number] += 1
    return counts


def tallied(columns: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The distinct values, sorted, and the weight of each: 1 + log of how often it is there."""
    if not columns.size:
        return columns, np.zeros(0)
    columns = columns.copy()
    columns.sort()
    begins = np.ones(columns.size + 1, dtype=np.bool_)
    np.not_equal(columns[1:], columns[:-1], out=begins[1:-1])
    bounds = begins.nonzero()[0]
    return columns.take(bounds[:-1]), _FREQUENCY.take(bounds[1:] - bounds[:-1])
