"""What share a proxy of the student could take, by how many answers it learned from: measured on later requests.

The logs are cut in time. From the earlier part so many answers are drawn, and done with as a job would: a part of the
conversations is held out, the proxy learns from the others, the thresholds are chosen on the held-out ones with the
same guarantee (`router.calibration`). What that lets through is then counted on the later part, which had no say.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from distill.estimate.columns import UNSUPPORTED
from distill.estimate.proxy import Answers, Floats, answers_of, fit, likeness, right
from distill.estimate.reading import Sampled
from router.calibration import LEVELS, Evidence, Prices, answered, choose_thresholds, rule_of

__all__ = ("Aim", "Learned", "Size", "answers_needed", "learn", "parted")

LATER: Final = 0.25
"""Share of the sample, the newest, that is tested on."""
FEWEST: Final = 40
"""Requests on either side, below which nothing is fitted."""
SMALLEST: Final = 125
RUNS: Final = 5
"""Draws of each size."""

Bools = NDArray[np.bool_]
Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Aim:
    """What is promised: agreement of at least ``target`` with confidence 1 - ``delta``, by ``holdout`` of the
    conversations.
    """

    target: float
    delta: float
    holdout: float
    prices: Prices


@dataclass(frozen=True, eq=False)
class Size:
    """Of one number of answers, in each run and for each tested request, shape (runs, n): whether the proxy may
    answer, and whether its answer is right.
    """

    answers: int
    moved: Bools
    right: Bools


@dataclass(frozen=True, eq=False)
class Learned:
    """The curve. ``tested`` are rows of the sample, ``supported`` says of each whether a student can take it at all;
    ``available`` earlier answers there were.
    """

    sizes: list[Size]
    tested: Rows
    supported: Bools
    available: int


def answers_needed(aim: Aim) -> int:
    """The fewest answers with which anything can be promised: those held out all agree, and that is proof enough."""
    held_out = math.ceil(math.log(aim.delta / LEVELS) / math.log(aim.target))
    return math.ceil(held_out / aim.holdout)


def parted(sample: Sequence[Sampled]) -> tuple[Rows, Rows]:
    """Rows to learn from, which a student can take, and later rows to test on, of a sample in the order of time.

    A later turn of a conversation that was learned from repeats it, and is left out.
    """
    cut = round(len(sample) * (1 - LATER))
    before = [row for row in range(cut) if sample[row].form != UNSUPPORTED]
    known = {sample[row].conversation for row in before}
    after = [
        row for row in range(cut, len(sample)) if not (sample[row].later_turn and sample[row].conversation in known)
    ]
    return np.array(before, dtype=np.int64), np.array(after, dtype=np.int64)


def learn(sample: Sequence[Sampled], aim: Aim, on_run: Callable[[int, int], None]) -> Learned | None:
    """The curve of a sample in the order of time, or None for too few requests; ``on_run`` is told runs done and all.

    Deterministic.
    """
    before, tested = parted(sample)
    if min(before.size, tested.size) < FEWEST:
        return None
    numbers = _numbers(before.size)
    supported = np.array([sample[row].form != UNSUPPORTED for row in tested], dtype=bool)
    with threadpool_limits(1):
        work = _Work(sample, aim, answers_of(sample), likeness(sample, before), tested[supported])
        sizes: list[Size] = []
        for at, n in enumerate(numbers):
            runs: list[tuple[Bools, Bools]] = []
            for run in range(RUNS):
                runs.append(work.run(before, n, run))
                on_run(at * RUNS + run + 1, len(numbers) * RUNS)
            moved, correct = (np.zeros((RUNS, tested.size), dtype=bool) for _ in range(2))
            moved[:, supported] = [taken for taken, _ in runs]
            correct[:, supported] = [agreed for _, agreed in runs]
            sizes.append(Size(n, moved, correct))
    return Learned(sizes, tested, supported, before.size)


@dataclass(frozen=True, eq=False)
class _Work:
    sample: Sequence[Sampled]
    aim: Aim
    answers: Answers
    alike: Floats
    tested: Rows

    def run(self, before: Rows, n: int, run: int) -> tuple[Bools, Bools]:
        """Of the tested requests, which may be answered, and which of all its answers are right."""
        chance = np.random.default_rng([n, run])
        chosen = np.sort(chance.choice(before, n, replace=False))
        held_out = self._held_out(chosen, chance)
        learned, calibrating = chosen[~held_out], chosen[held_out]
        proxy = fit(self.alike[np.ix_(learned, learned)], self.answers.of[learned])
        given, ahead = proxy.answers(self.alike[np.ix_(calibrating, learned)])
        agreed = right(self.answers, given, self.sample, calibrating)
        evidence = Evidence(ahead, ahead, ahead, agreed)
        rule = rule_of(choose_thresholds(evidence, self.aim.target, self.aim.delta, self.aim.prices))
        given, ahead = proxy.answers(self.alike[np.ix_(self.tested, learned)])
        agreed = right(self.answers, given, self.sample, self.tested)
        return answered(rule, Evidence(ahead, ahead, ahead, agreed))[1], agreed

    def _held_out(self, chosen: Rows, chance: np.random.Generator) -> Bools:
        """Whole conversations, until they hold their share of the rows."""
        conversations = np.array([self.sample[row].conversation for row in chosen.tolist()])
        names, codes, often = np.unique(conversations, return_inverse=True, return_counts=True)
        order = chance.permutation(names.size)
        enough = int(np.searchsorted(np.cumsum(often[order]), self.aim.holdout * chosen.size)) + 1
        # something has to be left to learn from
        return np.isin(codes.reshape(-1), order[: min(enough, names.size - 1)])


def _numbers(available: int) -> list[int]:
    """Doubling from `SMALLEST` on, up to all."""
    steps = [SMALLEST << power for power in range(20)]
    return [n for n in steps if n * 1.4 < available] + [available]
