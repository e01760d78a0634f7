"""Near-duplicates among any number of prompts, which pass by once: only a sketch of each is kept, in a file.

As in `router.evaluation.duplicates`, but that pairs are told by their sketches alone, the texts being gone: the share
of equal bins of 64 estimates the Jaccard similarity with a standard error of at most 0.06. 16 bits of each bin are
kept, 128 bytes a prompt.
"""

import os
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from router.evaluation.duplicates import BAND, BINS, RareGrams, pairs, root, sketch

__all__ = ("READ", "Sketches")

READ: Final = 8_000
"""Characters of a prompt."""
COMMON: Final = 0.02
"""5-grams of more than this share of a sample are an application's template, and tell its prompts not apart."""
FEWEST: Final = 40
"""Prompts of a sample that a template has at least."""
PART: Final = 1 << 17
"""Prompts whose bands are sorted at once, about."""
READ_AT_ONCE, COMPARED_AT_ONCE = 8_192, 1_024
ROW_BYTES: Final = BINS * 2
_SCATTER, _HALF = np.uint64(0xBF58476D1CE4E5B9), np.uint64(32)


class Sketches:
    """Sketches of prompts, and their clusters. A context manager, for its file.

    ``sample`` holds prompts from all over the ledger, from which templates are known.
    """

    def __init__(self, sample: Sequence[str]) -> None:
        texts = [text[:READ] for text in sample]
        # a few prompts that share words are no template
        self._rare = RareGrams(texts, max(COMMON, FEWEST / max(1, len(texts))))
        self._file = tempfile.TemporaryFile(prefix="stillroom-sketches-")  # noqa: SIM115 - closed by __exit__
        self._rows = 0

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Give the file up."""
        self._file.close()

    def add(self, text: str) -> None:
        """Take the next prompt."""
        grams = self._rare.of(" ".join(text[:READ].casefold().split()))
        # the upper bits say which bin it is
        self._file.write(sketch(grams).astype(np.uint16).tobytes())
        self._rows += 1

    def clusters(self, similar: float) -> Iterator[tuple[int, int]]:
        """Prompts that pairs of at least this similarity connect: by the number of each but one, that one's number.

        Takes 4 bytes a prompt, and what does not grow with them.
        """
        self._file.flush()
        parents = array("i", range(self._rows))
        parts = self._rows // PART + 1
        for band, part in product(range(BINS // BAND), range(parts)):
            for one, other in self._pairs(band, part, parts, similar):
                parents[root(parents, other)] = root(parents, one)
        yield from ((row, root(parents, row)) for row, parent in enumerate(parents) if row != parent)

    def _pairs(self, band: int, part: int, parts: int, similar: float) -> Iterator[tuple[int, int]]:
        """Pairs of prompts that share a band, which a hash puts into this one of so many parts."""
        bands, rows, room = np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.int64), 2 * PART
        for start in range(0, self._rows, READ_AT_ONCE):
            block = np.frombuffer(self._read(start, READ_AT_ONCE), np.uint64).reshape(-1, BINS // BAND)[:, band]
            here = np.flatnonzero((block * _SCATTER >> _HALF) % np.uint64(parts) == part)
            bands, rows = np.append(bands, block[here]), np.append(rows, here + start)
            if rows.size > room or start + READ_AT_ONCE >= self._rows:
                # many of one kind are all in one part: only those that are not like others are kept
                first = yield from pairs(bands, rows, self._agreement, similar)
                bands, rows = bands[first], rows[first]
                room = 2 * max(PART, rows.size)

    def _agreement(self, one: int, others: NDArray[np.int64]) -> NDArray[np.float64]:
        own, agreed = np.frombuffer(self._read(one), np.uint16), np.empty(others.size)
        for start in range(0, others.size, COMPARED_AT_ONCE):
            some = b"".join(map(self._read, others[start : start + COMPARED_AT_ONCE].tolist()))
            equal = np.frombuffer(some, np.uint16).reshape(-1, BINS) == own
            agreed[start : start + COMPARED_AT_ONCE] = equal.mean(axis=1)
        return agreed

    def _read(self, start: int, rows: int = 1) -> bytes:
        # not mapped: pages of a mapped file count as this process's memory
        return os.pread(self._file.fileno(), rows * ROW_BYTES, start * ROW_BYTES)
