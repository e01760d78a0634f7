"""How much rows count, and which are taken of too many."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.data.settings import DataSettings
from distill.data.weights import MOST, effective_size, priority_sample, weights_of
from distill.settings import DistillSettings
from tests.unit.distill.data.rows import Split, row, split

CHANCES = st.lists(st.floats(1e-4, 1), min_size=1, max_size=50).map(np.array)


def settings(max_examples: int = 1_000, **data: Any) -> DistillSettings:
    kept = DataSettings(**{"near_duplicates": 1, "min_keys_per_trigger": 1} | data)
    return DistillSettings(holdout_share=0, max_examples=max_examples, data=kept)


def old_share(chosen: Split, until: int) -> tuple[int, int]:
    old = sum(each.created_at <= until for each in chosen.train.values())
    return old, len(chosen.train) - old


@given(CHANCES)
def test_weights_have_mean_one_and_a_smaller_chance_never_weighs_less(chances: np.ndarray):
    weights = weights_of(chances)
    assert weights.mean() == pytest.approx(1)
    order = np.argsort(chances)
    assert (np.diff(weights[order]) <= 1e-9).all()
    assert 1 <= effective_size(weights) <= len(weights) + 1e-9


def test_equal_chances_give_equal_weights_and_all_rows_count():
    weights = weights_of(np.full(20, 0.03))
    assert weights == pytest.approx(np.ones(20))
    assert effective_size(weights) == pytest.approx(20)


def test_a_row_of_a_tiny_chance_is_cut():
    weights = weights_of(np.array([*[1.0] * 999, 1e-6]))
    assert weights[-1] == pytest.approx(MOST / (MOST + (999 / (999 + 1e6) * 1000)) * 1000, rel=1e-3)


def test_weighted_rows_have_the_mean_of_the_traffic_and_escalated_ones_alone_have_not():
    """Of the requests 30% are hard and always logged; the easy ones are explored, and seldom."""
    rng, means, plain = np.random.default_rng(1), [], []
    for _ in range(200):
        hard = rng.random(2_000) < 0.3
        loss = np.where(hard, 2.0, 0.5)
        chance = np.where(hard, 1.0, 0.2)
        logged = rng.random(2_000) < chance
        weights = weights_of(chance[logged])
        means.append((weights * loss[logged]).mean())
        plain.append(loss[logged].mean())
    assert np.mean(means) == pytest.approx(0.3 * 2.0 + 0.7 * 0.5, abs=0.01)
    assert np.mean(plain) > 1.3


def test_an_explored_row_of_a_build_counts_as_its_propensity_says():
    rows = [row(f"hard {n}", reason="hard") for n in range(10)]
    rows += [row(f"easy {n}", reason="explore", propensity=0.25) for n in range(10)]
    weights = split(rows, settings()).weights
    assert [weights[each.id] / weights[rows[0].id] for each in rows[10:]] == pytest.approx([4.0] * 10)


def test_a_priority_sample_estimates_sums_without_bias():
    rng = np.random.default_rng(2)
    interest, values = rng.random(300), rng.random(300)
    estimates = []
    for _ in range(2_000):
        taken, chances = priority_sample(interest, 1 - rng.random(300), 60)
        assert len(taken) == 60
        estimates.append((values[taken] / chances).sum())
    assert np.mean(estimates) == pytest.approx(values.sum(), abs=4 * np.std(estimates) / np.sqrt(2_000))


def test_rows_of_interest_are_taken_more_often_and_weigh_less_where_there_are_too_many():
    rows = [row(f"easy {n}", reason="explore", confidence=1.0, agreement=1.0) for n in range(500)]
    rows += [row(f"wrong {n}", reason="explore", confidence=1.0, agreement=0.0) for n in range(500)]
    chosen = split(rows, settings(200, selection="informative"))
    wrong = [each for each, taken in chosen.train.items() if taken.agreement == 0]
    easy = [each for each, taken in chosen.train.items() if taken.agreement == 1]
    assert len(chosen.train) == 200
    assert len(wrong) > 2 * len(easy)
    assert max(chosen.weights[each] for each in wrong) < min(chosen.weights[each] for each in easy)
    assert chosen.dropped == {"beyond_max_examples": 800}
    again = split(rows, settings(200, selection="informative"))
    assert list(again.train) == list(chosen.train), "the same ledger gives the same dataset"


@given(st.integers(0, 40), st.integers(0, 40), st.floats(0, 1), st.integers(1, 60))
def test_no_more_than_the_replay_share_is_older_than_the_last_dataset(old: int, new: int, share: float, most: int):
    rows = [row(f"old {n}", created_at=n) for n in range(old)] + [
        row(f"n {n}", created_at=99 + n) for n in range(new)
    ]
    chosen = split(rows, settings(most, replay_share=share), last_dataset_at=50)
    was, now = old_share(chosen, 50)
    assert was <= share * (was + now) + 1e-9
    assert was + now <= most
    assert [each.created_at for each in chosen.train.values()] == sorted(e.created_at for e in chosen.train.values())
    assert was + now + sum(chosen.dropped.values()) == old + new


def test_the_replay_share_is_filled_by_the_newest_of_the_old_rows():
    rows = [row(f"old {n}", created_at=n) for n in range(40)] + [row(f"n {n}", created_at=99 + n) for n in range(60)]
    chosen = split(rows, settings(40, replay_share=0.25), last_dataset_at=50)
    assert old_share(chosen, 50) == (10, 30)
    assert min(each.created_at for each in chosen.train.values()) == 30
    without = split(rows, settings(40, replay_share=0.25))
    assert old_share(without, 50) == (0, 40), "before the first dataset nothing is replayed"


@pytest.mark.parametrize("changes", [{"since": "soon"}, {"until": "2d3"}, {"phone_region": "de"}])
def test_settings_that_mean_nothing_are_refused(changes: dict[str, str]):
    with pytest.raises(ValueError, match=next(iter(changes.values()))):
        DataSettings(**changes)


def test_every_row_is_taken_or_counted_as_dropped():
    rows = [row(f"q {n % 30}", "" if n % 7 == 0 else "lost", key_id=f"k{n % 3}") for n in range(100)]
    chosen = split(
        rows, DistillSettings(holdout_share=0.3, max_examples=9, max_share_per_key=0.4, data=settings().data)
    )
    kept = len(list(itertools.chain(chosen.train, chosen.held_out)))
    assert kept + sum(chosen.dropped.values()) == len(rows)
