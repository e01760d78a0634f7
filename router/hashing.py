"""Hashes a text's word and character n-grams into feature indices, vectorised, since it runs per request.

A polynomial rolling hash (Karp and Rabin 1987, doi:10.1147/rd.312.0249) modulo 2**64 gives every n-gram's
hash from one prefix sum, and 8,000 characters cost about a millisecond (scikit-learn's HashingVectorizer:
twelve). The hashing trick itself: Weinberger et al. 2009, arXiv:0902.2206.
"""

import math
import re
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = (
    "BASE",
    "CHAR_BITS",
    "CHAR_BUCKETS",
    "CHAR_SIZES",
    "MAX_CHARS",
    "PAIR",
    "SCATTER",
    "WORD_BITS",
    "WORD_BUCKETS",
    "ngrams",
)

MAX_CHARS = 8_192
WORD_BITS, CHAR_BITS = 15, 16
WORD_BUCKETS, CHAR_BUCKETS = 1 << WORD_BITS, 1 << CHAR_BITS
CHAR_SIZES = (2, 3, 4, 5)

Hashes: TypeAlias = NDArray[np.uint64]

_WORD = re.compile(r"\w+")
_SPACE = ord(" ")
BASE = 0x9E6C_63D0_876A_68E5  # odd, hence invertible modulo 2**64
SCATTER = 0xD1B5_4A32_D192_ED03
PAIR = 0xA24B_AED4_963E_E407
_SCATTER, _PAIR = np.uint64(SCATTER), np.uint64(PAIR)
_FOLD = np.uint64(32)


def _powers(base: int) -> Hashes:
    steps = np.full(MAX_CHARS + 2, base, dtype=np.uint64)
    steps[0] = 1
    return np.cumprod(steps, dtype=np.uint64)


_POWER = _powers(BASE)
_INVERSE = _powers(pow(BASE, -1, 1 << 64))
_WEIGHT = 1.0 + np.log(np.maximum(np.arange(MAX_CHARS * len(CHAR_SIZES) + 1), 1))
"""Of an n-gram, by how often it is there."""
_NOTHING = (np.zeros(0, dtype=np.int64), np.zeros(0))
_NO_HASHES = np.zeros(0, dtype=np.uint64)
_REACH = np.array(CHAR_SIZES) - 1
"""How far the last character of an n-gram is from its first, for each size."""
_TO_CHAR_BUCKET = np.uint64(64 - CHAR_BITS)


def ngrams(text: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Sorted columns of the n-grams of `text`, and their weights: those below WORD_BUCKETS are of words and word
    pairs, those after it, CHAR_BUCKETS of them, of the 2 to 5 character n-grams that cross no word's edge. The
    weights of each kind have unit norm.
    """
    joined = " ".join(text[:MAX_CHARS].split())[: MAX_CHARS - 2]
    if not joined:
        return _NOTHING
    spaced = f" {joined} "
    prefix, spaces = _prefix_hash(spaced)
    words = _word_hashes(spaced, prefix)
    hashes = np.concatenate((words, _char_hashes(prefix, spaces)))
    scattered = (hashes ^ (hashes >> _FOLD)) * _SCATTER
    columns = (scattered >> _TO_CHAR_BUCKET).astype(np.uint32)
    columns[: words.size] >>= CHAR_BITS - WORD_BITS
    columns[words.size :] += WORD_BUCKETS
    return _weighted(columns)


def _prefix_hash(text: str) -> tuple[Hashes, NDArray[np.int64]]:
    """The hash of every beginning of the text, shape (len(text) + 1,), and where its spaces are."""
    # A lone surrogate is legal in JSON and must not make the router fail.
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    prefix = np.empty(points.size + 1, dtype=np.uint64)
    prefix[0] = 0
    np.add.accumulate(points * _POWER[: points.size], out=prefix[1:])
    return prefix, (points == _SPACE).nonzero()[0]


def _word_hashes(text: str, prefix: Hashes) -> Hashes:
    spans = [word.span() for word in _WORD.finditer(text)]
    if not spans:
        return _NO_HASHES
    starts, ends = np.array(spans).T
    words = (prefix[ends] - prefix[starts]) * _INVERSE[starts]
    return np.concatenate((words, words[:-1] * _PAIR + words[1:]))


def _char_hashes(prefix: Hashes, spaces: NDArray[np.int64]) -> Hashes:
    # A gram may begin or end at a space, and one with a space inside it spans two words. So the longest that may
    # begin at a character ends with the first space after it.
    starts = np.arange(prefix.size - 2)
    longest = spaces[spaces.searchsorted(starts, side="right")] - starts
    begins, sizes = (longest[:, np.newaxis] >= _REACH).nonzero()
    return (prefix[begins + sizes + CHAR_SIZES[0]] - prefix[begins]) * _INVERSE[begins]


def _weighted(columns: NDArray[np.uint32]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    columns.sort()
    changes = (columns[1:] != columns[:-1]).nonzero()[0]
    edges = np.empty(changes.size + 2, dtype=np.int64)
    edges[0], edges[1:-1], edges[-1] = 0, changes + 1, columns.size
    unique = columns[edges[:-1]].astype(np.int64)
    weights = _WEIGHT[edges[1:] - edges[:-1]]
    words = int(unique.searchsorted(WORD_BUCKETS))
    for block in (weights[:words], weights[words:]):
        np.divide(block, math.sqrt(float(block @ block)) or 1.0, out=block)
    return unique, weights
