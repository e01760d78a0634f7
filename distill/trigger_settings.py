"""The ``[distill.triggers]`` table of the settings."""

from typing import Final

import msgspec

from distill.schedule import parse_schedule, parse_window

__all__ = ("TRIGGER_RANGES", "TriggerSettings")

TRIGGER_RANGES: Final[dict[str, tuple[float, float]]] = {
    "new_answers": (0, 1e9),
    "escalation_rise": (0, 1),
    "min_hours_between_jobs": (0, 10_000),
    "teacher_budget_month": (0, 1e9),
    "compute_hours_month": (0, 1e6),
}
"""Where a number may lie."""


class TriggerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When jobs start by themselves, and what holds them back. No trigger is on unless it is set."""

    schedule: str | None = None
    """``every 7d`` (or ``12h``) after the last job began, ``daily at 03:00``, ``weekly on sun at 03:00``, or the five
    fields of a crontab, ``0 3 * * mon-fri``; in UTC."""
    new_answers: int = 0
    """So many answers of the teacher that may be trained on and are newer than the last dataset; 0 is never."""
    drift: bool = False
    """Drift of the live release's traffic that was noticed since the last job began."""
    escalation_rise: float | None = None
    """The share of requests that the router gave to the teacher has surely risen by more than this since the live
    release was promoted."""
    min_hours_between_jobs: float = 24.0
    """No job starts by itself sooner than this after the last one began, whoever began that."""
    teacher_budget_month: float | None = None
    """No job starts by itself in a month (UTC) in which judges and embeddings of answers have cost so much."""
    compute_hours_month: float | None = None
    """No job starts by itself in a month (UTC) in which jobs have trained for so long."""
    windows: tuple[str, ...] = ()
    """Jobs start by themselves in these hours (UTC) only: ``22:00-06:00``, ``sat,sun 00:00-24:00``. Empty: always."""

    def __post_init__(self) -> None:
        """Refuse a schedule or a window that is none, as `ValueError`."""
        if self.schedule is not None:
            _ = parse_schedule(self.schedule)
        for text in self.windows:
            _ = parse_window(text)

    @property
    def any_on(self) -> bool:
        """Whether a job may ever start by itself."""
        return bool(self.schedule or self.new_answers or self.drift or self.escalation_rise is not None)
