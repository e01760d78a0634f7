"""Simulated logs of a router that explores: what it decided, and the truth of every request beside it."""

from dataclasses import dataclass

import numpy as np

from ledger.observed import Observed
from ledger.prices import Price
from router.estimators import Prices
from router.exploration import Exploration, interest

PRICES = Prices(Price(input=0.1, output=0.4), Price(input=2.0, output=8.0))
HARD, CONFIDENT = 0.6, 0.8
EXPLORED, SHADOWED = 0.1, 0.06


@dataclass(frozen=True)
class Traffic:
    """Every request with what the log does not show: all confidences, all agreements. Arrays of shape (n,)."""

    score: np.ndarray
    confidence: np.ndarray
    novelty: np.ndarray
    agreed: np.ndarray
    tokens: np.ndarray

    def truth(self, hard: float, confident: float) -> tuple[float, float, float]:
        """Agreement, teacher share and cost under thresholds, by counting."""
        passes = self.score >= hard
        answered = passes & (self.confidence >= confident)
        teacher, student = (
            (self.tokens[:, 0] * price.input + self.tokens[:, 1] * price.output) / 1e6
            for price in (PRICES.teacher, PRICES.student)
        )
        cost = np.where(answered, 0, teacher) + np.where(passes, student, 0)
        return 1 - (answered & ~self.agreed).mean(), 1 - answered.mean(), cost.mean()


def traffic(rng: np.random.Generator, n: int) -> Traffic:
    """Confidence and score mean less than they say, and least for what is new: the model of the outcome is wrong."""
    score = rng.beta(4, 2, n)
    confidence = np.clip(score + rng.normal(0.1, 0.12, n), 0.01, 0.99)
    novelty = np.clip(rng.beta(1.5, 4, n), 0, 1)
    agreed = rng.random(n) < np.clip(1.02 * confidence**0.7 - 0.45 * novelty**2, 0.02, 0.99)
    tokens = np.stack([rng.integers(20, 400, n), rng.integers(5, 200, n), np.zeros(n)], axis=1).astype(float)
    return Traffic(score, confidence, novelty, agreed, tokens)


def logged(rng: np.random.Generator, world: Traffic) -> Observed:
    """What a gateway with thresholds `HARD` and `CONFIDENT` writes down of it."""
    tried = world.score >= HARD
    student = tried & (world.confidence >= CONFIDENT)
    exploration, shadowing = Exploration(EXPLORED), Exploration(SHADOWED)
    p = np.empty(len(tried))
    rows = zip(tried, student, world.score, world.confidence, world.novelty, strict=True)
    for i, (was_tried, answered, score, confidence, novelty) in enumerate(rows):
        known, threshold = (confidence, CONFIDENT) if was_tried else (score, HARD)
        budget = exploration if answered else shadowing
        p[i] = budget.probability(interest(known, threshold, novelty))
    asked = rng.random(len(tried)) < p
    return Observed(
        score=world.score,
        confidence=np.where(tried | asked, world.confidence, np.nan),
        novelty=world.novelty,
        stream=np.arange(len(tried)) % 2 == 0,
        student=student,
        tried=tried,
        asked=asked,
        agreement=np.where(asked, world.agreed, np.nan),
        propensity=np.where(asked, p, np.nan),
        tokens=world.tokens,
    )
