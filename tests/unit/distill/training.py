"""What tests of the training process share."""

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from distill.child import command, environment
from distill.progress import read_progress
from distill.train import StopFlag
from distill.train_config import TrainConfig

LONG_ENOUGH = 400.0
"""For two processes to load torch and to train a little on a machine that does much else; seconds."""
SHARED = {"threads": 1, "batch_size": 8, "accumulation_steps": 2, "processes": 2, "epochs": 3}
"""What two processes and one do alike."""


class StopAt(StopFlag):
    """Asks to stop when looked at for the n-th time: once before training, then after each step."""

    def __init__(self, looks: int) -> None:
        self.looks = looks

    @property
    def asked(self) -> bool:
        self.looks -= 1
        return self.looks <= 0


def config_of(job: Path, weights: Path, examples: Path, **fields: Any) -> TrainConfig:
    """Two epochs on the examples, the student to ``out`` in the job's folder; any field may be another."""
    defaults: dict[str, Any] = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-3, "dtype": "float32"}
    paths = {"weights": str(weights), "examples": str(examples), "output": str(job / "out")}
    return TrainConfig(**(paths | defaults | fields))


def begun(config: TrainConfig, job: Path) -> "subprocess.Popen[bytes]":
    """The processes of a job, as the worker starts them, in a group of their own."""
    job.mkdir(exist_ok=True)
    (job / "train.json").write_bytes(msgspec.json.encode(config))
    words = command(job, msgspec.to_builtins(config))
    return subprocess.Popen(
        words, env=environment(os.environ), stderr=(job / "stderr").open("wb"), start_new_session=True
    )


def ended(process: "subprocess.Popen[bytes]") -> int:
    return process.wait(LONG_ENOUGH)


def until(true: Callable[[], Any]) -> None:
    stop = time.monotonic() + LONG_ENOUGH
    while not true():
        assert time.monotonic() < stop
        time.sleep(0.1)


def steps(job: Path) -> int:
    """Of the newest whole checkpoint; `newest_checkpoint` would take away the one that is being written."""
    whole = job.glob("checkpoints/checkpoint-*/trainer_state.json")
    return max((int(path.parent.name.rpartition("-")[2]) for path in whole), default=0)


def same_curves(alone: Path, job: Path, within: float = 1e-4) -> None:
    """The losses and the tokens of each step are those of the other job."""
    curves = [read_progress(folder / "progress.jsonl") for folder in (alone, job)]
    assert [line.step for line in curves[1]] == [line.step for line in curves[0]]
    for name in ("loss", "validation_loss", "tokens"):
        mine, theirs = (
            [getattr(line, name) for line in curve if getattr(line, name) is not None] for curve in curves
        )
        assert theirs == pytest.approx(mine, rel=within), name


def wait_for_step(job: Path, step: int, trainer: "subprocess.Popen[bytes]", seconds: float = 90) -> None:
    """Return when the process has told of the step; fails where it ends before, or after so many seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        lines = read_progress(job / "progress.jsonl")
        if lines and lines[-1].step >= step:
            return
        assert trainer.poll() is None, trainer.stderr and trainer.stderr.read()
        time.sleep(0.02)
    raise AssertionError(f"step {step} was not reached")
