"""Intervals: rows of a cluster are drawn together, rankings share their resamples, nothing is found in noise."""

import numpy as np

from router.evaluation.bootstrap import RESAMPLES, interval, resample, resampled_counts
from router.evaluation.metrics import Outcomes, blocks


def noise(seed: int, n: int) -> tuple[Outcomes, np.random.Generator]:
    rng = np.random.default_rng(seed)
    weak = (rng.random(n) < 0.6).astype(float)
    return Outcomes(weak, np.maximum(weak, rng.random(n) < 0.6), np.zeros(n), np.ones(n)), rng


def test_rows_of_one_cluster_are_drawn_equally_often():
    clusters = np.array([0, 0, 1, 2, 2, 2])
    counts = np.concatenate(list(resampled_counts(clusters, 500, seed=0)))
    assert counts.shape == (500, 6)
    assert (counts[:, 0] == counts[:, 1]).all() and (counts[:, 3] == counts[:, 5]).all()
    assert np.allclose(counts.mean(axis=0), 1.0, atol=0.15)


def test_the_same_ranking_under_two_names_has_no_margin_in_any_resample():
    world, rng = noise(0, 200)
    ranking = blocks(rng.random(200))
    drawn = resample({"a": ranking, "b": ranking}, world, np.arange(200), np.array([0.0, 1.0]), seed=1)
    assert drawn.apgr["a"].shape == (RESAMPLES,)
    assert (drawn.apgr["a"] == drawn.apgr["b"]).all()
    assert drawn.quality.shape == (RESAMPLES, 2)


def test_of_random_rankings_the_interval_covers_the_truth_about_as_often_as_it_says():
    covered = 0
    for seed in range(60):
        world, rng = noise(seed, 300)
        drawn = resample({"a": blocks(rng.random(300))}, world, np.arange(300), np.array([0.5]), seed)
        low, high = interval(drawn.apgr["a"])
        covered += low <= 0.5 <= high
    assert covered >= 51  # 95 % of 60 is 57; fewer than 51 has a chance below 1 %


def test_twins_widen_the_interval_since_they_are_one_observation():
    world, rng = noise(3, 400)
    delegate = rng.random(400)
    pairs = np.tile(np.arange(400), 2)
    twice = world.take(pairs)
    widths = []
    for clusters in (pairs, np.arange(800)):
        low, high = interval(resample({"a": blocks(delegate[pairs])}, twice, clusters, np.array([0.5]), 0).apgr["a"])
        widths.append(high - low)
    assert widths[0] > 1.25 * widths[1]


def test_resamples_without_a_gap_are_left_out_of_the_interval():
    assert interval(np.array([np.nan, 1.0, 1.0])).tolist() == [1.0, 1.0]
    assert np.isnan(interval(np.full(3, np.nan))).all()
