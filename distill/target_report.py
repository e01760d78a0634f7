"""How much of what a teacher logged becomes soft targets, and why the rest does not, for a dataset's manifest."""

from typing import Any

import msgspec

from distill.capabilities import LossKind
from distill.targets import Alignment

__all__ = ("TargetReport",)


class TargetReport(msgspec.Struct):
    """Sums over the rows of a dataset. A position is a token of an answer, its end token included."""

    rows: dict[str, int] = {}
    """By the loss that they are trained with."""
    positions: int = 0
    aligned: int = 0
    """Those with a soft target."""
    not_aligned: dict[str, int] = {}
    """The others, by `distill.targets.Cause`."""
    given: float = 0.0
    """Probability of the teacher's logged tokens, summed over the positions with a target."""
    kept: float = 0.0
    """Of that, what is on tokens of the student's."""

    @property
    def aligned_share(self) -> float:
        """Share of the positions with a soft target; 0 without any."""
        return self.aligned / self.positions if self.positions else 0.0

    @property
    def mass_kept(self) -> float:
        """Share of the logged probability that is kept where there is a target; 0 without any."""
        return self.kept / self.given if self.given else 0.0

    def add(self, alignment: Alignment, kind: LossKind) -> None:
        """Count one row."""
        self.rows[kind] = self.rows.get(kind, 0) + 1
        self.positions += len(alignment.causes)
        for cause in alignment.causes:
            if cause is None:
                self.aligned += 1
            else:
                self.not_aligned[cause] = self.not_aligned.get(cause, 0) + 1
        self.given += alignment.given
        self.kept += alignment.kept

    def table(self) -> list[dict[str, Any]]:
        """For people: what becomes of the positions, most frequent first."""
        found = {"soft target": self.aligned, **self.not_aligned}
        ordered = sorted(found.items(), key=lambda each: (-each[1], each[0]))
        return [{"what": what, "positions": n, "share": f"{n / self.positions:.1%}"} for what, n in ordered if n]
