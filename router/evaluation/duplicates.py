"""Finds prompts that are nearly the same, so that none of a kind is trained on and tested on.

Two prompts are near-duplicates if their sets of character 5-grams, of the text without case and repeated space, have
a Jaccard similarity of at least 0.8; a cluster is what such pairs connect. 5-grams that more than a tenth of the
prompts have are an instruction's, not the question's, and do not count. Candidates come from MinHash with one
permutation (Li, Owen and Zhang 2012, arXiv:1208.1259), empty bins filled by rotation (Shrivastava and Li 2014,
arXiv:1406.4784), and banding (Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, chapter 3); each pair is
then compared in full.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ("BINS", "RareGrams", "candidates", "grams", "near_duplicates", "root", "sketch")

GRAM = 5
SIMILAR = 0.8
BIN_BITS, BAND = 6, 4
BINS = 1 << BIN_BITS
"""In 16 bands of 4, a pair of similarity 0.8 meets with probability 0.9998."""
LIKELY = 0.65
"""Equal bins that a pair must have to be compared in full: three standard errors below SIMILAR."""
COMMON = 0.1
FEWEST_HOLDERS = 10
"""What no more prompts have is no template, however few there are."""
FEWEST_FOR_COMMON = 50
"""Prompts below which a common 5-gram says nothing about an instruction."""
SEEN_BITS = 22
ROUNDS = 32
"""Of those that share a band, so many are compared with all the others."""
READ = 8_000
"""Characters of a prompt."""

Hashes = NDArray[np.uint64]
Rows = NDArray[np.int64]
_FACTORS = [np.uint64(pow(0x9E3779B97F4A7C15, power, 1 << 64)) for power in range(1, GRAM + 1)]
_SCATTER = np.uint64(0xBF58476D1CE4E5B9)
_STEP = np.uint64(0x94D049BB133111EB)
_EDGES = np.arange(BINS, dtype=np.uint64) << np.uint64(64 - BIN_BITS)


def near_duplicates(prompts: Sequence[str]) -> Rows:
    """The number of each prompt's cluster, from 0 without gaps, shape (n,)."""
    numbers: dict[str, int] = {}
    same = [numbers.setdefault(" ".join(prompt[:READ].casefold().split()), len(numbers)) for prompt in prompts]
    texts = list(numbers)
    if not texts:
        return np.zeros(0, dtype=np.int64)
    rare = RareGrams(texts)
    sketches = np.stack([sketch(rare.of(text)) for text in texts])
    parents = np.arange(len(texts), dtype=np.int64)
    for one, other in candidates(sketches, parents):
        if _similarity(rare.of(texts[one]), rare.of(texts[other])) >= SIMILAR:
            parents[root(parents, other)] = root(parents, one)
    roots = np.array([root(parents, row) for row in range(len(texts))], dtype=np.int64)
    return np.unique(roots[same], return_inverse=True)[1].reshape(-1).astype(np.int64)


class RareGrams:
    """The 5-grams that tell prompts apart: those that few of them have, or all where a prompt has no such.

    ``common`` is the share of the texts from which a 5-gram tells nothing.
    """

    def __init__(self, texts: Sequence[str], common: float = COMMON) -> None:
        self._common = np.zeros(1 << SEEN_BITS, dtype=bool)
        if len(texts) >= FEWEST_FOR_COMMON:
            seen = np.zeros(1 << SEEN_BITS, dtype=np.uint32)
            for text in texts:
                # duplicates in the index count once, as they should
                seen[_bucket(grams(text))] += 1
            self._common = seen > max(common * len(texts), FEWEST_HOLDERS)

    def of(self, text: str) -> Hashes:
        """The sorted hashes of those of a text."""
        found = grams(text)
        rare = found[~self._common[_bucket(found)]]
        return rare if rare.size else found


def grams(text: str) -> Hashes:
    """The sorted hashes of a text's different 5-grams; a shorter text is one gram."""
    # a lone surrogate is legal in JSON
    points = np.frombuffer(text.ljust(GRAM).encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    width = points.size - GRAM + 1
    mixed = np.zeros(width, dtype=np.uint64)
    for i, factor in enumerate(_FACTORS):
        mixed += points[i : i + width] * factor
    mixed ^= mixed >> np.uint64(31)
    mixed *= _SCATTER
    return np.unique(mixed ^ (mixed >> np.uint64(29)))


def _bucket(grams: Hashes) -> Hashes:
    return grams & np.uint64((1 << SEEN_BITS) - 1)


def sketch(grams: Hashes) -> Hashes:
    """The least hash in each of 64 equal ranges; an empty range borrows the next one's, marked by the distance."""
    at = np.searchsorted(grams, _EDGES)
    ends = np.append(at[1:], grams.size)
    full = np.flatnonzero(ends > at)
    nearest = full[np.searchsorted(full, np.arange(BINS)) % full.size]
    distance = ((nearest - np.arange(BINS)) % BINS).astype(np.uint64)
    return grams[at[nearest]] + distance * _STEP


def candidates(sketches: NDArray[Any], parents: Rows, likely: float = LIKELY) -> Iterator[tuple[int, int]]:
    """Pairs that may be near-duplicates and are not in one cluster yet, as the caller joins them in ``parents``.

    ``sketches`` has shape (n, 64), as `sketch` gives them or some bits of each; ``likely`` is the share of equal bins
    that a pair must have.
    """
    for begin in range(0, BINS, BAND):
        mixed = sketches[:, begin : begin + BAND] @ np.array(_FACTORS[:BAND], dtype=np.uint64)
        order = np.argsort(mixed, kind="stable")
        ends = np.flatnonzero(np.diff(mixed[order])) + 1
        starts, ends = np.append(0, ends), np.append(ends, order.size)
        for run in np.flatnonzero(ends - starts > 1):
            yield from _likely(sketches, order[starts[run] : ends[run]], parents, likely)


def _likely(sketches: NDArray[Any], members: Rows, parents: Rows, likely: float) -> Iterator[tuple[int, int]]:
    rest = members
    for _ in range(ROUNDS):
        one, rest = int(rest[0]), rest[1:]
        alike = (sketches[rest] == sketches[one]).mean(axis=1) >= likely
        for other in rest[alike].tolist():
            if root(parents, one) != root(parents, other):
                yield one, other
        rest = rest[~alike]
        if not rest.size:
            return


def _similarity(one: Hashes, other: Hashes) -> float:
    shared = np.intersect1d(one, other, assume_unique=True).size
    return shared / (one.size + other.size - shared)


def root(parents: Rows, row: int) -> int:
    """The row that stands for the cluster of a row; shortens the way there."""
    while parents[row] != row:
        parents[row] = parents[parents[row]]
        row = int(parents[row])
    return row
