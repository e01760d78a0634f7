"""Calibration error and the curve of quality against cost."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.calibration import Prices
from router.evaluate import calibration_error, cost_quality_curve
from tests.unit.router.worlds import population


def test_calibration_error_of_a_hand_worked_case():
    p, y = np.array([0.9, 0.9, 0.1, 1.0]), np.array([True, False, False, True])
    assert calibration_error(p, y, bins=5) == pytest.approx((abs(2 - 2.8) + 0.1) / 4)
    assert calibration_error(np.zeros(0), np.zeros(0, dtype=bool)) == 0.0


def test_calibrated_probabilities_have_a_small_error_and_overconfident_ones_a_large_one():
    rng = np.random.default_rng(0)
    p = rng.random(20_000)
    y = rng.random(20_000) < p
    assert calibration_error(p, y) < 0.02
    assert calibration_error(np.round(p), y) > 0.2


@given(st.integers(0, 1000), st.integers(0, 200))
def test_the_curve_runs_from_the_teacher_alone_to_the_student_alone(seed: int, size: int):
    rows = population(seed, size)
    share, agreement, cost = cost_quality_curve(rows.confidences, rows.agreed, Prices(1.0, 20.0))
    assert share.shape == agreement.shape == cost.shape
    assert (share[0], agreement[0], cost[0]) == (1.0, 1.0, 21.0)
    assert (np.diff(share) < 0).all()
    assert (np.diff(agreement) <= 0).all()
    assert np.allclose(cost, 1.0 + 20.0 * share)
    if size:
        assert share[-1] == pytest.approx(0.0)
        assert agreement[-1] == pytest.approx(rows.agreed.mean())


def test_equal_confidences_share_one_point_of_the_curve():
    share, agreement, _ = cost_quality_curve(np.full(4, 0.5), np.array([True, True, True, False]), Prices(1, 2))
    assert share.tolist() == [1.0, 0.0]
    assert agreement.tolist() == [1.0, 0.75]
