"""The hours that student servers ran are summed by hour and release, whoever tells them."""

from ledger.store import now_ms
from ledger.student_hours import add_seconds, seconds_by_hour

HOUR_MS = 3_600_000


def test_seconds_that_are_told_are_added_up_in_the_hour_that_it_is(store):
    before = now_ms() // HOUR_MS * HOUR_MS
    for told in ({"r1": 30.0, "r2": 12.5}, {"r1": 30.25}, {}):
        add_seconds(store, told)
    found = seconds_by_hour(store)
    assert sum(found.values()) == 72.75
    assert set(found) <= {before, before + HOUR_MS}
    assert seconds_by_hour(store, before + 2 * HOUR_MS) == {}
