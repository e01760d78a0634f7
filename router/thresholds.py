"""What calibration chooses and the router keeps to."""

from dataclasses import dataclass
from typing import Final

__all__ = ("NEVER", "Thresholds")

NEVER: Final = 2.0
"""A bar above every probability: nothing passes it."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Below `hard` the teacher answers; from `sure` on the student, at once; between them the student, where its
    confidence is at least `confident` by the first tokens of a stream, or `confident_end` by a whole answer.

    With probability at least 1 - `delta` over the `n` rows they were chosen on, the system agrees on at least
    `agreement_target` of like requests, streamed or not. `agreement_lower_bound` is the bound of the chosen
    thresholds, the lesser one of both ways; `student_share` their share of requests answered by the student, the
    mean of both; `sure_share` the share of sure requests. Not `feasible`: no thresholds were shown to keep the
    target for less than the teacher's price, and everything goes to the teacher.
    """

    hard: float
    confident: float
    agreement_target: float
    delta: float
    n: int
    student_share: float
    agreement_lower_bound: float
    feasible: bool
    sure: float = NEVER
    confident_end: float = NEVER
    sure_share: float = 0.0
