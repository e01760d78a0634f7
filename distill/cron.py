"""Times by the five fields of a crontab (minute, hour, day, month, weekday), in UTC: ``0 3 * * mon-fri``."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final

__all__ = ("FIELDS", "Cron", "parse_cron")

LONGEST: Final = 366 * 9
"""Days between two of the rarest, the 29 February around a year like 2100."""
MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
WEEKDAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun")
FIELDS: Final[tuple[tuple[str, int, int, Sequence[str]], ...]] = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day", 1, 31, ()),
    ("month", 1, 12, MONTHS),
    ("weekday", 0, 7, WEEKDAYS),
)
"""Each with its least, its most, and the names of its values from the least on."""
PART: Final = re.compile(r"(\*|(\w+)(?:-(\w+))?)(?:/(\d+))?")


@dataclass(frozen=True, slots=True)
class Cron:
    """Every minute whose parts are all in their sets; ``weekdays`` from Monday, 0.

    Where both kinds of days are named, either may fit (``either``), as crontabs have it.
    """

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    either: bool

    def due_at(self, last: int | None, since: int) -> int:
        """When the next job is due (ms): after the ``last`` one began, or, without one, after ``since``."""
        begin = datetime.fromtimestamp((since if last is None else last) / 1000, UTC)
        for n in range(LONGEST):
            day = begin.date() + timedelta(days=n)
            if not self._is_on(day):
                continue
            after = (begin.hour, begin.minute) if n == 0 else (-1, 0)
            times = ((hour, minute) for hour in sorted(self.hours) for minute in sorted(self.minutes))
            found = next((time for time in times if time > after), None)
            if found is not None:
                return round(datetime(day.year, day.month, day.day, *found, tzinfo=UTC).timestamp() * 1000)
        raise ValueError("there is no such day")

    def _is_on(self, day: date) -> bool:
        fits = (day.day in self.days, day.weekday() in self.weekdays)
        return day.month in self.months and (any(fits) if self.either else all(fits))


def parse_cron(text: str) -> Cron:
    """Raises `ValueError` for a text that is none, or names a day that never comes."""
    words = text.split()
    if len(words) != len(FIELDS):
        raise ValueError(f"{text!r} has not five fields: minute, hour, day, month, weekday")
    minutes, hours, days, months, weekdays = (
        _values(word, *field) for word, field in zip(words, FIELDS, strict=True)
    )
    from_monday = frozenset((day - 1) % 7 for day in weekdays)
    either = not (words[2].startswith("*") or words[4].startswith("*"))
    cron = Cron(minutes, hours, days, months, from_monday, either)
    try:
        cron.due_at(None, 0)
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}") from error
    return cron


def _values(word: str, name: str, low: int, high: int, names: Sequence[str]) -> frozenset[int]:
    found: set[int] = set()
    for part in word.lower().split(","):
        matched = PART.fullmatch(part)
        if matched is None:
            raise ValueError(f"{word!r} is no {name} of a crontab")
        whole, begin, end, step = matched.groups()
        first = low if whole == "*" else _number(begin, low, names)
        # the second sunday of the names: sat-sun is a range
        last = high if whole == "*" else _number(end, high, names, -1) if end else first
        if not low <= first <= last <= high or step == "0" or (step and whole == begin):
            raise ValueError(f"{word!r} is no {name} of a crontab: from {low} to {high}")
        found.update(range(first, last + 1, int(step or 1)))
    return frozenset(found)


def _number(text: str, at: int, names: Sequence[str], way: int = 1) -> int:
    """A field's number, or that of a name: ``at`` is the number of the first name, or of the last one backwards."""
    if text in names:
        return at + way * names[::way].index(text)
    return int(text) if text.isascii() and text.isdecimal() else -1
