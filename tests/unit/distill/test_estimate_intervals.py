"""Intervals of shares: they hold the share as often as they say, also where conversations are alike."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.estimate.resampling import DRAWS, Draws, drawn_days, ends_of, share_ends

WORLDS = 200


@pytest.mark.parametrize(("share", "turns"), [(0.3, 1), (0.8, 1), (0.6, 5)])
def test_an_interval_holds_the_true_share_in_most_worlds(share, turns):
    """With several turns a conversation is moved as a whole, so that its rows say what one row says."""
    chance, held = np.random.default_rng(7), 0
    for _ in range(WORLDS):
        moved = np.repeat(chance.random(150) < share, turns).astype(float)[np.newaxis]
        low, high = ends_of(Draws(np.repeat(np.arange(150), turns).tolist()).mean(moved))
        held += low <= share <= high
    # 190 of 200 are expected; 180 is three standard deviations below
    assert held >= 180


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.booleans(), min_size=1, max_size=60),
    st.integers(1, 5),
    st.integers(1, 20),
)
def test_an_interval_is_one_of_shares_and_says_something_where_all_are_alike(moved, runs, conversations):
    values = np.tile(np.array(moved, dtype=float), (runs, 1))
    draws = Draws([at % conversations for at in range(len(moved))])
    low, high = share_ends(values, draws)
    assert 0 <= low <= high <= 1
    assert low <= values.mean() + 1e-6
    assert high >= values.mean() - 1e-6
    if all(moved) or not any(moved):
        assert high - low > 0.02


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0.1, 100), min_size=2, max_size=30))
def test_a_weighted_share_stays_a_share(weights):
    values = (np.arange(len(weights)) % 2).astype(float)[np.newaxis]
    drawn = Draws(list(range(len(weights)))).mean(values, np.array(weights))
    assert drawn.shape == (DRAWS,)
    assert ((drawn >= 0) & (drawn <= 1 + 1e-6)).all()


def test_runs_that_differ_widen_the_interval():
    one = np.zeros((1, 200))
    one[0, :100] = 1
    two = np.vstack((one, np.ones((1, 200))))
    draws = Draws(list(range(200)))
    assert ends_of(draws.mean(two))[1] > ends_of(draws.mean(one))[1] + 0.2


def test_days_are_drawn_whole():
    drawn = drawn_days(np.array([[1.0, 10.0], [3.0, 30.0]]))
    assert np.allclose(drawn[:, 1], 10 * drawn[:, 0])
