"""Filters of requests: the times people write, and filters over filters, which only ever take less."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.request_filters import DatedFilters, TrainableFilters, moment_ms

DAY = 86_400_000
NOW = 10 * DAY
LISTS = st.lists(st.sampled_from("abc"), max_size=3, unique=True).map(tuple)
TIMES = st.none() | st.sampled_from(["1970-01-02", "1970-01-09T12:00", "3d", "36h"])
FILTERS = st.builds(DatedFilters, tags=LISTS, since=TIMES, until=TIMES, min_feedback=st.none() | st.floats(0, 1))


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        pytest.param("1970-01-02", DAY, id="date"),
        pytest.param("1970-01-01T00:00:01+00:00", 1_000, id="time"),
        pytest.param("1970-01-01T02:00:00+02:00", 0, id="zone"),
        pytest.param("2d", NOW - 2 * DAY, id="days ago"),
        pytest.param("12h", NOW - 12 * 3_600_000, id="hours ago"),
        pytest.param(None, None, id="unset"),
    ],
)
def test_a_moment_is_a_date_a_time_or_some_time_ago(text: str | None, ms: int | None):
    assert moment_ms(text, NOW) == ms


def test_filters_of_a_time_are_the_ledgers():
    asked = DatedFilters(since="1d", tags=("a",), finish_reasons=("stop",), min_feedback=0.5)
    assert asked.filters(NOW) == TrainableFilters(
        since=NOW - DAY, until=NOW + 1, tags=("a",), finish_reasons=("stop",), min_feedback=0.5
    )


@given(FILTERS, FILTERS)
def test_filters_over_filters_never_take_more(own: DatedFilters, asked: DatedFilters):
    if own.tags and not set(asked.tags) <= set(own.tags):
        with pytest.raises(ValueError, match=r"tags: '.' is not among .*, which distill.data.tags takes"):
            own.narrowed(asked, NOW)
        return
    both = DatedFilters(**(own.given | own.narrowed(asked, NOW))).filters(NOW)
    for side in (own.filters(NOW), asked.filters(NOW)):
        assert both.since >= side.since
        assert (both.until or 0) <= (side.until or 0)
        assert (both.min_feedback or 0) >= (side.min_feedback or 0)
        assert not side.tags or set(both.tags) <= set(side.tags)
    assert bool(both.tags) == bool(own.tags or asked.tags)
