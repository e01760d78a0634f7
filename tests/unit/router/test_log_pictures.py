"""What is drawn of a log: bins that add up to the calibration error, intervals that hold, whole histograms."""

from dataclasses import replace

import numpy as np
import pytest

from ledger.observed import Observed
from router.estimators import calibration_error
from router.log_pictures import STEPS, calibration_bins, spread
from tests.unit.router.logs import logged, traffic

LOGS, ROWS = 300, 2_000


@pytest.fixture(scope="module")
def log() -> Observed:
    rng = np.random.default_rng(4)
    return logged(rng, traffic(rng, 5_000))


@pytest.mark.parametrize("of", ["score", "confidence"])
def test_the_bins_mean_gap_is_the_calibration_error_and_their_labels_are_all(log, of):
    bins = calibration_bins(log, of)
    assert len(bins) == 10
    assert sum(each.share * abs(each.observed - each.predicted) for each in bins) == pytest.approx(
        calibration_error(log, of)
    )
    assert sum(each.labels for each in bins) == log.labelled.sum()
    assert sum(each.share for each in bins) == pytest.approx(1)
    predicted = [each.predicted for each in bins]
    assert predicted == sorted(predicted)
    assert all(each.low <= each.observed <= each.high for each in bins)


def test_without_labels_there_are_no_bins(log):
    nothing = np.full(len(log), np.nan)
    assert calibration_bins(replace(log, agreement=nothing), "score") == []
    assert calibration_bins(replace(log, confidence=nothing), "confidence") == []


def test_a_bin_without_a_disagreement_does_not_claim_that_there_are_none(log):
    perfect = replace(log, agreement=np.where(log.labelled, 1.0, np.nan))
    for each in calibration_bins(perfect, "score"):
        assert (each.observed, each.high) == (pytest.approx(1), pytest.approx(1))
        assert each.low < 1


def test_the_intervals_hold_the_truth_of_their_scores():
    rng = np.random.default_rng(6)
    population = traffic(rng, 1_000_000)
    steps = np.linspace(0, 1, 201)
    truth = np.histogram(population.score, steps, weights=population.agreed.astype(float))[0]
    truth = truth / np.maximum(np.histogram(population.score, steps)[0], 1)
    held = [
        each.low <= truth[min(int(each.predicted * 200), 199)] <= each.high
        for _ in range(LOGS)
        for each in calibration_bins(logged(rng, traffic(rng, ROWS)), "score")
    ]
    assert np.mean(held) >= 0.93


def test_the_histograms_count_every_request_and_every_label_once(log):
    found = spread(log)
    for each in (found.answered, found.abandoned, found.kept, found.agreed, found.differed):
        assert len(each) == STEPS
    assert sum(map(sum, (found.answered, found.abandoned, found.kept))) == len(log)
    assert sum(map(sum, (found.agreed, found.differed))) == log.labelled.sum()
    assert sum(found.answered) == log.student.sum()
    assert sum(found.answered[: STEPS // 2]) == 0
