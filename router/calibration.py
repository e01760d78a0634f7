"""Chooses the cheapest thresholds that keep the system's agreement at the target with stated confidence.

A request that goes to the teacher agrees by definition, so the system disagrees where the student answered
and was wrong. The hypotheses "the disagreement rate is above 1 - target" are tested in chains fixed before
the data are seen (Learn then Test with fixed sequences, arXiv:2110.01052, section 2.3). Along a chain ever
more requests are answered, so its hypotheses are tested one after the other at one level until one is not
rejected, and the chain may take any value on its way (risk control for monotone losses, arXiv:2101.02703).
Over the chains, and over the two ways an answer is judged (streams by their first tokens, plain answers by
all), the level is divided (Bonferroni): with probability 1 - delta the target holds for both ways at once,
whatever their mix.
"""

from dataclasses import dataclass
from itertools import product
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, betaincinv

from router.thresholds import NEVER, Thresholds

__all__ = (
    "CASCADES",
    "LEVELS",
    "Evidence",
    "Prices",
    "Rule",
    "Thresholds",
    "answered",
    "choose_thresholds",
    "classifier_rule",
    "expected_cost",
    "rule_of",
)

GIVEN_UP = 0.02
"""Share of the saving that is given up, at most, for answers that need not be held back: a wait has no price."""


class Chain(NamedTuple):
    """A family of nested rules with one bar t: a request is answered where score >= hard, and confidence >= t or
    1 - score <= ease * (1 - t), which makes it sure. Without `hard` only sure requests are tried.
    """

    hard: float | None
    ease: float


# an ease that is a power of two: both ways of writing what is sure round alike
CASCADES = tuple(Chain(hard, ease) for hard, ease in product((0.0, 0.5), (0.0, 1.0)))
CLASSIFIER_ALONE = Chain(None, 1.0)
CHAINS = (*CASCADES, CLASSIFIER_ALONE)
LEVELS = 2 * len(CHAINS)
"""By this delta is divided: a test for each chain and each way."""

Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Prices:
    """Expected cost of one request at each model, in one unit of money."""

    student: float
    teacher: float


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """Out-of-sample numbers of the same requests, each of shape (n,): scores, confidences by the first tokens
    (`held`) and by the `whole` answer, and whether the student agreed. Raises ValueError for unequal lengths.
    """

    scores: Floats
    held: Floats
    whole: Floats
    agreed: NDArray[np.bool_]

    def __post_init__(self) -> None:
        """Refuse columns that are not of the same rows."""
        lengths = {len(column) for column in (self.scores, self.held, self.whole, self.agreed)}
        if len(lengths) > 1:
            raise ValueError(f"columns of different lengths: {sorted(lengths)}")

    @property
    def ways(self) -> tuple[Floats, Floats]:
        """The confidences of both ways."""
        return self.held, self.whole


class Rule(NamedTuple):
    """Four thresholds, as `Thresholds` has them."""

    hard: float
    sure: float
    confident: float
    confident_end: float


NOBODY = Rule(NEVER, NEVER, NEVER, NEVER)


class _Candidate(NamedTuple):
    rule: Rule
    cost: float
    share: float
    sure_share: float
    disagreed: int


def choose_thresholds(evidence: Evidence, target: float, delta: float, prices: Prices) -> Thresholds:
    """The thresholds with most sure requests among those that pass and save nearly as much as the cheapest.

    The cost is the mean of both ways; where the student's attempt is escalated, both models are paid. Raises
    ValueError for a target or delta outside (0, 1).
    """
    if not (0.0 < target < 1.0 and 0.0 < delta < 1.0):
        raise ValueError(f"target {target} and delta {delta} must lie between 0 and 1")
    n, level = len(evidence.scores), delta / LEVELS
    allowed = _allowed_disagreements(n, 1.0 - target, level)
    rules = (_laxest_rule(evidence, chain, allowed) for chain in CHAINS)
    found = [_judged(evidence, rule, prices) for rule in rules if rule is not None]
    # a rule is counted again as it is served: rounding must not let in what the chain kept out
    usable = [c for c in found if c.share and c.disagreed <= allowed and c.cost <= prices.teacher]
    if not usable:
        return Thresholds(1.0, 1.0, target, delta, n, 0.0, 1.0, feasible=False)
    least = min(c.cost for c in usable)
    enough = least + GIVEN_UP * (prices.teacher - least)
    best = max((c for c in usable if c.cost <= enough), key=lambda c: (c.sure_share, -c.cost, c.share))
    bound = 1.0 - _upper_bound(best.disagreed, n, level)
    hard, sure, confident, confident_end = best.rule
    return Thresholds(
        hard, confident, target, delta, n, best.share, bound, True, sure, confident_end, best.sure_share
    )


