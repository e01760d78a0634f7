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

__all__ = (
    "BUCKETS", "CHAR_START", "NO_GRAM", "PAIR_START", "Batch", "Grams", "batches_of", "grams_of", "pair_columns",
    "pair_columns_of_few", "word_columns",
)  # fmt: skip

WORD_BITS, CHAR_BITS, PAIR_BITS = 15, 16, 15
CHAR_START = 1 << WORD_BITS
PAIR_START = CHAR_START + (1 << CHAR_BITS)
BUCKETS = PAIR_START + (1 << PAIR_BITS)
"""Buckets of words, then of character n-grams, then of pairs of words."""
NO_GRAM: Final = PAIR_START
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
_BEYOND = np.array([size - back * _REACH.size for back in (1, 2, 3) for size in range(back, _REACH.size)])
"""Of n-grams in rows of characters, those that reach beyond the space at which a row would begin.

After a word of one letter the last of these is one before it, which does not fit either.
"""


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


@dataclass(frozen=True, slots=True)
class Batch:
    """Words hashed together: their hashes, and the character n-grams that begin at each of their characters.

    `columns` has shape (characters, sizes), `NO_GRAM` where an n-gram would reach beyond its word. Word i has the
    rows from `starts[i]` on, and `sizes[i]` n-grams.
    """

    hashes: NDArray[np.uint64]
    columns: NDArray[np.int64]
    starts: list[int]
    sizes: list[int]


def grams_of(words: Sequence[str]) -> Grams:
    """The n-grams of words of at least one character, none with white space in it."""
    if not words:
        return Grams(np.zeros(0, dtype=np.uint64), *(np.zeros(0, dtype=np.int64) for _ in range(3)))
    batches = list(batches_of(words))
    hashes = np.concatenate([batch.hashes for batch in batches])
    chars = np.concatenate([batch.columns[batch.columns != NO_GRAM] for batch in batches])
    return Grams(hashes, word_columns(hashes), chars, np.cumsum([size for batch in batches for size in batch.sizes]))


def batches_of(words: Sequence[str]) -> Iterator[Batch]:
    """Of words as `grams_of` takes them, in their order."""
    begin, chars = 0, 0
    for i, word in enumerate(words):
        if chars + len(word) + 2 > BATCH_CHARS and i > begin:
            yield _batch(words[begin:i])
            begin, chars = i, 0
        chars += len(word) + 1
    yield _batch(words[begin:])


def word_columns(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The columns of words as a whole, from their hashes."""
    return _column(hashes, WORD_BITS)


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
    scattered = hashes ^ (hashes >> _FOLD)
    scattered *= _SCATTER
    scattered >>= np.uint64(64 - bits)
    return scattered.view(np.int64)


def _batch(words: Sequence[str]) -> Batch:
    text = f" {' '.join(words)} "
    # A lone surrogate is legal in JSON and must not make the router fail.
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    prefix = np.zeros(points.size + LONGEST_GRAM, dtype=np.uint64)
    np.multiply(points, _POWER[: points.size], out=prefix[1 : points.size + 1])
    prefix.cumsum(out=prefix)
    # A word's n-grams begin at the space before it, or inside it, and may end at the space after it.
    starts, ends, sizes, bare = [], [], [], ([], [])
    start = 0
    for word in words:
        length = len(word)
        skipped, kept = (0, length) if word.isalnum() else _edges(word)
        bare[0].append(start + 1 + skipped)
        bare[1].append(start + 1 + skipped + kept)
        starts.append(start)
        sizes.append(4 * length - 2 if length > 1 else 3)
        start += length + 1
        ends.append([start])
    from_, to = prefix.take(bare)
    hashes = (to - from_) * _INVERSE.take(bare[0])
    grams = prefix.take(_ENDS[:start])
    grams -= prefix[:start, np.newaxis]
    grams *= _INVERSE[:start, np.newaxis]
    columns = _column(grams, CHAR_BITS)
    columns += CHAR_START
    columns.reshape(-1)[(np.array(ends) * _REACH.size + _BEYOND)] = NO_GRAM
    return Batch(hashes, columns, starts, sizes)


def _edges(word: str) -> tuple[int, int]:
    """Where the word as such begins, and its length; all of it where it is nothing but marks."""
    bare = word.strip(EDGES)
    return (word.index(bare), len(bare)) if bare else (0, len(word))
