"""Import of history: lines a second, and peak memory at 10,000 and 100,000 lines, each in a process of its own.

Run it as ``python -m bench.ledger_import``; it prints one JSON line for each size.
"""

import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from distill.imports import ImportOptions, import_files
from ledger.prices import Price
from ledger.store import open_store, sqlite_url

SIZES = (10_000, 100_000)
WORDS = [
    "the",
    "card",
    "transfer",
    "late",
    "refund",
    "where",
    "is",
    "my",
    "please",
    "help",
    "account",
    "lost",
    "order",
    "status",
    "change",
]


def write_history(path: Path, lines: int) -> None:
    """Stored completions of some 20 words asked and 60 answered, no two alike."""
    chance = random.Random(0)
    with path.open("w") as file:
        for number in range(lines):
            asked = " ".join(chance.choices(WORDS, k=20))
            answer = {"role": "assistant", "content": " ".join(chance.choices(WORDS, k=60))}
            line = {
                "object": "chat.completion",
                "id": f"chatcmpl-{number}",
                "created": 1_738_960_610 + number,
                "model": "gpt-4o",
                "messages": [{"role": "user", "content": asked}],
                "choices": [{"index": 0, "message": answer, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 25, "completion_tokens": 70},
            }
            file.write(json.dumps(line) + "\n")


def measure(lines: int) -> None:
    """Import one history into a new ledger."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "history.jsonl"
        write_history(path, lines)
        store = open_store(sqlite_url(Path(folder)))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.perf_counter()
        options = ImportOptions(price=Price(input=2.5, output=10.0))
        done = import_files(store, [path], options, lambda _: None)
        seconds = time.perf_counter() - began
        store.close()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = {
        "lines": done.lines,
        "imported": done.imported,
        "lines_per_second": round(done.lines / seconds),
        "peak_mb": round(peak / 1024, 1),
        "grew_mb": round((peak - before) / 1024, 1),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure(int(sys.argv[1]))
    else:
        for size in SIZES:
            subprocess.run([sys.executable, "-m", "bench.ledger_import", str(size)], check=True)