def rule_of(thresholds: Thresholds) -> Rule:
    """The four thresholds; nobody passes ones that are not feasible."""
    if not thresholds.feasible:
        return NOBODY
    return Rule(thresholds.hard, thresholds.sure, thresholds.confident, thresholds.confident_end)


def answered(rule: Rule, evidence: Evidence) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which requests the student answers where they are streamed, and where they are not."""
    scores, bars = evidence.scores, (rule.confident, rule.confident_end)
    one, other = (
        (scores >= rule.hard) & ((scores >= rule.sure) | (confidences >= bar))
        for confidences, bar in zip(evidence.ways, bars, strict=True)
    )
    return one, other


def classifier_rule(evidence: Evidence, target: float, delta: float) -> Rule:
    """The classifier alone at the level of every chain, to be compared with."""
    allowed = _allowed_disagreements(len(evidence.scores), 1.0 - target, delta / LEVELS)
    return _laxest_rule(evidence, CLASSIFIER_ALONE, allowed) or NOBODY


def expected_cost(rule: Rule, scores: Floats, taken: NDArray[np.bool_], prices: Prices) -> float:
    """Per request, of one way."""
    if not scores.size:
        return prices.teacher
    return float(prices.student * np.mean(scores >= rule.hard) + prices.teacher * (1.0 - np.mean(taken)))


def _judged(evidence: Evidence, rule: Rule, prices: Prices) -> _Candidate:
    masks = answered(rule, evidence)
    return _Candidate(
        rule,
        sum(expected_cost(rule, evidence.scores, mask, prices) for mask in masks) / 2,
        sum(float(mask.mean()) for mask in masks) / 2,
        float(np.mean(evidence.scores >= rule.sure)),
        max(int(np.count_nonzero(mask & ~evidence.agreed)) for mask in masks),
    )


def _laxest_rule(evidence: Evidence, chain: Chain, allowed: int) -> Rule | None:
    """The laxest rule of a chain for both ways, or None if it lets the student answer in neither.

    A request is sure for both ways or for none, so the stricter of their bars is taken: the other way's rule is then
    stricter than one that has passed.
    """
    scores, wrong = evidence.scores, ~evidence.agreed
    if chain.hard is None:
        bar = _laxest(scores, wrong, allowed)
        return None if bar is None else Rule(bar, bar, NEVER, NEVER)
    tried = scores >= chain.hard
    bars = [_laxest(_lifted(evidence, way, chain.ease)[tried], wrong[tried], allowed) for way in evidence.ways]
    if not any(bar is not None for bar in bars):
        return None
    held, whole = (NEVER if bar is None else bar for bar in bars)
    strict = max(held, whole)
    sure = 1.0 - chain.ease * (1.0 - strict) if chain.ease and strict < NEVER else NEVER
    return Rule(chain.hard, max(sure, chain.hard), held, whole)


def _lifted(evidence: Evidence, confidences: Floats, ease: float) -> Floats:
    """The least bar t at which each request of a chain is not answered any more."""
    return np.maximum(confidences, 1.0 - (1.0 - evidence.scores) / ease) if ease else confidences


def _laxest(values: Floats, wrong: NDArray[np.bool_], allowed: int) -> float | None:
    """The least bar that lets through at most so many wrong ones, or None if every bar lets through more, or none."""
    order = np.argsort(-values, kind="stable")
    ranked, errors = values[order], np.cumsum(wrong[order])
    # equal values stand or fall together, so a bar lies only where the value changes
    passing = np.flatnonzero((np.diff(ranked, append=-np.inf) < 0) & (errors <= allowed))
    if not passing.size:
        return None
    last = int(passing[-1])
    # Any value between two neighbours sorts these rows alike; their middle does not hang on a float's last bit.
    below = float(np.append(ranked, 0.0)[last + 1])
    middle = (float(ranked[last]) + below) / 2
    return middle if middle > below else float(ranked[last])


def _allowed_disagreements(n: int, rate: float, level: float) -> int:
    """Most disagreements among n at which the Clopper-Pearson upper bound is <= rate; -1 if there is none."""
    # The bound is <= rate exactly where P(Binomial(n, rate) <= k) <= level.
    return int(np.count_nonzero(bdtr(np.arange(n), n, rate) <= level)) - 1


def _upper_bound(disagreed: int, n: int, level: float) -> float:
    """Clopper-Pearson upper bound of a rate at confidence 1 - level (doi:10.1093/biomet/26.4.404)."""
    return 1.0 if disagreed >= n else float(betaincinv(disagreed + 1, n - disagreed, 1.0 - level))
