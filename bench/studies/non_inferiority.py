"""Which bound of a paired difference holds its level: ``python -m bench.studies.non_inferiority``.

Candidates that are worse than the champion by exactly the margin should pass the gate in at most 5% of evaluations.
Compares the gate's bound (Tango's score interval) with the percentile bootstrap of the same answers.
"""

import numpy as np

from distill.intervals import paired_difference

MARGIN = 0.02
EVALUATIONS = 1_500
RESAMPLES = 10_000


def main() -> None:
    """Print a table of the shares that pass."""
    rng = np.random.default_rng(0)
    print(
        "| held-out requests | further requests on which they differ | bootstrap | Tango |\n| --- | --- | --- | --- |"
    )
    for n in (50, 100, 200, 400, 1_000):
        for further in (0.0, 0.02, 0.1, 0.2):
            turns = [further / 2, further / 2 + MARGIN, 1 - further - MARGIN]
            drawn = rng.multinomial(n, turns, EVALUATIONS)
            bootstrap = np.mean([_bootstrap_bound(row, rng) >= -MARGIN for row in drawn])
            tango = np.mean([_tango_bound(better, worse, n) >= -MARGIN for better, worse, _ in drawn])
            print(f"| {n:,} | {further:.0%} | {bootstrap:.1%} | {tango:.1%} |", flush=True)


def _tango_bound(better: int, worse: int, n: int) -> float:
    candidate = [True] * better + [False] * (n - better)
    champion = [False] * better + [True] * worse + [False] * (n - better - worse)
    return paired_difference(candidate, champion)[1]


def _bootstrap_bound(counts: np.ndarray, rng: np.random.Generator) -> float:
    """The 5th percentile of the resampled difference; a difference is -1, 0 or 1, so a resample is three counts."""
    n = int(counts.sum())
    resampled = rng.multinomial(n, counts / n, RESAMPLES)
    return float(np.quantile((resampled[:, 0] - resampled[:, 1]) / n, 0.05))


if __name__ == "__main__":
    main()
