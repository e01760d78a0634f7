"""Exploration: the share that is spent, the probability that is logged, and whom it is spent on."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.exploration import Exploration, interest

UNIT = st.floats(0, 1)


def day_and_night(rng: random.Random, i: int) -> float:
    return min(1.0, rng.betavariate(1, 6) + (0.5 if i // 5_000 % 2 else 0.0))


TRAFFIC = {
    "nothing of interest": lambda _rng, _i: 0.0,
    "all of interest": lambda _rng, _i: 1.0,
    "mixed": lambda rng, _i: rng.betavariate(1, 4),
    "either or": lambda rng, _i: float(rng.random() < 0.1),
    "by day and by night": day_and_night,
}


@pytest.mark.parametrize("share", [0.02, 0.1, 0.4])
@pytest.mark.parametrize("kind", TRAFFIC)
def test_over_many_requests_the_share_is_spent_whatever_the_traffic(kind: str, share: float):
    rng, exploration = random.Random(3), Exploration(share)
    spent = sum(exploration.probability(TRAFFIC[kind](rng, i)) for i in range(100_000)) / 100_000
    assert spent == pytest.approx(share, rel=0.05)


def test_what_is_drawn_is_what_was_logged():
    """Requests with a logged probability of about p are explored p of the time."""
    rng, exploration = random.Random(4), Exploration(0.2)
    drawn: dict[int, list[tuple[float, bool]]] = {}
    for _ in range(100_000):
        p = exploration.probability(rng.betavariate(1, 3))
        drawn.setdefault(int(p * 20), []).append((p, rng.random() < p))
    for group in drawn.values():
        expected = sum(p for p, _ in group)
        assert abs(sum(was for _, was in group) - expected) < 4 * expected**0.5 + 1
    assert len(drawn) > 5


@given(UNIT, st.lists(UNIT, max_size=50))
def test_a_probability_is_between_a_quarter_of_the_share_and_one(share: float, before: list[float]):
    exploration = Exploration(share)
    for each in before:
        assert share / 4 * 0.999 <= exploration.probability(each) <= 1.0


@given(st.lists(UNIT, max_size=20))
def test_a_share_of_one_explores_everything_and_of_nothing_nothing(before: list[float]):
    assert {Exploration(1.0).probability(each) for each in before} <= {1.0}
    assert {Exploration(0.0).probability(each) for each in before} <= {0.0}


@given(st.floats(0.01, 0.9), UNIT, UNIT)
def test_of_more_interest_is_as_likely_or_likelier(share: float, one: float, other: float):
    low, high = sorted((one, other))
    assert Exploration(share).probability(low) <= Exploration(share).probability(high)


def test_doubtful_and_new_requests_are_explored_four_times_as_often():
    assert Exploration(0.02).probability(1.0) == pytest.approx(4 * Exploration(0.02).probability(0.0))


@given(UNIT, UNIT)
def test_interest_is_full_at_the_threshold_and_for_what_is_all_new(threshold: float, novelty: float):
    assert interest(threshold, threshold, novelty) == 1.0
    assert interest(None, None, 1.0) == 1.0


def test_interest_fades_with_the_distance_and_is_none_where_nothing_is_known():
    assert interest(0.95, 0.9, 0.0) == pytest.approx(0.5)
    assert interest(0.6, 0.9, 0.2) == pytest.approx(0.2)
    assert interest(None, 0.9, None) == interest(0.5, None, None) == 0.0
