"""The request limit against a reference that keeps exact fractions."""

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import RateLimited
from gateway.limits import MAX_KEYS, RequestLimit

STEPS = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 40_000)), max_size=150)


def allowed(limit: RequestLimit, key: str, now: float) -> bool:
    try:
        limit.take(key, now)
    except RateLimited:
        return False
    return True


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 30), STEPS)
def test_the_limit_is_a_bucket_that_fills_evenly(per_minute: int, steps: list[tuple[str, int]]):
    limit, left, last, now = RequestLimit(per_minute), {}, {}, 0
    for key, wait_ms in steps:
        now += wait_ms
        filled = Fraction(per_minute * (now - last.get(key, now)), 60_000)
        full = min(Fraction(per_minute), left.get(key, Fraction(per_minute)) + filled)
        taken = allowed(limit, key, now / 1000)
        if abs(full - 1) > Fraction(1, 10**6):  # else a rounding error may decide
            assert taken == (full >= 1)
        left[key], last[key] = full - taken, now


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 100_000), st.floats(0, 1e6), st.floats(0, 0.9))
def test_who_waits_as_told_is_let_in(per_minute: int, start: float, used: float):
    limit = RequestLimit(per_minute)
    count = min(per_minute, 200)
    limit._buckets["k"] = (count - math.floor(count * used) + used, start)
    with pytest.raises(RateLimited) as refused:
        for _ in range(count + 2):
            limit.take("k", start)
    wait = int(refused.value.headers["retry-after"])
    assert wait >= 1
    assert wait <= 60 / per_minute + 1
    assert allowed(limit, "k", start + wait + 1e-6)


def test_the_headers_tell_what_is_left():
    limit = RequestLimit(60)
    assert limit.take("k", 100.0) == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1.000s",
    }


def test_no_limit_sets_none():
    assert all(RequestLimit(0).take("k") == {} for _ in range(1000))


def test_the_memory_of_keys_is_bounded_and_the_busy_ones_are_kept():
    limit = RequestLimit(10)
    for number in range(MAX_KEYS + 500):
        limit.take("busy", float(number) * 1e-6 * 0)
        limit._buckets["busy"] = (5.0, 0.0)
        limit.take(f"key{number}", 0.0)
    assert len(limit._buckets) == MAX_KEYS
    assert "busy" in limit._buckets
    assert "key0" not in limit._buckets
