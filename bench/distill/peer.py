"""TRL's trainers, by TRL's own Python: ``python -m bench.distill.peer RUN.json``; with ``--version``, its version.

Sequences are given as token ids, so that nothing but the trainer differs. ``SFTTrainer`` takes the loss of the
completion only, as ours does; ``GKDTrainer`` the rows' answers only (``lmbda`` 0), with our padding's collator.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import torch
import trl
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer
from trl.experimental.gkd import GKDConfig, GKDTrainer

from bench.distill.recipe import Run, measured, rows_of, shared

IGNORED = -100


def main(path: Path) -> None:
    """Train, and write the figures beside the run's file."""
    run = msgspec.json.decode(path.read_bytes(), type=Run)
    torch.set_num_threads(run.threads)
    load = partial(AutoModelForCausalLM.from_pretrained, dtype=torch.float32, local_files_only=True)
    arguments: dict[str, Any] = shared(run) | {"max_length": None}
    if "by length" in run.subject:
        arguments["train_sampling_strategy"] = "group_by_length"
    rows = [
        {
            "input_ids": row["prompt_ids"] + row["answer_ids"],
            "completion_mask": [0] * len(row["prompt_ids"]) + [1] * len(row["answer_ids"]),
        }
        for row in rows_of(run.rows)
    ]
    common: dict[str, Any] = {
        "model": load(run.student), "train_dataset": Dataset.from_list(rows),
        "processing_class": AutoTokenizer.from_pretrained(run.student),
    }  # fmt: skip
    if run.kind == "sft":
        trainer = SFTTrainer(args=SFTConfig(**arguments, completion_only_loss=True), **common)
        trainer.teacher = None
    else:
        trainer = GKDTrainer(
            args=GKDConfig(**arguments, lmbda=0.0, beta=0.5),
            teacher_model=load(run.teacher),
            data_collator=pad,
            **common,
        )
    path.with_suffix(".figures").write_bytes(msgspec.json.encode(measured(run, trainer)))


def pad(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """A batch padded on the right to its longest row."""
    width = max(len(row["input_ids"]) for row in rows)
    batch: dict[str, list[list[int]]] = {"input_ids": [], "attention_mask": [], "labels": []}
    for row in rows:
        ids, mask = row["input_ids"], row["completion_mask"]
        left = width - len(ids)
        batch["input_ids"].append(ids + [0] * left)
        batch["attention_mask"].append([1] * len(ids) + [0] * left)
        batch["labels"].append([i if m else IGNORED for i, m in zip(ids, mask, strict=True)] + [IGNORED] * left)
    return {name: torch.tensor(values) for name, values in batch.items()}


if __name__ == "__main__":
    if sys.argv[1] == "--version":
        sys.stdout.write(trl.__version__)
    else:
        main(Path(sys.argv[1]))
