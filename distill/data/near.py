"""Near-duplicates among any number of prompts, which pass by once: only a sketch of each is kept, in a file.

As in `router.evaluation.duplicates`, but that pairs are told by their sketches alone, the texts being gone: the share
of equal bins of 64 estimates the Jaccard similarity with a standard error of at most 0.06. 16 bits of each bin are
kept, 128 bytes a prompt.
"""

import tempfile
from collections.abc import Sequence
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from router.evaluation.duplicates import BINS, RareGrams, candidates, root, sketch

__all__ = ("READ", "Sketches")

READ: Final = 8_000
"""Characters of a prompt."""
COMMON: Final = 0.02
"""5-grams of more than this share of a sample are an application's template, and tell its prompts not apart."""
FEWEST: Final = 40
"""Prompts of a sample that a template has at least."""


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

    def clusters(self, similar: float) -> NDArray[np.int64]:
        """The number of each prompt's cluster, shape (n,): what pairs of at least this similarity connect."""
        parents = np.arange(self._rows, dtype=np.int64)
        if not self._rows:
            return parents
        self._file.flush()
        rows = np.memmap(self._file, dtype=np.uint16, mode="r", shape=(self._rows, BINS))
        for one, other in candidates(rows, parents, similar):
            parents[root(parents, other)] = root(parents, one)
        for row in np.flatnonzero(parents != np.arange(self._rows)).tolist():
            parents[row] = root(parents, row)
        return parents
