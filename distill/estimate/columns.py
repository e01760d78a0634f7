"""What is kept of every logged request: some fifty bytes in columns, and nothing of what was said."""

from array import array
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ledger.rollups import DAY_MS

__all__ = ("CLOSED", "FORMS", "MONEY_UNKNOWN", "NOT_KEPT", "OPEN", "UNSUPPORTED", "Columns")

CLOSED: Final = ("label", "number", "json", "tools")
"""Forms of answers that can be compared without a model."""
OPEN, UNSUPPORTED, NOT_KEPT = "open", "unsupported", "not kept"
"""Free text; what no student is asked; requests of whose text the log has nothing."""
FORMS: Final = (*CLOSED, OPEN, UNSUPPORTED, NOT_KEPT)
MONEY_UNKNOWN: Final = -1
"""In the column of costs."""


def _column(kind: str) -> "array[int]":
    return array(kind)


@dataclass(slots=True)
class Columns:
    """Times in ms (0 where unknown), costs in nano-units, hashes of what was asked and answered (0 where unknown)."""

    at: "array[int]" = field(default_factory=lambda: _column("q"))
    cost: "array[int]" = field(default_factory=lambda: _column("q"))
    prompt: "array[int]" = field(default_factory=lambda: _column("q"))
    completion: "array[int]" = field(default_factory=lambda: _column("q"))
    asked: "array[int]" = field(default_factory=lambda: _column("Q"))
    answered: "array[int]" = field(default_factory=lambda: _column("Q"))
    model: "array[int]" = field(default_factory=lambda: _column("H"))
    form: "array[int]" = field(default_factory=lambda: _column("B"))

    def __len__(self) -> int:
        """How many requests."""
        return len(self.at)

    def of(self, name: str) -> NDArray[np.int64]:
        """A column; of hashes, their bits as signed numbers."""
        column = np.asarray(getattr(self, name))
        return column.view(np.int64) if column.itemsize == 8 else column.astype(np.int64)

    @property
    def days(self) -> float:
        """The time that the requests with a time took; 0 where that cannot be said."""
        times = self.of("at")
        known = times[times > 0]
        if known.size < 2:
            return 0.0
        # n requests have n - 1 gaps between them
        return float(known.max() - known.min()) / DAY_MS * known.size / (known.size - 1)
