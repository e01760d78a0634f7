"""What held-out answers prove."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import xlogy
from scipy.stats import binomtest

from distill.intervals import discordant, holm, paired_difference, shown_below, shown_worse

PAIRS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=80)
P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


def pairs(better: int, worse: int, same: int) -> tuple[list[bool], list[bool]]:
    return [True] * better + [False] * worse + [True] * same, [False] * better + [True] * worse + [True] * same


@given(PAIRS)
def test_the_difference_is_the_mean_and_its_bound_is_not_above_it(rows: list[tuple[bool, bool]]):
    candidate, champion = zip(*rows, strict=True)
    mean, lower = paired_difference(candidate, champion)
    assert mean == pytest.approx(np.mean(np.asarray(candidate, float) - np.asarray(champion, float)))
    assert -1 <= lower <= mean + 1e-9


@given(PAIRS)
def test_exchanging_the_two_turns_the_difference_round(rows: list[tuple[bool, bool]]):
    candidate, champion = zip(*rows, strict=True)
    assert paired_difference(candidate, champion)[0] == -paired_difference(champion, candidate)[0]


def test_the_bound_solves_tangos_equation_as_written_out_by_hand():
    # no difference at all among n: the bound is -z^2 / (n + z^2)
    z2 = 1.6448536269514722**2
    assert paired_difference(*pairs(0, 0, 50)) == (0.0, pytest.approx(-z2 / (50 + z2), abs=1e-6))


@pytest.mark.parametrize(("better", "worse", "same"), [(1, 0, 43), (3, 9, 88), (12, 5, 30), (0, 4, 20)])
def test_at_the_bound_the_score_of_the_likeliest_counts_is_the_critical_value(better: int, worse: int, same: int):
    n, bound = better + worse + same, paired_difference(*pairs(better, worse, same))[1]

    def unlikelihood(only_champion: float) -> float:
        chances = (only_champion + bound, only_champion, 1 - 2 * only_champion - bound)
        return -sum(xlogy(count, chance) for count, chance in zip((better, worse, same), chances, strict=True))

    limits = (max(0.0, -bound), (1 - bound) / 2)
    likeliest = minimize_scalar(unlikelihood, bounds=limits, method="bounded", options={"xatol": 1e-12}).x
    variance = n * (2 * likeliest + bound - bound**2)
    assert (better - worse - n * bound) / np.sqrt(variance) == pytest.approx(1.6448536, abs=1e-4)


def test_many_pairs_give_the_normal_bound():
    rng = np.random.default_rng(3)
    champion = rng.random(20_000) < 0.7
    candidate = np.where(rng.random(20_000) < 0.8, champion, rng.random(20_000) < 0.8)
    differences = candidate.astype(float) - champion.astype(float)
    expected = differences.mean() - 1.645 * differences.std() / np.sqrt(20_000)
    assert paired_difference(candidate.tolist(), champion.tolist())[1] == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize(("n", "differ"), [(50, 0.0), (100, 0.02), (200, 0.0), (200, 0.1)])
def test_a_candidate_that_is_worse_by_the_margin_passes_as_rarely_as_stated(n: int, differ: float):
    margin, rng = 0.02, np.random.default_rng(4)
    chances = [differ / 2, differ / 2 + margin, 1 - differ - margin]
    counts = rng.multinomial(n, chances, 600)
    passed = np.mean([paired_difference(*pairs(*map(int, row)))[1] >= -margin for row in counts])
    assert passed < 0.075, "the percentile bootstrap lets 35% pass in the first case"


def test_no_pairs_say_nothing_and_uneven_ones_are_an_error():
    assert paired_difference([], []) == (0.0, -1.0)
    with pytest.raises(ValueError, match="2 answers of the candidate and 1 of the champion"):
        paired_difference([True, False], [True])


@given(st.integers(0, 40), st.integers(1, 40), st.floats(0.05, 0.95))
def test_too_few_agreements_are_tested_by_the_exact_binomial(agreed: int, more: int, floor: float):
    n = agreed + more
    expected = binomtest(agreed, n, floor, alternative="less").pvalue
    assert shown_below(agreed, n, floor) == pytest.approx(expected, abs=1e-9)


@given(st.integers(0, 40), st.integers(1, 40))
def test_turns_for_the_worse_are_tested_by_mcnemar(better: int, worse: int):
    expected = binomtest(worse, better + worse, 0.5, alternative="greater").pvalue
    assert shown_worse(better, worse) == pytest.approx(expected, abs=1e-9)
    assert discordant(*pairs(better, worse, 3)) == (better, worse)


def test_nothing_seen_shows_nothing():
    assert shown_below(0, 0, 0.9) == shown_worse(0, 0) == 1.0


def test_holm_is_as_in_a_worked_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@given(P_VALUES)
def test_holm_never_lowers_a_p_value_keeps_their_order_and_is_milder_than_bonferroni(values: list[float]):
    adjusted = holm(values)
    assert all(p <= q <= min(1.0, len(values) * p) + 1e-12 for p, q in zip(values, adjusted, strict=True))
    ranked = [q for _, q in sorted(zip(values, adjusted, strict=True))]
    assert ranked == sorted(ranked)
