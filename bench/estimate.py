"""The estimate: memory and time at 1,000,000 records, and its shares beside what real students reached.

``python -m bench.estimate rows``: made-up LiteLLM logs of 10,000, 100,000 and 1,000,000 records, each read in a
process of its own; a JSON line for each. ``python -m bench.estimate runs --clinc FILE``: the logs that the demo's
first phase leaves, on our own desk answered by the demo's stand-in teacher, on CLINC150 by its own labels (which that
teacher's answers are in 97.1% of them, docs/results.md, after minutes of embedding).
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import msgspec

from distill.estimate.estimating import Promise, Question, Telling, estimate
from distill.estimate.money import Costs
from distill.estimate.reading import Wanted
from ledger.prices import Price
from router.policy import Capabilities
from router.settings import RouterSettings
from stillroom.demo.desk import Desk, Request, open_desk, own_desk
from stillroom.demo.play import FULL
from stillroom.demo.teacher import Answers
from stillroom.demo.traffic import SYSTEM

SIZES: Final = (10_000, 100_000, 1_000_000)
BEGIN: Final = 1_770_000_000
TARGET: Final = 0.92
"""The demo's."""


def question(target: float) -> Question:
    """With the demo's prices."""
    return Question(
        wanted=Wanted(Capabilities(8_192), RouterSettings(), price=Price(request=0.015)),
        promise=Promise(target, 0.95, 0.25),
        costs=Costs(Decimal("0.002"), Price(), Decimal(0), None),
    )


def made_up(count: int) -> Iterator[dict[str, Any]]:
    """A support desk's records: our own desk's requests, each with words of its own, sorted or answered at length."""
    chance, requests = random.Random(0), own_desk().train
    for number in range(count):
        request = chance.choice(requests)
        text = f"{request.text} (order {chance.randrange(10**7)})"
        answer = request.label if number % 5 else f"{request.text}? We are looking into it, order by order."
        asked = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]
        message = {"role": "assistant", "content": answer}
        yield {
            "request_id": f"r{number}",
            "call_type": "acompletion",
            "spend": 0.001 + 0.01 * chance.random(),
            "prompt_tokens": 40,
            "completion_tokens": 8,
            "startTime": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(BEGIN + number * 3)),
            "model": "frontier",
            "messages": {},
            "response": {"choices": [{"index": 0, "finish_reason": "stop", "message": message}]},
            "proxy_server_request": {"model": "frontier", "messages": asked},
            "status": "success",
        }


def rows(count: int) -> None:
    """Estimate from so many records in this process."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "spend.jsonl"
        with path.open("w") as file:
            for record in made_up(count):
                file.write(json.dumps(record) + "\n")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began, used = time.perf_counter(), time.process_time()
        found = estimate([path], question(TARGET), Telling(lambda _: None, lambda _, __: None))
        seconds, cpu = time.perf_counter() - began, time.process_time() - used
        size = path.stat().st_size
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({
        "records": found.inventory.requests,
        "megabytes": round(size / 1e6, 1),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "peak_mb": round(peak / 1024, 1),
        "grew_mb": round((peak - before) / 1024, 1),
        "moved": round(found.curve[-1].moved, 3),
    }))  # fmt: skip


def answered(requests: Sequence[Request], teacher: Answers | None) -> Iterator[dict[str, Any]]:
    """Stored completions as the demo's first phase leaves them; without a teacher the labels are the answers."""
    for number, request in enumerate(requests):
        answer = request.label if teacher is None else teacher.labels[int(teacher.rows[request.text].argmax())]
        yield {
            "object": "chat.completion",
            "created": BEGIN + number,
            "model": "demo-teacher",
            "messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": request.text}],
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": answer}}],
            "usage": {"prompt_tokens": 30, "completion_tokens": 4},
        }


def run(name: str, desk: Desk, teacher: Answers | None, numbers: Sequence[int]) -> None:
    """A line for each size of log."""
    for count in numbers:
        if count > len(desk.train):
            continue
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "stored.jsonl"
            path.write_text("".join(json.dumps(line) + "\n" for line in answered(desk.train[:count], teacher)))
            found = estimate([path], question(TARGET), Telling(lambda _: None, lambda _, __: None))
        told = {"desk": name, "log": count, "target": TARGET}
        told |= {"curve": msgspec.to_builtins(found.curve), "beyond": msgspec.to_builtins(found.beyond)}
        print(json.dumps(told), flush=True)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="what", required=True)
    commands.add_parser("rows").add_argument("count", type=int, nargs="?")
    commands.add_parser("runs").add_argument("--clinc", type=Path, help="CLINC150's data_full.json")
    asked = parser.parse_args()
    if asked.what == "rows" and asked.count:
        rows(asked.count)
    elif asked.what == "rows":
        for size in SIZES:
            subprocess.run([sys.executable, "-m", "bench.estimate", "rows", str(size)], check=True)
    else:
        own = own_desk()
        run("our own desk", own, Answers.of(own, lambda said: print(said, file=sys.stderr)), (650, FULL.first))
        if asked.clinc:
            run("CLINC150", open_desk(asked.clinc), None, (FULL.first, 10_000))


if __name__ == "__main__":
    main()
