"""How many rows of a ledger a CPU second turns into a dataset, and how much memory that takes.

``python -m bench.dataset 20000 200000`` makes a ledger of each size in a temporary folder (5 keys, prompts of some 40
words, answers of some 15 with 5 log-probabilities a token) and builds from it in a process of its own, whose peak
memory is therefore the build's.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from distill.dataset import Building, build_dataset
from distill.settings import DistillSettings
from ledger.records import Content, RequestRecord
from ledger.requests import insert_records
from ledger.store import open_store, sqlite_url

BATCH = 2_000
PROMPT_WORDS, ANSWER_WORDS, TOP = 40, 15, 5
VOCABULARY = ["".join(random.Random(n).choices("abcdefghijklmnopqrstuvwxyz", k=3 + n % 7)) for n in range(5_000)]


def fill(home: Path, rows: int) -> None:
    """Make the ledger."""
    store, chance = open_store(sqlite_url(home)), random.Random(rows)
    for start in range(0, rows, BATCH):
        insert_records(store, [record(number, chance) for number in range(start, min(start + BATCH, rows))])
    store.close()


def record(number: int, chance: random.Random) -> RequestRecord:
    """One teacher's answer."""
    prompt = " ".join(chance.choices(VOCABULARY, k=PROMPT_WORDS))
    if number % 20 == 0:
        prompt += f" write to user{number}@example.com"
    words = chance.choices(VOCABULARY, k=ANSWER_WORDS)
    content = Content(
        messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": prompt}],
        answer=" ".join(words),
        teacher_logprobs=[logprob(word if not at else f" {word}", chance) for at, word in enumerate(words)],
    )
    return RequestRecord(
        id=f"req_{number:012}",
        created_at=1_700_000_000_000 + number * 1_000,
        key_id=f"key_{number % 5}",
        route="teacher",
        reason="no_release",
        finish_reason="stop",
        content=content,
    )


def logprob(token: str, chance: random.Random) -> dict[str, Any]:
    """As OpenAI has them."""
    top = [{"token": token, "logprob": -chance.random(), "bytes": list(token.encode())}]
    top += [
        {"token": other, "logprob": -1 - chance.random(), "bytes": list(other.encode())}
        for other in chance.choices(VOCABULARY, k=TOP - 1)
    ]
    return top[0] | {"top_logprobs": top}


def build(home: Path) -> dict[str, Any]:
    """Build from the ledger of a folder; in a process of its own."""
    tokenizer, store, stages = make_tokenizer(), open_store(sqlite_url(home)), dict[str, float]()
    begun = time.process_time()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

    def say(what: str, _done: int, _of: int) -> None:
        stages[what] = time.process_time() - begun

    manifest = build_dataset(Building(store, DistillSettings(), 0.1, tokenizer, on_progress=say), home / "dataset")
    return {
        "taken": manifest.train + manifest.held_out,
        "dropped": manifest.dropped,
        "cpu_seconds": round(time.process_time() - begun, 1),
        "until": {what: round(seconds, 1) for what, seconds in stages.items()},
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "peak_mb_before": before,
    }


def make_tokenizer() -> Any:
    """A small byte-level one."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=4_000, initial_alphabet=alphabet, special_tokens=["<end>"], show_progress=False
    )
    tokenizer.train_from_iterator([" ".join(VOCABULARY)], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>")
    fast.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    return fast


def main() -> None:
    """Print a line for each size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=int, nargs="*", default=[20_000, 200_000])
    parser.add_argument("--build", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.build:
        print(json.dumps(build(options.build)))
        return
    for rows in options.rows:
        with tempfile.TemporaryDirectory(prefix="bench-dataset-") as home:
            fill(Path(home), rows)
            words = [sys.executable, "-m", "bench.dataset", "--build", home]
            found = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
        speed = rows / found["cpu_seconds"]
        print(f"{rows:>9,} rows: {speed:,.0f} per CPU second, peak {found['peak_mb']} MB  {found}", flush=True)


if __name__ == "__main__":
    main()
