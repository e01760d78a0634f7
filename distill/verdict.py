"""What the gate is given of a student, and what it says: checks with their numbers, and a verdict."""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from distill.evaluate import Replayed
from distill.measures import Cost, Fit, Outcome, Speed, speed_of
from router.calibration import Thresholds

__all__ = ("Check", "Measured", "Verdict")


class Check(msgspec.Struct, frozen=True):
    """One rule of the gate. ``value`` is None where it could not be measured, which ``text`` says."""

    name: str
    passed: bool
    value: float | None
    bound: float
    text: str


class Verdict(msgspec.Struct, frozen=True):
    """All rules; one that fails rejects the candidate."""

    checks: list[Check]

    @property
    def passed(self) -> bool:
        """Whether every rule holds."""
        return all(check.passed for check in self.checks)

    def why_not(self) -> str:
        """The rules that failed, in words."""
        return "; ".join(check.text for check in self.checks if not check.passed)


@dataclass(frozen=True, slots=True)
class Measured:
    """A student's answers to the held-out requests, the thresholds that a router trained on them promises, and what
    else was measured; what was not is None.
    """

    rows: Sequence[Replayed]
    thresholds: Thresholds
    cost: Cost | None = None
    fit: Fit | None = None
    golden: Sequence[Outcome] | None = None
    probes: Sequence[Outcome] | None = None
    curve: Sequence[tuple[float, float]] = ()
    """Agreement of student and teacher together, by the share of the requests that the student answers."""

    @property
    def speed(self) -> Speed | None:
        """How fast it answered."""
        return speed_of(self.rows)

    @property
    def agreed(self) -> list[bool]:
        """Request by request."""
        return [row.agreed for row in self.rows]
