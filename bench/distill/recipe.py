"""What both sides of the comparison share: the run's options, its rows, the measuring of a trainer."""

import json
import random
import resource
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

__all__ = ("Figures", "Run", "divergence_of", "likelihood_of", "measured", "rows_of", "shared", "write_chats")

TURNS = (1, 2, 2, 3, 4)
"""A chat has as many user turns as one of these, at random."""
TURN_TOKENS = (3.3, 0.9)
"""Mean and deviation of the logarithm of a turn's length, in tokens: a median of 27, a tenth above 85."""


class Run(msgspec.Struct):
    """One process: ``kind`` sft or gkd, by ``subject``; paths of models, rows and results."""

    subject: str
    kind: str
    student: str
    teacher: str
    rows: str
    held_out: str
    output: str
    batch_size: int
    epochs: int
    threads: int
    seed: int = 0
    learning_rate: float = 1e-4


class Figures(msgspec.Struct):
    """What a process measured; ``cpu_s`` counts all its threads, ``peak_mib`` from its start."""

    tokens: int
    wall_s: float
    cpu_s: float
    peak_mib: float
    losses: list[float]
    held_out: float


def write_chats(texts: list[str], tokenizer: Any, count: int, path: Path, seed: int) -> list[int]:
    """Write ``count`` made chats as rows of token ids, the last answer being what is learned; returns their lengths.

    Turns are sentences of ``texts`` in a row, as many as a length drawn at random takes.
    """
    chance = random.Random(seed)

    def turn() -> str:
        ids: list[int] = []
        wanted = max(4, round(chance.lognormvariate(*TURN_TOKENS)))
        while len(ids) < wanted:
            ids += tokenizer(chance.choice(texts) + " ", add_special_tokens=False).input_ids
        return tokenizer.decode(ids[:wanted])

    lengths: list[int] = []
    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            messages: list[dict[str, str]] = []
            for _ in range(chance.choice(TURNS)):
                messages += [{"role": "user", "content": turn()}, {"role": "assistant", "content": turn()}]
            text = tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
            prompt = tokenizer(text, add_special_tokens=False).input_ids
            answer = [*tokenizer(messages[-1]["content"], add_special_tokens=False).input_ids, tokenizer.eos_token_id]
            file.write(json.dumps({"prompt_ids": prompt, "answer_ids": answer}) + "\n")
            lengths.append(len(prompt) + len(answer))
    return lengths


def rows_of(path: str) -> list[dict[str, list[int]]]:
    """The rows of a file of `write_chats`."""
    return [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]


def shared(run: Run) -> dict[str, Any]:
    """The arguments of `transformers.TrainingArguments` that both sides get."""
    return {
        "output_dir": run.output, "num_train_epochs": run.epochs, "per_device_train_batch_size": run.batch_size,
        "learning_rate": run.learning_rate, "optim": "adamw_torch_fused", "seed": run.seed, "use_cpu": True,
        "bf16": False, "gradient_checkpointing": False, "logging_steps": 1, "save_strategy": "no",
        "report_to": "none", "disable_tqdm": True, "dataloader_pin_memory": False,
    }  # fmt: skip


def measured(run: Run, trainer: Any) -> Figures:
    """Train, and what that took; then the loss on held-out rows."""
    tokens = run.epochs * sum(len(row["prompt_ids"]) + len(row["answer_ids"]) for row in rows_of(run.rows))
    wall, cpu = time.perf_counter(), time.process_time()
    trainer.train()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    teacher = getattr(trainer, "teacher_model", None) or getattr(trainer.teacher, "model", None)
    held_out = _mean(run, trainer.model.eval(), teacher)
    return Figures(tokens, wall, cpu, peak, losses, held_out)


def _mean(run: Run, model: nn.Module, teacher: nn.Module | None) -> float:
    found: list[float] = []
    with torch.no_grad():
        for row in rows_of(run.held_out):
            ids = torch.tensor([row["prompt_ids"] + row["answer_ids"]])
            first = len(row["prompt_ids"]) - 1
            logits = model(ids).logits[0, first:-1]
            if teacher is None:
                found += likelihood_of(logits, ids[0, first + 1 :]).tolist()
            else:
                found += divergence_of(logits, teacher(ids).logits[0, first:-1]).tolist()
    return float(np.mean(found))


def likelihood_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy at each position, nats."""
    return nn.functional.cross_entropy(logits, labels, reduction="none")


def divergence_of(student: Tensor, teacher: Tensor) -> Tensor:
    """The Jensen-Shannon divergence (beta 0.5) at each position, nats, written out."""
    q, p = student.log_softmax(-1), teacher.log_softmax(-1)
    mixture = (0.5 * q.exp() + 0.5 * p.exp()).log()
    return 0.5 * (p.exp() * (p - mixture)).sum(-1) + 0.5 * (q.exp() * (q - mixture)).sum(-1)
