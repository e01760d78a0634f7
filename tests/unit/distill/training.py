"""What tests of the training process share."""

from pathlib import Path
from typing import Any

from distill.train import StopFlag
from distill.train_config import TrainConfig


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
