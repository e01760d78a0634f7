"""Drift: how often there is a false alarm, and how soon a true one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.drift import TOLERANCE, AgreementWatch, shift, student_target
from router.reference import quantiles

WORLDS = {
    "even": lambda chance, n: chance.random(n),
    "piled up at both ends": lambda chance, n: chance.beta(0.2, 0.2, n),
    "five values": lambda chance, n: chance.integers(0, 5, n) / 4,
    "one value": lambda chance, n: np.full(n, 0.7),
}


def alarms(world, budget, times, rows=400, n=500):
    chance = np.random.default_rng(0)
    return sum(
        shift("score", quantiles(world(chance, rows).tolist()), rows, world(chance, n), budget).drifted
        for _ in range(times)
    )


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS.keys())
def test_traffic_that_is_the_same_alarms_less_often_than_the_budget_says(world):
    assert alarms(world, 0.05, 400) <= 0.05 * 400


def test_a_shift_within_the_tolerance_alarms_less_often_than_the_budget_says():
    chance, alarmed = np.random.default_rng(1), 0
    for _ in range(400):
        reference = quantiles(chance.random(400).tolist())
        # a tenth of the traffic has gone from the lower to the upper half, and no more
        values = chance.random(500) / 2 + (chance.random(500) < 0.5 + TOLERANCE) / 2
        alarmed += shift("score", reference, 400, values, 0.05).drifted
    assert alarmed <= 0.05 * 400


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS.keys())
def test_traffic_of_which_half_is_new_alarms_at_a_budget_of_one_in_a_million(world):
    chance = np.random.default_rng(2)
    found = [
        shift(
            "novelty",
            quantiles(world(chance, 400).tolist()),
            400,
            np.concatenate((world(chance, 250), np.full(250, 1.5))),
            1e-6,
        )
        for _ in range(50)
    ]
    assert all(drift.drifted for drift in found)
    assert found[0].n == 500


def test_a_shift_downwards_is_found_like_one_upwards():
    chance = np.random.default_rng(3)
    reference = quantiles(chance.random(1_000).tolist())
    up = shift("score", reference, 1_000, chance.random(1_000) ** 0.4, 1e-4)
    down = shift("score", reference, 1_000, chance.random(1_000) ** 2.5, 1e-4)
    assert (up.drifted, down.drifted) == (True, True)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.lists(st.floats(0, 1), min_size=1, max_size=60))
def test_the_distance_is_never_more_than_the_whole_one(reference, values):
    found = shift("score", quantiles(reference), len(reference), np.array(values), 0.01)
    points = np.array(sorted({*reference, *values}))
    of_now = np.searchsorted(np.sort(values), points, side="right") / len(values)
    of_then = np.searchsorted(np.sort(reference), points, side="right") / len(reference)
    assert found.statistic <= np.abs(of_now - of_then).max() + 1e-9


# agreement


def labels_until_alarm(watch, agreements, propensities=None, budget=1e-4):
    for i, agreement in enumerate(agreements):
        if watch.see(float(agreement), 1.0 if propensities is None else float(propensities[i]), budget).drifted:
            return i + 1
    return None


@pytest.mark.parametrize("agreement", [0.95, 0.97], ids=["at the target", "above the target"])
def test_false_alarms_of_agreement_are_at_least_as_many_labels_apart_as_claimed(agreement):
    """1,000 labels between false alarms are claimed; runs are cut at 5,000, which only lowers their mean."""
    chance = np.random.default_rng(0)
    runs = [
        labels_until_alarm(AgreementWatch(0.95), chance.random(5_000) < agreement, None, 1e-3) or 5_000
        for _ in range(60)
    ]
    assert np.mean(runs) >= 1_000


def test_a_fall_of_agreement_from_96_to_88_percent_is_found_within_300_labels_on_average():
    """At 10,000 labels between false alarms; the target is 95 percent."""
    chance, delays, early = np.random.default_rng(1), [], 0
    for _ in range(60):
        watch = AgreementWatch(0.95)
        early += labels_until_alarm(watch, chance.random(500) < 0.96) is not None
        delays.append(labels_until_alarm(watch, chance.random(2_000) < 0.88))
    assert early <= 3
    assert None not in delays
    assert np.mean(delays) <= 300
    assert max(delays) <= 700


def test_graded_agreement_counts_by_its_degree():
    assert labels_until_alarm(AgreementWatch(0.9), [0.5] * 100) is not None
    assert labels_until_alarm(AgreementWatch(0.5), [0.5] * 5_000) is None


def test_labels_are_weighed_so_that_agreement_is_all_requests():
    """Doubtful requests are drawn ten times as often and agree less; all requests together are at the target."""
    chance = np.random.default_rng(2)
    # a tenth of the requests is doubtful: 0.1 * 0.59 + 0.9 * 0.99 = 0.95
    is_doubtful = chance.random(6_000) < 0.1 * 10 / (0.1 * 10 + 0.9)
    agreements = chance.random(6_000) < np.where(is_doubtful, 0.59, 0.99)
    propensities = np.where(is_doubtful, 0.2, 0.02)
    assert agreements.mean() < 0.8
    assert labels_until_alarm(AgreementWatch(0.95, 0.02), agreements, propensities, 1e-5) is None
    fallen = chance.random(6_000) < np.where(is_doubtful, 0.59, 0.88)
    assert (labels_until_alarm(AgreementWatch(0.95, 0.02), fallen, propensities, 1e-5) or 6_000) < 2_000


def test_an_alarm_begins_anew():
    watch = AgreementWatch(0.95)
    first = labels_until_alarm(watch, [0.0] * 100)
    assert watch.labels == 0
    assert labels_until_alarm(watch, [0.0] * 100) == first


@given(
    target=st.floats(0.0, 1.0),
    labels=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)), max_size=50),
)
def test_no_label_makes_the_wealth_negative_or_unbounded(target, labels):
    watch = AgreementWatch(target, 0.005)
    for agreement, propensity, budget in labels:
        statistic = watch.see(agreement, propensity, budget).statistic
        assert 0 <= statistic <= 1e4


def test_a_budget_that_comes_slowly_makes_alarms_rarer():
    fast, slow = (labels_until_alarm(AgreementWatch(0.95), [1, 0, 1, 1] * 200, None, b) for b in (1e-2, 1e-6))
    assert fast is not None and slow is not None
    assert fast < slow


def test_the_students_own_target_is_what_leaves_the_system_at_its_own():
    assert student_target(0.95, 0.5) == pytest.approx(0.9)
    assert student_target(0.95, 1.0) == pytest.approx(0.95)
    assert student_target(0.95, 0.01) == 0.0
