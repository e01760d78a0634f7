"""What the student's log-probabilities say."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.signals import SIGNALS, TokenLogprob, confidence_signals

ANY_FLOAT = st.floats(allow_nan=True, allow_infinity=True)
TOKENS = st.lists(st.builds(TokenLogprob, ANY_FLOAT, st.lists(ANY_FLOAT, max_size=6).map(tuple)), max_size=20)


def named(tokens: list[TokenLogprob], cut_off: bool = False) -> dict[str, float]:
    return dict(zip(SIGNALS, confidence_signals(tokens, cut_off).tolist(), strict=True))


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


def test_quantiles_are_values_of_the_answer_and_low_tokens_are_counted():
    tokens = [TokenLogprob(-0.1 * n, ()) for n in range(21)]
    signals = named(tokens)
    assert signals["q10_logprob"] == pytest.approx(-1.8)
    assert signals["q50_logprob"] == pytest.approx(-1.0)
    assert signals["low_share"] == pytest.approx(14 / 21)  # from -0.7 down


@pytest.mark.parametrize("cut_off", [False, True])
def test_an_answer_that_ended_at_its_limit_is_marked(cut_off: bool):
    assert named([TokenLogprob(-0.1, ())], cut_off)["cut_off"] == cut_off


@given(st.lists(st.floats(-20, 0), min_size=1, max_size=30), st.integers(2, 5))
def test_but_for_its_length_an_answer_said_several_times_over_looks_the_same(logprobs: list[float], times: int):
    """No signal is a sum, so that a long answer is not doubted for its length."""
    once, again = named(tokens := [TokenLogprob(p, (p, -25.0)) for p in logprobs]), named(tokens * times)
    alike = set(SIGNALS) - {"log_length", "lowest_window", "q10_logprob", "q50_logprob"}
    assert {name: once[name] for name in alike} == pytest.approx({name: again[name] for name in alike}, abs=1e-9)
