"""Our trainer, in a process of its own: ``python -m bench.distill.ours RUN.json``."""

import sys
from functools import partial
from pathlib import Path

import msgspec
import torch
from transformers import AutoModelForCausalLM, TrainingArguments

from bench.distill.recipe import Run, measured, shared
from distill.collate import ExampleSet, collate, read_examples
from distill.loss_settings import Divergence, LossSettings
from distill.trainer import DistillTrainer, LocalTeacher


def main(path: Path) -> None:
    """Train as a job would, all weights, and write the figures beside the run's file."""
    run = msgspec.json.decode(path.read_bytes(), type=Run)
    torch.set_num_threads(run.threads)
    load = partial(AutoModelForCausalLM.from_pretrained, dtype=torch.float32, local_files_only=True)
    distilled = run.kind == "gkd"
    teacher = LocalTeacher(load(run.teacher).eval().requires_grad_(False)) if distilled else None
    packed = "packed" in run.subject
    trainer = DistillTrainer(
        loss=LossSettings(1.0 if distilled else 0.0, 1.0, "bucket", Divergence("jsd" if distilled else "forward_kl")),
        teacher=teacher,
        packed=packed,
        model=load(run.student),
        args=TrainingArguments(**shared(run)),
        train_dataset=ExampleSet(read_examples(Path(run.rows))),
        data_collator=partial(collate, pad_id=0, multiple_of=1, packed=packed),
    )
    path.with_suffix(".figures").write_bytes(msgspec.json.encode(measured(run, trainer)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
