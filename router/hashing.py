"""The hashed n-grams of words: each word as a whole, its character 2-5-grams, and pairs of neighbouring words.

A word is what stands between white space, casefolded. Everything said of a request is a sum over its words, so what
a word adds is worked out once and remembered (`router.lexicon`), and a trainer works on words, not on requests.
A polynomial rolling hash (Karp and Rabin 1987, doi:10.1147/rd.312.0249) modulo 2**64 gives every n-gram's hash from
one prefix sum. The hashing trick is Weinberger et al. 2009, arXiv:0902.2206.
"""

import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ("BUCKETS", "CHAR_START", "PAIR_START", "Grams", "grams_of", "pair_columns", "pair_columns_of_few")

WORD_BITS, CHAR_BITS, PAIR_BITS = 15, 16, 15
CHAR_START = 1 << WORD_BITS
PAIR_START = CHAR_START + (1 << CHAR_BITS)
BUCKETS = PAIR_START + (1 << PAIR_BITS)
"""Buckets of words, then of character n-grams, then of pairs of words."""
LONGEST_GRAM: Final = 5
EDGES: Final = string.punctuation + (
    "\u201c\u201d\u2018\u2019\u00ab\u00bb\u201e\u2026\u2013\u2014"  # quotes, ellipsis and dashes
    "\u3001\u3002\uff01\uff08\uff09\uff0c\uff1a\uff1b\uff1f\u300c\u300d"  # of Chinese and Japanese
)
"""What is cut from both ends of a word before the word as a whole is hashed; its n-grams keep it."""
BATCH_CHARS: Final = 32_768

_BASE = 0x9E6C_63D0_876A_68E5  # odd, hence invertible modulo 2**64
_SCATTER_INT, _PAIR_INT, _ALL_BITS = 0xD1B5_4A32_D192_ED03, 0xA24B_AED4_963E_E407, (1 << 64) - 1
_SCATTER, _PAIR, _FOLD = np.uint64(_SCATTER_INT), np.uint64(_PAIR_INT), np.uint64(32)
_REACH = np.arange(1, LONGEST_GRAM)
"""How far the last character of an n-gram is from its first."""
_ENDS = np.arange(BATCH_CHARS)[:, np.newaxis] + _REACH + 1
"""Where the n-grams that begin at a character end."""


def _powers(base: int) -> NDArray[np.uint64]:
    steps = np.full(BATCH_CHARS + 2, base, dtype=np.uint64)
    steps[0] = 1
    return np.cumprod(steps, dtype=np.uint64)


_POWER, _INVERSE = _powers(_BASE), _powers(pow(_BASE, -1, 1 << 64))


@dataclass(frozen=True, slots=True)
class Grams:
    """Of a list of words: each word's hash and bucket, shape (n,), and its character n-grams.

    The n-grams of word i are `chars[ends[i - 1] : ends[i]]`, columns from CHAR_START on; every word has some.
    """

    hashes: NDArray[np.uint64]
    words: NDArray[np.int64]
    chars: NDArray[np.int64]
    ends: NDArray[np.int64]


def grams_of(words: Sequence[str]) -> Grams:
    """The n-grams of words of at least one character, none with white space in it."""
    if not words:
        return Grams(np.zeros(0, dtype=np.uint64), *(np.zeros(0, dtype=np.int64) for _ in range(3)))
    parts = [_batch(batch) for batch in _batches(words)]
    hashes, chars, sizes = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Grams(hashes, _column(hashes, WORD_BITS), chars, np.cumsum(sizes))


def pair_columns(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The columns of the pairs of neighbours in a text, from its words' hashes in order; shape (n - 1,)."""
    return _column(hashes[:-1] * _PAIR + hashes[1:], PAIR_BITS) + PAIR_START


def pair_columns_of_few(hashes: Sequence[int]) -> list[int]:
    """The same of Python's numbers, which cost less where they are few."""
    columns: list[int] = []
    for first, second in pairwise(hashes):
        pair = (first * _PAIR_INT + second) & _ALL_BITS
        columns.append((((pair ^ (pair >> 32)) * _SCATTER_INT & _ALL_BITS) >> (64 - PAIR_BITS)) + PAIR_START)
    return columns


def _column(hashes: NDArray[np.uint64], bits: int) -> NDArray[np.int64]:
    scattered = (hashes ^ (hashes >> _FOLD)) * _SCATTER
    return (scattered >> np.uint64(64 - bits)).astype(np.int64)


def _batches(words: Sequence[str]) -> Iterator[Sequence[str]]:
    begin, chars = 0, 0
    for i, word in enumerate(words):
        if chars + len(word) + 2 > BATCH_CHARS and i > begin:
            yield words[begin:i]
            begin, chars = i, 0
        chars += len(word) + 1
    yield words[begin:]


def _batch(words: Sequence[str]) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64]]:
    """Word hashes, columns of all character n-grams, and how many of these each word has."""
    text = f" {' '.join(words)} "
    # A lone surrogate is legal in JSON and must not make the router fail.
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    prefix = np.zeros(points.size + LONGEST_GRAM, dtype=np.uint64)
    np.cumsum(points * _POWER[: points.size], out=prefix[1 : points.size + 1])
    # A word's n-grams begin at the space before it, or inside it.
    begins = np.fromiter(map(len, words), dtype=np.int64, count=len(words)) + 1
    spaces = begins.cumsum()
    cut = np.array([_edges(word) for word in words], dtype=np.int64).reshape(-1, 2)
    starts = spaces - begins + 1 + cut[:, 0]
    hashes = (prefix[starts + cut[:, 1]] - prefix[starts]) * _INVERSE[starts]
    # A gram may end at a space, and one with a space inside it spans two words.
    left = spaces.repeat(begins) - np.arange(points.size - 1)
    grams = prefix[_ENDS[: left.size]] - prefix[: left.size, np.newaxis]
    grams *= _INVERSE[: left.size, np.newaxis]
    counts = np.add.reduceat(np.minimum(left, LONGEST_GRAM - 1), spaces - begins)
    return hashes, _column(grams[left[:, np.newaxis] >= _REACH], CHAR_BITS) + CHAR_START, counts


def _edges(word: str) -> tuple[int, int]:
    """Where the word as such begins, and its length; all of it where it is nothing but marks."""
    bare = word.strip(EDGES)
    return (word.index(bare), len(bare)) if bare else (0, len(word))
