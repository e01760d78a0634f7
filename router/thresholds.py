"""What calibration chooses and the router keeps to, and what a person may set in its place."""

from dataclasses import dataclass, replace
from typing import Final

from ledger.set_thresholds import Bars

__all__ = ("NEVER", "Thresholds", "bars_of", "in_force", "keeps_guarantee")

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


def bars_of(thresholds: Thresholds) -> Bars:
    """The four that requests are held against; nobody passes ones that are not feasible."""
    if not thresholds.feasible:
        return Bars(hard=NEVER, confident=NEVER, confident_end=NEVER, sure=NEVER)
    return Bars(
        hard=thresholds.hard,
        confident=thresholds.confident,
        confident_end=thresholds.confident_end,
        sure=thresholds.sure,
    )


def keeps_guarantee(own: Thresholds, bars: Bars) -> bool:
    """Whether what was shown of a release's own thresholds holds for these too, without new data.

    It does where no bar is lower: then every answer that the student gives it would give under its own as well, so
    that no request can disagree that did not before. And where the teacher answers everything.
    """
    if bars.hard > 1.0 or min(bars.confident, bars.confident_end, bars.sure) > 1.0:
        return True
    return own.feasible and (
        bars.hard >= own.hard
        and bars.confident >= own.confident
        and bars.confident_end >= own.confident_end
        and bars.sure >= own.sure
    )


def in_force(own: Thresholds, bars: Bars | None) -> Thresholds:
    """What a release decides by once a person has set these; its own where none has.

    Shares stay those of its own; the lower bound is 0 where nothing is promised any more.
    """
    if bars is None:
        return own
    return replace(
        own,
        hard=bars.hard,
        confident=bars.confident,
        confident_end=bars.confident_end,
        sure=bars.sure,
        agreement_lower_bound=own.agreement_lower_bound if keeps_guarantee(own, bars) else 0.0,
        feasible=True,
    )
