"""vLLM's own prefix-cache hit rate under round robin and under affinity: ``python -m bench.affinity``.

Two real vLLM servers on CPU, prefix caching on as it is by default, behind a real gateway; conversations of several
turns, some at once. Each way of choosing has conversations of its own, so that none finds what the other has left,
and they take turns, so that neither has the machine's better half. Hits and queries are vLLM's counters. Prints one
line of JSON for the machine and one for each way.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from bench.gateway import machine
from serving.server import VllmServer
from tests.engine_fixtures import save_tiny_model, tiny_options
from tests.swap_world import always_student
from tests.two_students import Asked, Cached, balanced, cached, converse, started

WAYS: Final[tuple[Literal["in_turn", "affinity"], ...]] = ("in_turn", "affinity")


def measure(folder: Path, home: Path, chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """Both ways on the same servers, in so many rounds."""
    options = [tiny_options(folder, context_tokens=chosen.context, extra_args=()) for _ in range(chosen.servers)]
    servers = [VllmServer(each, home / f"engine-{number}.log") for number, each in enumerate(options)]
    urls = [server.url for server in servers]
    found: dict[str, list[Cached]] = {way: [] for way in WAYS}
    asked: dict[str, list[Asked]] = {way: [] for way in WAYS}
    router = always_student()
    with started(*servers):
        for number in range(chosen.rounds):
            for way in WAYS:
                names = [f"{way} {number} {n}" for n in range(chosen.conversations)]
                with balanced(home / f"{way}-{number}", router, urls, way) as world:
                    before = cached(urls)
                    asked[way] += converse(world, names, chosen.turns, chosen.words, chosen.at_once)
                    found[way].append(cached(urls).since(before))
    return [_line(way, found[way], asked[way]) for way in WAYS]


def _line(way: str, found: list[Cached], asked: list[Asked]) -> dict[str, Any]:
    whole = Cached(sum(each.queries for each in found), sum(each.hits for each in found))
    seconds = [each.seconds for each in asked]
    return {
        "balance": way,
        "requests": len(asked),
        "failed": sum(each.status != 200 for each in asked),
        "by_teacher": sum(each.route == "teacher" for each in asked),
        "prompt_tokens": whole.queries,
        "hits": whole.hits,
        "hit_rate": round(whole.rate, 3),
        "rounds": [round(each.rate, 3) for each in found],
        "median_s": round(float(np.median(seconds)), 3),
        "p95_s": round(float(np.quantile(seconds, 0.95)), 3),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="a student's folder; a tiny random one without it")
    for name, value in (
        ("servers", 2), ("conversations", 24), ("turns", 6), ("words", 120), ("at-once", 5), ("rounds", 3),
        ("context", 2048),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value)
    chosen = parser.parse_args()
    print(json.dumps(machine.describe()), flush=True)
    with tempfile.TemporaryDirectory() as home:
        folder = chosen.weights or save_tiny_model(Path(home) / "model")
        for line in measure(folder, Path(home), chosen):
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
