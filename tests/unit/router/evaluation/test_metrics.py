"""The measures of a ranking, against cases worked by hand and against what must hold of any ranking."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.evaluation.metrics import Curve, Outcomes, aiq, apgr, benefit_auc, blocks, cpt, curve
from router.evaluation.rankings import oracle_ranking


def outcomes(weak, strong, weak_cost=0.0, strong_cost=1.0) -> Outcomes:
    n = len(weak)
    return Outcomes(
        np.array(weak, dtype=float),
        np.array(strong, dtype=float),
        np.full(n, weak_cost),
        np.full(n, strong_cost),
    )


worlds = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 1), st.integers(-3, 3)), min_size=2, max_size=40
).filter(lambda rows: sum(strong - weak for weak, strong, _ in rows) > 0)


def unpacked(rows):
    weak, strong, score = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    return outcomes(weak, strong), score


def test_apgr_of_a_hand_worked_case():
    # gains 1, 0, 1, 0 in this order: PGR is 0, 1/2, 1/2, 1, 1 at shares 0, 1/4, 1/2, 3/4, 1
    gain = np.array([1.0, 0.0, 1.0, 0.0])
    area = 0.25 * ((0 + 0.5) / 2 + 0.5 + (0.5 + 1) / 2 + 1)
    assert float(apgr(blocks(np.array([4.0, 3.0, 2.0, 1.0])), gain)) == pytest.approx(area)


def test_apgr_of_ten_rows_is_the_mean_over_thresholds_in_ten_percent_steps():
    gain = np.array([1, 0, 1, -1, 0, 1, 0, 0, 1, 0], dtype=float)
    delegate = np.arange(10, 0, -1, dtype=float)
    recovered = np.concatenate(([0.0], np.cumsum(gain))) / gain.sum()
    assert float(apgr(blocks(delegate), gain)) == pytest.approx(np.trapezoid(recovered, np.linspace(0, 1, 11)))


@given(worlds)
def test_a_router_that_says_the_same_of_all_is_the_random_router(rows):
    world, _ = unpacked(rows)
    ranking = blocks(np.full(len(rows), 0.3))
    assert float(apgr(ranking, world.gain)) == pytest.approx(0.5)
    assert cpt(ranking, world.gain, 0.5) == pytest.approx(0.5)
    assert cpt(ranking, world.gain, 0.8) == pytest.approx(0.8)


@given(worlds)
def test_no_ranking_is_better_than_the_oracle(rows):
    world, score = unpacked(rows)
    best, other = blocks(oracle_ranking(world).delegate), blocks(score)
    assert float(apgr(best, world.gain)) >= float(apgr(other, world.gain)) - 1e-9
    assert cpt(best, world.gain, 0.8) <= cpt(other, world.gain, 0.8) + 1e-9
    assert aiq(curve(best, world)) >= aiq(curve(other, world)) - 1e-9


@given(worlds)
def test_only_the_order_of_a_ranking_counts(rows):
    world, score = unpacked(rows)
    one, other = blocks(score), blocks(np.exp(score / 2) - 7)
    assert float(apgr(one, world.gain)) == pytest.approx(float(apgr(other, world.gain)))
    assert cpt(one, world.gain, 0.5) == pytest.approx(cpt(other, world.gain, 0.5))
    assert aiq(curve(one, world)) == pytest.approx(aiq(curve(other, world)))


@given(worlds)
def test_a_ranking_turned_round_recovers_the_rest(rows):
    world, score = unpacked(rows)
    there, back = apgr(blocks(score), world.gain), apgr(blocks(-score), world.gain)
    assert float(there + back) == pytest.approx(1.0)


@given(worlds, st.integers(0, 2**16))
def test_a_row_drawn_twice_counts_as_two_rows(rows, seed):
    world, score = unpacked(rows)
    counts = np.random.default_rng(seed).integers(0, 3, size=len(rows))
    drawn = np.repeat(np.arange(len(rows)), counts)
    if world.gain[drawn].sum() <= 0:
        return
    weighted = apgr(blocks(score), world.gain, counts.astype(float))
    assert float(weighted) == pytest.approx(float(apgr(blocks(score[drawn]), world.gain[drawn])))


def test_without_a_gap_between_the_models_there_is_no_recovery():
    ranking = blocks(np.array([1.0, 2.0]))
    assert np.isnan(apgr(ranking, np.array([1.0, -1.0])))
    assert np.isnan(cpt(ranking, np.array([0.0, 0.0]), 0.5))


def test_the_calls_that_recover_half_of_the_gap_are_read_from_between_two_points():
    # recovery is 0, 1/4, 1/2, 3/4, 1 over the first four of eight rows
    gain = np.array([1.0, 1, 1, 1, 0, 0, 0, 0])
    delegate = np.arange(8, 0, -1, dtype=float)
    assert cpt(blocks(delegate), gain, 0.5) == pytest.approx(2 / 8)
    assert cpt(blocks(delegate), gain, 0.8) == pytest.approx(3.2 / 8)


def test_the_area_of_benefit_counts_pairs_and_ties_half():
    benefit = np.array([True, False, True, False])
    # pairs: (4 > 3), (4 > 1), (2 < 3), (2 > 1)
    assert benefit_auc(blocks(np.array([4.0, 3.0, 2.0, 1.0])), benefit) == pytest.approx(3 / 4)
    assert benefit_auc(blocks(np.zeros(4)), benefit) == pytest.approx(0.5)
    assert np.isnan(benefit_auc(blocks(np.zeros(2)), np.array([True, True])))


def test_the_curve_runs_from_the_weak_model_alone_to_the_strong_one_alone():
    world = outcomes([0, 1, 0], [1, 1, 0], weak_cost=1.0, strong_cost=10.0)
    points = curve(blocks(np.array([3.0, 2.0, 1.0])), world)
    assert points.share == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert points.quality == pytest.approx([1 / 3, 2 / 3, 2 / 3, 2 / 3])
    assert points.cost == pytest.approx([1, 4, 7, 10])


def test_the_mean_quality_over_cost_is_that_of_the_hull():
    # (2, 0.1) lies below the line from (1, 0.2) to (3, 0.8), and quality does not fall after its best
    points = Curve(np.zeros(4), np.array([0.2, 0.1, 0.8, 0.6]), np.array([1.0, 2.0, 3.0, 5.0]))
    assert aiq(points) == pytest.approx((2 * 0.5 + 2 * 0.8) / 4)
    assert np.isnan(aiq(Curve(np.zeros(2), np.array([0.0, 1.0]), np.array([1.0, 1.0]))))


def test_the_oracle_spends_on_the_cheapest_of_equal_gains_first():
    world = Outcomes(np.zeros(3), np.array([1.0, 1.0, 0.0]), np.zeros(3), np.array([5.0, 2.0, 1.0]))
    assert np.argsort(-oracle_ranking(world).delegate).tolist() == [1, 0, 2]
