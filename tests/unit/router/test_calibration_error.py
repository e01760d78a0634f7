"""Calibration error."""

import numpy as np
import pytest

from router.calibration_error import calibration_error


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
