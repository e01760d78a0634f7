"""The guarantee, repeated: thresholds chosen on a sample keep the target in the population it was drawn from."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import binom

from router.calibration import Prices, choose_thresholds
from tests.unit.router.worlds import Population, population

PRICES = Prices(student=1.0, teacher=20.0)
WORLDS, DELTA, TARGET, ROWS = 1_000, 0.1, 0.9, 300
SIZE = 20_000
TOLERATED = int(binom.ppf(0.999, WORLDS, DELTA))
"""So many of the worlds fail by chance alone, where each fails with probability `DELTA`, in 999 of 1,000 runs."""


def at_random(agreement: float) -> Population:
    """Numbers that say nothing of a student that agrees so often."""
    rng = np.random.default_rng(3)
    scores, held, whole = rng.random((3, SIZE))
    return Population(scores, held, whole, rng.random(SIZE) < agreement)


def anti_informative() -> Population:
    """The surer the router, the worse the answer."""
    rows = population(seed=4, size=SIZE, ease=3.0)
    return Population(1 - rows.scores, 1 - rows.held, 1 - rows.whole, rows.agreed)


def tied() -> Population:
    """Every number one of three."""
    rows = population(seed=5, size=SIZE, ease=1.5)
    scores, held, whole = (np.round(2 * numbers) / 2 for numbers in (rows.scores, rows.held, rows.whole))
    return Population(scores, held, whole, rows.agreed)


def constant(agreement: float) -> Population:
    """One number for all; the student agrees so often."""
    same = np.full(SIZE, 0.8)
    return Population(same, same, same, np.arange(SIZE) < agreement * SIZE)


def treacherous() -> Population:
    """As good as the numbers say, but for the surest: of those a third is wrong."""
    rng = np.random.default_rng(7)
    rows = population(seed=7, size=SIZE, ease=1.0)
    wrong = (rows.scores > 0.9) & (rng.random(SIZE) < 1 / 3)
    return Population(rows.scores, rows.held, rows.whole, rows.agreed & ~wrong)


def of_two_kinds() -> Population:
    """Just too many of the requests are of a kind that the student always fails, and nothing tells them apart."""
    rng = np.random.default_rng(8)
    scores = expit(3 + rng.normal(size=SIZE))
    return Population(scores, scores, scores, rng.permutation(SIZE) < (TARGET - 0.005) * SIZE)


WORLD: dict[str, Callable[[], Population]] = {
    "calibrated": lambda: population(seed=1, size=SIZE),
    "overconfident": lambda: population(seed=2, size=SIZE, ease=0.5, overconfidence=4.0),
    "flat": lambda: population(seed=2, size=SIZE, ease=2.5, overconfidence=0.1),
    "nothing said": lambda: at_random(0.8),
    "nothing said, just too bad": lambda: at_random(TARGET - 0.002),
    "anti-informative": anti_informative,
    "tied": tied,
    "constant, just too bad": lambda: constant(TARGET - 0.002),
    "constant, good": lambda: constant(0.97),
    "treacherous": treacherous,
    "of two kinds": of_two_kinds,
}
USEFUL = ("calibrated", "overconfident", "flat", "tied", "constant, good", "treacherous")
"""Where something can be gained; elsewhere all to the teacher is right."""


def misses(truth: Population, worlds: int = WORLDS, asked: float = TARGET) -> tuple[int, float]:
    """In how many worlds `TARGET` is missed, streamed or plain, and the mean share of the student."""
    rng = np.random.default_rng(9)
    chosen = [choose_thresholds(truth.sample(rng, ROWS).evidence, asked, DELTA, PRICES) for _ in range(worlds)]
    missed = sum(thresholds.feasible and truth.agreement(thresholds) < TARGET for thresholds in chosen)
    return missed, float(np.mean([thresholds.student_share for thresholds in chosen]))


@pytest.mark.parametrize("name", WORLD)
def test_at_most_delta_of_a_thousand_worlds_miss_the_target(name: str):
    missed, share = misses(WORLD[name]())
    assert missed <= TOLERATED
    # a rule that never let the student answer would pass the line above
    assert share > (0.2 if name in USEFUL else -1)


@pytest.mark.parametrize("name", ["calibrated", "constant, just too bad", "of two kinds"])
def test_thresholds_that_aim_five_points_lower_are_caught(name: str):
    """So that the test above can fail."""
    assert misses(WORLD[name](), 200, TARGET - 0.05)[0] > 2 * DELTA * 200
