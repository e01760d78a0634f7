"""Does a router that begins from the champion's keep its promise? ``python -m bench.studies.warm_start``.

Simulated re-distillations: the held-out requests of the new release are those that the champion's router was trained
on, and 90% of their labels are the same. Thresholds are chosen by scores cross-fitted from nothing; the classifier
that is served is fitted from nothing, or from the champion's. What counts is the agreement on fresh traffic.
"""

import argparse

import numpy as np

from router.calibration import Evidence, Prices, answered, choose_thresholds, rule_of
from router.classifier_training import cross_fitted, fit_classifier
from router.features import RequestView

WORDS = 400
HELD_OUT = 400
FRESH = 4_000
TARGET = 0.9
IN_COMMON = 0.9


def main() -> None:
    """Print agreement and the share answered, from nothing and warm."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--releases", type=int, default=16)
    figures = np.array([_release(seed) for seed in range(parser.parse_args().releases)])
    print(
        "| router | agreement on fresh traffic | misses of the target | share answered |\n| --- | --- | --- | --- |"
    )
    for column, name in enumerate(("trained from nothing", "begun from the champion's")):
        agreement, share = figures[:, column, 0], figures[:, column, 1]
        misses = f"{(agreement < TARGET).sum()} of {len(figures)}"
        print(f"| {name} | {agreement.mean():.1%} | {misses} | {share.mean():.0%} |")


def _release(seed: int) -> list[tuple[float, float]]:
    """Agreement of the whole and the student's share on fresh traffic: from nothing, and warm."""
    rng = np.random.default_rng(seed)
    says = rng.normal(0, 0.9, WORDS)
    views, chance = _requests(rng, HELD_OUT, says)
    luck = rng.random(HELD_OUT)
    champion = luck < chance
    same = rng.random(HELD_OUT) < IN_COMMON
    candidate = np.where(same, luck < np.clip(chance + 0.03, 0, 1), rng.random(HELD_OUT) < chance)
    scores = cross_fitted(views, candidate)[0]
    evidence = Evidence(scores, scores, scores, candidate)
    rule = rule_of(choose_thresholds(evidence, TARGET, 0.05, Prices(1, 10)))
    fresh, their_chance = _requests(rng, FRESH, says)
    agrees = rng.random(FRESH) < np.clip(their_chance + 0.027, 0, 1)
    figures: list[tuple[float, float]] = []
    for warm in (None, fit_classifier(views, champion)):
        served = fit_classifier(views, candidate, warm=warm).assess_many(fresh)[0]
        taken = answered(rule, Evidence(served, served, served, agrees))[0]
        figures.append((1 - float((taken & ~agrees).mean()), float(taken.mean())))
    return figures


def _requests(rng: np.random.Generator, n: int, says: np.ndarray) -> tuple[list[RequestView], np.ndarray]:
    chosen = rng.integers(0, WORDS, (n, 6))
    views = [RequestView((("user", " ".join(f"w{word:03d}" for word in words)),)) for words in chosen]
    return views, 1 / (1 + np.exp(-(1.2 + says[chosen].sum(1))))


if __name__ == "__main__":
    main()
