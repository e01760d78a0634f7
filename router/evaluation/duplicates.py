"""Finds prompts that are nearly the same, so that none of a kind is trained on and tested on.

Two prompts are near-duplicates if their sets of character 5-grams, of the text without case and repeated space, have
a Jaccard similarity of at least 0.8; a cluster is what such pairs connect. 5-grams that more than a tenth of the
prompts have are an instruction's, not the question's, and do not count. Candidates come from MinHash with one
permutation (Li, Owen and Zhang 2012, arXiv:1208.1259), empty bins filled by rotation (Shrivastava and Li 2014,
arXiv:1406.4784), and banding (Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, chapter 3); each pair is
then compared in full.
"""

from collections.abc import Callable, Generator, Iterator, MutableSequence, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ("BAND", "BINS", "RareGrams", "grams", "near_duplicates", "pairs", "root", "sketch")

GRAM = 5
SIMILAR = 0.8
BIN_BITS, BAND = 6, 4
"""Bins that two prompts share to meet."""
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
Agreement: TypeAlias = Callable[[int, Rows], NDArray[np.float64]]
"""The share of equal bins of a row and each of some others."""
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
    parents = list(range(len(texts)))
    for one, other in _candidates(sketches):
        apart = root(parents, one) != root(parents, other)
        if apart and _similarity(rare.of(texts[one]), rare.of(texts[other])) >= SIMILAR:
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


def _candidates(sketches: NDArray[np.uint64]) -> Iterator[tuple[int, int]]:
    """Pairs that may be near-duplicates."""

    def agreement(one: int, others: Rows) -> NDArray[np.float64]:
        return (sketches[others] == sketches[one]).mean(axis=1)

    for begin in range(0, BINS, BAND):
        mixed = sketches[:, begin : begin + BAND] @ np.array(_FACTORS[:BAND], dtype=np.uint64)
        yield from pairs(mixed, np.arange(mixed.size), agreement, LIKELY)


def pairs(
    hashes: Hashes, rows: Rows, agreement: Agreement, likely: float
) -> Generator[tuple[int, int], None, NDArray[np.bool_]]:
    """Pairs of these rows that have one hash and at least this share of equal bins: each row and the first like it.

    Returns which of the rows are like none before them. What comes later needs to be compared with these alone.
    """
    first = np.ones(rows.size, dtype=bool)
    order = np.argsort(hashes, kind="stable")
    ends = np.flatnonzero(np.diff(hashes[order])) + 1
    starts, ends = np.append(0, ends), np.append(ends, order.size)
    for run in np.flatnonzero(ends - starts > 1).tolist():
        rest = order[starts[run] : ends[run]]
        first[rest] = False
        for _ in range(ROUNDS):
            place, rest = rest[0], rest[1:]
            first[place], one = True, int(rows[place])
            if rest.size:
                alike = agreement(one, rows[rest]) >= likely
                yield from ((one, other) for other in rows[rest[alike]].tolist())
                rest = rest[~alike]
            if not rest.size:
                break
    return first


def _similarity(one: Hashes, other: Hashes) -> float:
    shared = np.intersect1d(one, other, assume_unique=True).size
    return shared / (one.size + other.size - shared)


def root(parents: MutableSequence[int], row: int) -> int:
    """The row that stands for the cluster of a row; shortens the way there."""
    while parents[row] != row:
        parents[row] = parents[parents[row]]
        row = parents[row]
    return row
