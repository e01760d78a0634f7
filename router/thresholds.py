"""What calibration chooses and the router keeps to."""

from dataclasses import dataclass

__all__ = ("Thresholds",)


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The student answers where score >= hard and confidence >= confident.

    With probability at least 1 - `delta` over the `n` rows they were chosen on, the system agrees on at
    least `agreement_target` of like requests. `agreement_lower_bound` is the bound of the chosen pair,
    `student_share` its share of requests answered by the student. Not `feasible`: no pair was shown to keep
    the target for less than the teacher's price, and everything goes to the teacher.
    """

    hard: float
    confident: float
    agreement_target: float
    delta: float
    n: int
    student_share: float
    agreement_lower_bound: float
    feasible: bool
