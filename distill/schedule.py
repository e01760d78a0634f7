"""Times at which jobs may or should start, in UTC: ``every 7d``, ``daily at 03:00``, ``sat,sun 22:00-06:00``.

A schedule may also be the five fields of a crontab (`distill.cron`).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from distill.cron import FIELDS, Cron, parse_cron

__all__ = ("Schedule", "Window", "opens_at", "parse_schedule", "parse_window")

MINUTE_MS: Final = 60_000
DAY: Final = 1_440
"""Minutes."""
WEEK: Final = 7 * DAY
DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
EPOCH_WEEKDAY: Final = 3
"""1970-01-01 was a Thursday."""
EVERY: Final = re.compile(r"every (\d{1,4})([hd])")
SLOT: Final = re.compile(r"(?:daily|weekly on (mon|tue|wed|thu|fri|sat|sun)) at (\d\d):(\d\d)")
WINDOW: Final = re.compile(r"(?:([a-z,-]+) )?(\d\d):(\d\d)-(\d\d):(\d\d)")


@dataclass(frozen=True, slots=True)
class Schedule:
    """So many minutes after the last job, or the next slot after it; minutes from Monday 00:00 or from midnight."""

    period: int
    offset: int | None = None

    def due_at(self, last: int | None, since: int) -> int:
        """When the next job is due (ms): after the ``last`` one began, or, without one, from ``since`` on."""
        if self.offset is None:
            return since if last is None else last + self.period * MINUTE_MS
        minute = (since if last is None else last) // MINUTE_MS + 1
        shift = EPOCH_WEEKDAY * DAY - self.offset
        # up to the next minute whose place in the period is the slot's
        return (minute + -(minute + shift) % self.period) * MINUTE_MS


def parse_schedule(text: str) -> Schedule | Cron:
    """Raises `ValueError` for a text that is no schedule."""
    if len(text.split()) == len(FIELDS) and not text.startswith("weekly"):
        return parse_cron(text)
    every = EVERY.fullmatch(text)
    if every is not None and int(every[1]):
        return Schedule(int(every[1]) * (60 if every[2] == "h" else DAY))
    slot = SLOT.fullmatch(text)
    if slot is None:
        raise ValueError(
            f"{text!r} is no schedule: write `every 7d`, `daily at 03:00`, `weekly on sun at 03:00`, or as in a "
            "crontab `0 3 * * mon-fri`"
        )
    minute = _minute(slot[2], slot[3], DAY - 1)
    return Schedule(DAY, minute) if slot[1] is None else Schedule(WEEK, DAYS.index(slot[1]) * DAY + minute)


@dataclass(frozen=True, slots=True)
class Window:
    """From one minute of a day to another, on the days it begins on; it may go past midnight."""

    days: frozenset[int]
    start: int
    end: int

    def is_open(self, now: int) -> bool:
        """Whether a time (ms) lies in it."""
        days, minute = divmod(now // MINUTE_MS, DAY)
        today = (days + EPOCH_WEEKDAY) % 7
        if self.start < self.end:
            return today in self.days and self.start <= minute < self.end
        began_yesterday = (today - 1) % 7 in self.days and minute < self.end
        return began_yesterday or (today in self.days and minute >= self.start)


def parse_window(text: str) -> Window:
    """Raises `ValueError` for a text that is no window."""
    found = WINDOW.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no window: write `22:00-06:00` or `sat,sun 00:00-24:00`, in UTC")
    start, end = _minute(found[2], found[3], DAY - 1), _minute(found[4], found[5], DAY)
    if start == end:
        raise ValueError(f"{text!r} is no window: it ends when it begins")
    return Window(_days(found[1], text), start, end)


def opens_at(windows: Sequence[Window], now: int) -> int:
    """When one of them is open next (ms): now, if one is or if there are none."""
    minute = now // MINUTE_MS
    if not windows or any(window.is_open(now) for window in windows):
        return now
    return next(
        at * MINUTE_MS
        for at in range(minute, minute + WEEK + 1)
        if any(window.is_open(at * MINUTE_MS) for window in windows)
    )


def _days(text: str | None, whole: str) -> frozenset[int]:
    found: set[int] = set()
    for part in text.split(",") if text else ["mon-sun"]:
        first, dash, last = part.partition("-")
        if first not in DAYS or (last not in DAYS if dash else last):
            raise ValueError(f"{whole!r} is no window: days are {', '.join(DAYS)}")
        begin = DAYS.index(first)
        found.update((begin + i) % 7 for i in range((DAYS.index(last or first) - begin) % 7 + 1))
    return frozenset(found)


def _minute(hours: str, minutes: str, most: int) -> int:
    minute = int(hours) * 60 + int(minutes)
    if int(minutes) > 59 or minute > most:
        raise ValueError(f"{hours}:{minutes} is no time of a day")
    return minute
