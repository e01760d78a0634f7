"""What the student's log-probabilities say."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.signals import SIGNALS, TokenLogprob, confidence_signals

ANY_FLOAT = st.floats(allow_nan=True, allow_infinity=True)
TOKENS = st.lists(st.builds(TokenLogprob, ANY_FLOAT, st.lists(ANY_FLOAT, max_size=6).map(tuple)), max_size=20)


def named(tokens: list[TokenLogprob]) -> dict[str, float]:
    return dict(zip(SIGNALS, confidence_signals(tokens).tolist(), strict=True))


@given(TOKENS)
def test_signals_are_finite_for_any_logprobs(tokens: list[TokenLogprob]):
    vector = confidence_signals(tokens)
    assert vector.shape == (len(SIGNALS),)
    assert np.isfinite(vector).all()


def test_signals_of_a_hand_worked_answer():
    half, tenth = math.log(0.5), math.log(0.1)
    signals = named([TokenLogprob(half, (half, math.log(0.25))), TokenLogprob(tenth, (math.log(0.6), tenth))])
    assert signals["mean_logprob"] == pytest.approx((half + tenth) / 2)
    assert signals["min_logprob"] == pytest.approx(tenth)
    assert signals["first_logprob"] == pytest.approx(half)
    assert signals["mean_margin"] == pytest.approx((0.25 + 0.5) / 2)
    assert signals["min_margin"] == pytest.approx(0.25)
    # 0.5, 0.25 and a rest of 0.25: one and a half bits.
    assert signals["max_entropy"] == pytest.approx(1.5 * math.log(2))
    assert signals["lowest_window"] == pytest.approx((half + tenth) / 2)
    assert signals["log_length"] == pytest.approx(math.log(3))


def test_the_lowest_window_is_three_tokens_long():
    tokens = [TokenLogprob(value, ()) for value in (-1.0, -3.0, -5.0, -1.0, -0.0)]
    assert named(tokens)["lowest_window"] == pytest.approx(-3.0)


def test_a_single_listed_alternative_leaves_the_rest_of_the_mass_as_second():
    assert named([TokenLogprob(math.log(0.9), (math.log(0.9),))])["min_margin"] == pytest.approx(0.8)
    assert named([TokenLogprob(math.log(0.9), ())])["min_margin"] == pytest.approx(0.8)


def test_no_tokens_give_zeros():
    assert not confidence_signals([]).any()
