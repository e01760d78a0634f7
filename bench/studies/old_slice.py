"""What re-distillations under shifting traffic forget: ``python -m bench.studies.old_slice HOME RELEASE RELEASE``.

HOME is that of a demo with a shift (``make demo SHIFT=1`` leaves ``var/demo``). The student of each release is served
by vLLM, alone, and asked the same in-scope requests of the test split. Prints how many each answers rightly, of the
intents that were there from the beginning and of the new ones, and the paired differences with bootstrap intervals.
"""

import argparse
import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from bench.gateway.machine import describe
from bench.studies.served import Served
from router.comparators import same_text
from stillroom.demo.desk import Request, own_desk
from stillroom.demo.traffic import MAX_TOKENS, messages

BEFORE_SHIFT: Final = 1_000
"""Requests of the demo that are asked before its new intents come."""
TESTS: Final = 600
DRAWS: Final = 10_000


def main() -> None:
    """Ask, and print a line for each slice."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("home", type=Path)
    parser.add_argument("releases", nargs=2)
    options = parser.parse_args()
    home = options.home.resolve()
    tests = [row for row in own_desk().shifting(BEFORE_SHIFT).test[:TESTS] if row.in_scope]
    before, after = (asyncio.run(_right(home, name, tests)) for name in options.releases)
    print(describe())
    for name in ("old", "new"):
        rows = np.array([row.slice == name for row in tests])
        low, high = _interval(after[rows] - before[rows])
        gained = after[rows].mean() - before[rows].mean()
        print(
            f"{name}: {rows.sum()} requests, {before[rows].mean():.1%} and {after[rows].mean():.1%} right, "
            f"{gained:+.1%} ({low:+.1%} to {high:+.1%})"
        )


async def _right(home: Path, release: str, tests: Sequence[Request]) -> np.ndarray:
    """1 for each request that the release's student answers rightly, else 0; shape (tests,)."""
    log = home / f"old-slice-{release}.log"
    async with Served(home / "releases" / release / "student", log, print) as served:
        answers = await served.answers([messages(row.text) for row in tests], MAX_TOKENS)
    return np.array([float(same_text(given, row.label)) for given, row in zip(answers, tests, strict=True)])


def _interval(differences: np.ndarray) -> tuple[float, float]:
    """Percentile bootstrap of the mean (Efron, 1979), 95%."""
    drawn = np.random.default_rng(0).choice(differences, (DRAWS, len(differences))).mean(axis=1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)


if __name__ == "__main__":
    main()
