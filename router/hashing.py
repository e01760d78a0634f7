"""Hashes a text's word and character n-grams into feature indices, vectorised, since it runs per request.

A polynomial rolling hash (Karp and Rabin 1987, doi:10.1147/rd.312.0249) modulo 2**64 gives every n-gram's
hash from one prefix sum, and 8,000 characters cost about a millisecond (scikit-learn's HashingVectorizer:
twelve). The hashing trick itself: Weinberger et al. 2009, arXiv:0902.2206.
"""

import re
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ("CHAR_BUCKETS", "MAX_CHARS", "WORD_BUCKETS", "char_ngrams", "word_ngrams")

MAX_CHARS = 8_192
WORD_BITS, CHAR_BITS = 15, 16
WORD_BUCKETS, CHAR_BUCKETS = 1 << WORD_BITS, 1 << CHAR_BITS
CHAR_SIZES = (2, 3, 4, 5)

Hashes: TypeAlias = NDArray[np.uint64]

_WORD = re.compile(r"\w+")
_SPACE = ord(" ")
_BASE = 0x9E6C_63D0_876A_68E5  # odd, hence invertible modulo 2**64
_SCATTER = np.uint64(0xD1B5_4A32_D192_ED03)
_PAIR = np.uint64(0xA24B_AED4_963E_E407)
_FOLD = np.uint64(32)


def _powers(base: int) -> Hashes:
    steps = np.full(MAX_CHARS + 2, base, dtype=np.uint64)
    steps[0] = 1
    return np.cumprod(steps, dtype=np.uint64)


_POWER = _powers(_BASE)
_INVERSE = _powers(pow(_BASE, -1, 1 << 64))


def word_ngrams(text: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Sorted buckets below WORD_BUCKETS of the words and word pairs of `text`, and their unit-norm weights."""
    points, prefix = _prefix_hash(" ".join(_WORD.findall(text[:MAX_CHARS]))[:MAX_CHARS])
    if not points.size:
        return _weighted(np.zeros(0, dtype=np.uint64), WORD_BITS)
    spaces = np.flatnonzero(points == _SPACE)
    starts = np.concatenate(([0], spaces + 1))
    ends = np.concatenate((spaces, [points.size]))
    words = (prefix[ends] - prefix[starts]) * _INVERSE[starts]
    return _weighted(np.concatenate((words, words[:-1] * _PAIR + words[1:])), WORD_BITS)


def char_ngrams(text: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Like `word_ngrams`, below CHAR_BUCKETS, for the 2 to 5 character n-grams that cross no word's edge."""
    words = " ".join(text[:MAX_CHARS].split())[:MAX_CHARS]
    points, prefix = _prefix_hash(f" {words} " if words else "")
    if not points.size:
        return _weighted(np.zeros(0, dtype=np.uint64), CHAR_BITS)
    spaces_before = np.concatenate(([0], np.cumsum(points == _SPACE)))
    return _weighted(np.concatenate([_grams(prefix, spaces_before, size) for size in CHAR_SIZES]), CHAR_BITS)


def _grams(prefix: Hashes, spaces_before: NDArray[np.int64], size: int) -> Hashes:
    count = max(prefix.size - size, 0)
    hashes = (prefix[size:] - prefix[:count]) * _INVERSE[:count]
    # A gram may begin or end at a space, and one with a space inside it spans two words.
    inside_one_word = spaces_before[size - 1 : size - 1 + count] == spaces_before[1 : 1 + count]
    return hashes[inside_one_word]


def _prefix_hash(text: str) -> tuple[NDArray[np.uint32], Hashes]:
    # A lone surrogate is legal in JSON and must not make the router fail.
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    prefix = np.zeros(points.size + 1, dtype=np.uint64)
    np.cumsum(points * _POWER[: points.size], out=prefix[1:])
    return points, prefix


def _weighted(hashes: Hashes, bits: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    scattered = (hashes ^ (hashes >> _FOLD)) * _SCATTER
    # NumPy sorts 16-bit integers by radix, several times as fast as wider ones.
    buckets = np.sort((scattered >> np.uint64(64 - bits)).astype(np.uint16), kind="stable")
    differs = np.ones(buckets.size, dtype=bool)
    np.not_equal(buckets[1:], buckets[:-1], out=differs[1:])
    firsts = np.flatnonzero(differs)
    counts = np.diff(firsts, append=buckets.size)
    weights = 1.0 + np.log(counts)
    return buckets[firsts].astype(np.int64), weights / max(float(np.sqrt(weights @ weights)), 1.0)
