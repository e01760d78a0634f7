"""A promotion and a rollback under load, by each swap strategy: ``python -m bench.swap --requests 1000``.

Real vLLM, a tiny random model, four clients that ask without a pause, every other answer streamed, every third one
the student's come what may. Prints per strategy: failed, answers that are not of the release they are stamped with,
those that the teacher gave meanwhile, seconds until the new release answers, and the longest answer.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any, get_args

import numpy as np

from ledger import releases
from serving.settings import Swap
from tests.engine_fixtures import save_tiny_model
from tests.gateway_fixtures import wait_until
from tests.swap_world import Asked, SwapWorld, answered_by, swap_world

WAIT_S = 900.0


def measure(swap: Swap, requests: int, home: Path) -> dict[str, Any]:
    """One strategy: half of the requests before and during a promotion, half during its rollback."""
    base = save_tiny_model(home / "base") if swap == "adapter" else None
    with swap_world(home, swap, base) as swaps:
        swaps.add("r1", 1)
        swaps.promote("r1")
        swaps.served("r1", WAIT_S)
        # in place has room for one student only here: a candidate's own server would make it blue-green
        swaps.add("r2", 2, "retired" if swap == "in_place" else "candidate")
        if swap != "in_place":
            swaps.served("r2", WAIT_S)
        with swaps.load() as asked:
            wait_until(lambda: len(asked) > requests // 4, WAIT_S)
            promoted = swaps.promote("r2")
            promotion = _seconds(asked, "r2", promoted)
            wait_until(lambda: len(asked) > requests // 2, WAIT_S)
            rolled_back = time.monotonic()
            releases.rollback(swaps.world.store, "bench")
            rollback = _seconds(asked, "r1", rolled_back)
            wait_until(lambda: len(asked) >= requests, WAIT_S)
        return {"swap": swap, "promotion_s": promotion, "rollback_s": rollback} | _totals(swaps, asked)


def _seconds(asked: list[Asked], release: str, since: float) -> float:
    """From the change until the first answer of the release that was asked for after it."""
    wait_until(lambda: answered_by(asked, release, since), WAIT_S)
    first = min(each.ended for each in list(asked) if each.release == release and each.began >= since)
    return round(first - since, 2)


def _totals(swaps: SwapWorld, asked: list[Asked]) -> dict[str, Any]:
    wrong = [why for each in asked if (why := swaps.wrong(each))]
    lasted = [each.ended - each.began for each in asked]
    return {
        "requests": len(asked),
        "failed": sum(why.startswith("status") for why in wrong),
        "stale": sum(not why.startswith("status") for why in wrong),
        "by_teacher": sum(each.route == "teacher" for each in asked),
        "median_s": round(float(np.median(lasted)), 3),
        "longest_s": round(max(lasted), 2),
    }


def main() -> None:
    """Measure and print one line of JSON for each strategy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--swap", choices=get_args(Swap), action="append", default=[])
    chosen = parser.parse_args()
    for swap in chosen.swap or get_args(Swap):
        with tempfile.TemporaryDirectory() as home:
            print(json.dumps(measure(swap, chosen.requests, Path(home))), flush=True)


if __name__ == "__main__":
    main()
