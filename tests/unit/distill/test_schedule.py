"""When jobs are due and when they may start, against a clock that is walked through minute by minute."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from distill.schedule import DAYS, opens_at, parse_schedule, parse_window

MINUTE = 60_000
times = st.integers(0, 2**42)
minutes = st.integers(0, 1_439)


def ms(text: str) -> int:
    return round(datetime.fromisoformat(f"{text}+00:00").timestamp() * 1000)


def clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


@pytest.mark.parametrize(
    ("text", "last", "due"),
    [
        ("every 7d", "2026-11-24 15:00", "2026-12-01 15:00"),
        ("every 12h", "2026-11-24 15:00", "2026-11-25 03:00"),
        ("daily at 03:00", "2026-11-24 02:59", "2026-11-24 03:00"),
        ("daily at 03:00", "2026-11-24 03:00", "2026-11-25 03:00"),
        ("daily at 00:00", "2026-11-24 15:00", "2026-11-25 00:00"),
        ("weekly on sun at 03:00", "2026-11-24 15:00", "2026-11-29 03:00"),
        ("weekly on tue at 15:01", "2026-11-24 15:00", "2026-11-24 15:01"),
        ("weekly on mon at 00:00", "2026-11-29 23:59", "2026-11-30 00:00"),
        ("0 3 * * *", "2026-11-24 03:00", "2026-11-25 03:00"),
        ("0 3 * * mon-fri", "2026-11-27 03:00", "2026-11-30 03:00"),
        ("30 22 * * sat-sun", "2026-11-24 15:00", "2026-11-28 22:30"),
        ("30 22 * * 7", "2026-11-24 15:00", "2026-11-29 22:30"),
        ("30 22 * * 0", "2026-11-24 15:00", "2026-11-29 22:30"),
        ("*/20 8-10/2 * * *", "2026-11-24 08:40", "2026-11-24 10:00"),
        ("5,7 0 1 jan,JUL *", "2026-11-24 15:00", "2027-01-01 00:05"),
        ("0 0 13 * fri", "2026-11-24 15:00", "2026-11-27 00:00"),
        ("0 0 13 * */2", "2026-11-24 15:00", "2026-12-13 00:00"),
        ("0 0 29 2 *", "2096-03-01 00:00", "2104-02-29 00:00"),
    ],
)
def test_a_schedule_is_due_at_its_next_time_after_the_last_job(text: str, last: str, due: str):
    assert parse_schedule(text).due_at(ms(last), 0) == ms(due)


def test_without_a_job_an_interval_is_due_at_once_and_a_slot_is_waited_for():
    now = ms("2026-11-24 15:00")
    assert parse_schedule("every 7d").due_at(None, now) == now
    assert parse_schedule("daily at 16:00").due_at(None, now) == ms("2026-11-24 16:00")


@given(times, minutes, st.sampled_from([None, *DAYS]))
@example(0, 0, "mon")
def test_the_next_slot_is_the_first_such_time_of_the_calendar(last: int, minute: int, day: str | None):
    text = f"daily at {clock(minute)}" if day is None else f"weekly on {day} at {clock(minute)}"
    due = parse_schedule(text).due_at(last, 0)
    at = datetime.fromtimestamp(due / 1000, UTC)
    assert at.strftime("%H:%M:%S") == f"{clock(minute)}:00"
    assert day is None or DAYS[at.weekday()] == day
    assert last < due <= last + timedelta(days=1 if day is None else 7).total_seconds() * 1000


@given(times, st.integers(0, 23), st.sets(st.integers(0, 6), min_size=1), st.sets(st.integers(1, 12), min_size=1))
def test_a_crontab_is_due_at_the_first_minute_that_fits(last: int, hour: int, weekdays: set[int], months: set[int]):
    text = f"*/7 {hour} * {','.join(map(str, months))} {','.join(map(str, weekdays))}"
    at = datetime.fromtimestamp(last // MINUTE * MINUTE / 1000, UTC) + timedelta(minutes=1)
    while not (at.month in months and at.isoweekday() % 7 in weekdays and at.hour == hour and at.minute % 7 == 0):
        # by hours and days, where that passes over nothing
        step = 1 if at.hour == hour else 60 - at.minute
        whole_days = at.hour == at.minute == 0 and not (at.month in months and at.isoweekday() % 7 in weekdays)
        at += timedelta(minutes=1_440 if whole_days else step)
    assert parse_schedule(text).due_at(last, 0) == round(at.timestamp() * 1000)


@pytest.mark.parametrize(
    "text",
    ["60 3 * * *", "0 24 * * *", "0 3 0 * *", "0 3 32 * *", "0 3 * 13 *", "0 3 * * 8", "0 3 * * fri-tue",
     "5/2 3 * * *", "*/0 3 * * *", "0 3 * * monday", "1- 3 * * *", ",1 3 * * *",
     "-1 3 * * *", "0 3 30 2 *", "\u0661 3 * * *"],
)  # fmt: skip
def test_what_no_crontab_says_is_refused(text: str):
    with pytest.raises(ValueError, match=r"of a crontab|there is no such day"):
        parse_schedule(text)


@pytest.mark.parametrize(
    "text",
    ["", "7d", "every", "every 0d", "every 7w", "every -1d", "daily at 24:00", "daily at 3:00", "daily at 03:60",
     "weekly on sunday at 03:00", "weekly at 03:00", "Daily at 03:00", "0 3 * *", "daily at 03:00 "],
)  # fmt: skip
def test_what_is_no_schedule_is_refused_with_examples_or_a_reason(text: str):
    with pytest.raises(ValueError, match=r"is no schedule: write `every 7d`|is no time of a day"):
        parse_schedule(text)


@pytest.mark.parametrize(
    "text",
    ["", "22:00", "22:00-22:00", "25:00-03:00", "24:00-03:00", "22:00-24:01", "xyz 22:00-06:00",
     "sat, sun 00:00-24:00", "mon- 01:00-02:00", "-mon 01:00-02:00", "mon,,tue 01:00-02:00"],
)  # fmt: skip
def test_what_is_no_window_is_refused(text: str):
    with pytest.raises(ValueError, match=r"is no window|is no time of a day"):
        parse_window(text)


@given(times, minutes, st.integers(1, 1_440), st.sampled_from(["", "sat,sun ", "fri-mon ", "wed "]))
def test_a_window_is_open_from_its_beginning_to_its_end_on_its_days(now: int, start: int, length: int, days: str):
    end = (start + length) % 1_440 or 1_440
    if start == end:
        end = (end + 1) % 1_440
    named = {"": DAYS, "sat,sun ": DAYS[5:], "fri-mon ": ("fri", "sat", "sun", "mon"), "wed ": ("wed",)}[days]
    at = datetime.fromtimestamp(now / 1000, UTC)
    begun = [
        at.replace(hour=start // 60, minute=start % 60, second=0, microsecond=0) - timedelta(days=d) for d in (0, 1)
    ]
    lasts = timedelta(minutes=(end - start) % 1_440 or 1_440)
    expected = any(DAYS[b.weekday()] in named and b <= at < b + lasts for b in begun)
    window = parse_window(f"{days}{clock(start)}-{'24:00' if end == 1_440 else clock(end)}")
    assert window.is_open(now) == expected
    opens = opens_at([window], now)
    assert window.is_open(opens)
    assert (opens == now) == expected
    assert expected or not window.is_open(opens - MINUTE)


def test_no_window_at_all_is_always_open():
    assert opens_at([], 123) == 123
