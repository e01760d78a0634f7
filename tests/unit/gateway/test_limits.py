"""Limits per minute against two references: a bucket of exact fractions, and the GCRA of the textbook."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import RateLimited
from gateway.limits import MAX_KEYS, MINUTE_NS, RateLimit

S = 1_000_000_000
STEPS = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 40 * S), st.integers(1, 12)), max_size=150)


def allowed(limit: RateLimit, key: str, per_minute: int, now: int, amount: int = 1) -> bool:
    try:
        limit.take(key, per_minute, amount, now)
    except RateLimited:
        return False
    return True


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 30), STEPS)
def test_the_limit_is_a_bucket_that_fills_evenly(per_minute: int, steps: list[tuple[str, int, int]]):
    limit, left, last, now = RateLimit("tokens"), {}, {}, 0
    for key, wait, amount in steps:
        now += wait
        filled = Fraction(per_minute * (now - last.get(key, now)), MINUTE_NS)
        full = min(Fraction(per_minute), left.get(key, Fraction(per_minute)) + filled)
        taken = allowed(limit, key, per_minute, now, amount)
        assert taken == (full >= amount)
        left[key], last[key] = full - (amount if taken else 0), now


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 30), STEPS)
def test_the_limit_is_the_generic_cell_rate_algorithm(per_minute: int, steps: list[tuple[str, int, int]]):
    limit, arrival, now = RateLimit("requests"), {}, 0
    each = Fraction(MINUTE_NS, per_minute)
    for key, wait, _ in steps:
        now += wait
        due = max(arrival.get(key, Fraction(now)), Fraction(now))
        conforms = due + each - now <= MINUTE_NS
        assert allowed(limit, key, per_minute, now) == conforms
        if conforms:
            arrival[key] = due + each


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 100_000), st.integers(0, 10**15), st.integers(1, 50))
def test_who_waits_as_told_is_let_in_and_who_comes_a_second_sooner_is_not(per_minute: int, start: int, amount: int):
    limit, amount = RateLimit("tokens"), min(amount, per_minute)
    limit.take("k", per_minute, per_minute, start)
    with pytest.raises(RateLimited) as refused:
        limit.take("k", per_minute, amount, start)
    wait = int(refused.value.headers["retry-after"])
    assert wait >= 1
    assert not allowed(limit, "k", per_minute, start + (wait - 1) * S, amount)
    assert allowed(limit, "k", per_minute, start + wait * S, amount)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 1000), st.lists(st.tuples(st.integers(0, S), st.integers(1, 50), st.integers(0, 200)), max_size=30)
)
def test_what_was_estimated_too_low_is_owed_and_too_high_is_given_back(
    per_minute: int, uses: list[tuple[int, int, int]]
):
    limit, used, now = RateLimit("tokens"), Fraction(0), 0
    for wait, estimate, real in uses:
        used, now = max(Fraction(0), used - Fraction(wait * per_minute, MINUTE_NS)), now + wait
        if allowed(limit, "k", per_minute, now, estimate):
            assert used + estimate <= per_minute
            limit.correct("k", per_minute, real - estimate, now)
            used += real
        else:
            assert used + estimate > per_minute


def test_the_headers_tell_what_is_left():
    assert RateLimit("requests").take("k", 60, 1, 100 * S) == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1.000s",
    }


def test_a_debt_is_shown_as_nothing_left():
    limit = RateLimit("tokens")
    limit.take("k", 100, 10, 0)
    limit.correct("k", 100, 500, 0)
    with pytest.raises(RateLimited) as refused:
        limit.take("k", 100, 1, 0)
    assert refused.value.headers["x-ratelimit-remaining-tokens"] == "0"
    assert refused.value.headers["retry-after"] == str(-(-(510 + 1 - 100) * 60 // 100))


def test_what_never_fits_is_refused_without_a_time_to_try_again():
    with pytest.raises(RateLimited, match="too large") as refused:
        RateLimit("tokens").take("k", 100, 101, 0)
    assert "retry-after" not in refused.value.headers


def test_a_limit_that_is_changed_holds_at_once():
    limit = RateLimit("requests")
    assert sum(allowed(limit, "k", 5, 0) for _ in range(10)) == 5
    assert sum(allowed(limit, "k", 8, 0) for _ in range(10)) == 3
    assert not allowed(limit, "k", 2, 0)


def test_the_memory_of_keys_is_bounded_and_the_busy_ones_are_kept():
    limit = RateLimit("requests")
    assert allowed(limit, "busy", 1, 0)
    for number in range(MAX_KEYS + 500):
        assert not allowed(limit, "busy", 1, 0)
        limit.take(f"key{number}", 1, 1, 0)
    assert len(limit._used) == MAX_KEYS
    assert allowed(limit, "key0", 1, 0)
