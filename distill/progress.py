"""What a training run tells while it runs, and when it ends: progress lines, the stop signal, early stopping."""
# ruff: noqa: ARG002 - the trainer decides what a callback is given

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_callback import PrinterCallback
from transformers.training_args import TrainingArguments

from distill import ranks

__all__ = (
    "EarlyStop",
    "Progress",
    "ProgressLog",
    "best_of",
    "read_progress",
    "validation_losses",
    "watch",
)


class Progress(msgspec.Struct):
    """A line of ``progress.jsonl``: what is done at ``step``, over all runs of the job.

    ``loss`` is the mean since the line before; ``examples`` and ``tokens`` (without padding) count each epoch
    again; ``tokens_per_second`` and ``eta_seconds`` are this run's; ``time`` is seconds since 1970.
    ``validation_loss`` is the newest one.
    """

    step: int
    steps: int
    loss: float
    examples: int
    tokens: int
    seconds: float
    tokens_per_second: float
    eta_seconds: float
    time: float
    validation_loss: float | None = None


class StopRequest(TrainerCallback):
    """Once ``asked()``, ends training after the current step, with a checkpoint."""

    def __init__(self, asked: Callable[[], bool]) -> None:
        self._asked = asked

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Ask the loop to save and to stop."""
        if ranks.agreed(self._asked()):
            control.should_save = True
            control.should_training_stop = True


class ProgressLog(TrainerCallback):
    """Appends a `Progress` line whenever the trainer logs a loss."""

    def __init__(self, path: Path, examples: int) -> None:
        self._path = path
        self._examples = examples
        self._began = 0.0
        self._first_step = 0
        self._first_token = 0
        self._last: Progress | None = None
        self._seconds_before = 0.0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Drop the lines behind the checkpoint that training goes on from: those steps are done again."""
        kept = [line for line in read_progress(self._path) if line.step <= state.global_step]
        self._path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in kept))
        self._last = kept[-1] if kept else None
        self._seconds_before = kept[-1].seconds if kept else 0.0
        self._began = time.monotonic()
        self._first_step = state.global_step
        self._first_token = state.num_input_tokens_seen

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Have a line at each checkpoint and at the end, so that time and loss up to there are known."""
        if control.should_save or control.should_training_stop:
            control.should_log = True

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **context: Any) -> None:
        """Write a line, unless it is the summary that the trainer logs at the end.

        Raises:
            FloatingPointError: The loss is not finite; what comes after is lost time.
        """
        logs: dict[str, float] = context["logs"]
        validation = logs.get("eval_loss")
        if validation is not None and self._last is not None:
            self._write(msgspec.structs.replace(self._last, validation_loss=validation, time=time.time()))
        loss = logs.get("loss")
        if loss is None:
            return
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss} at step {state.global_step}")
        elapsed = time.monotonic() - self._began
        step_seconds = elapsed / (state.global_step - self._first_step)
        self._write(
            Progress(
                step=state.global_step,
                steps=state.max_steps,
                loss=loss,
                examples=round((state.epoch or 0.0) * self._examples),
                tokens=state.num_input_tokens_seen,
                seconds=self._seconds_before + elapsed,
                tokens_per_second=(state.num_input_tokens_seen - self._first_token) / elapsed,
                eta_seconds=step_seconds * (state.max_steps - state.global_step),
                time=time.time(),
                validation_loss=self._last.validation_loss if self._last else None,
            )
        )

    def _write(self, line: Progress) -> None:
        self._last = line
        with self._path.open("ab") as lines:
            lines.write(msgspec.json.encode(line) + b"\n")


class EarlyStop(TrainerCallback):
    """Keeps the weights of the lowest validation loss, and ends training when none lower comes for a while.

    What was measured before is read from the trainer's own history, which is in its checkpoints: a run that is
    resumed decides as one that was not interrupted.
    """

    def __init__(self, kept: Path, patience: int, min_delta: float) -> None:
        self._kept = kept
        self._patience = patience
        self.min_delta = min_delta

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Measure the last step's weights too."""
        if state.global_step >= state.max_steps:
            control.should_evaluate = True

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **context: Any
    ) -> None:
        """Write what is trained of the model if its loss is the lowest yet."""
        since = best_of(validation_losses(state), self.min_delta)[1]
        if since == 0:
            model = cast("nn.Module", context["model"])
            trained = {name: ranks.whole(p.detach()) for name, p in model.named_parameters() if p.requires_grad}
            if ranks.is_first():
                partial = self._kept.with_suffix(".part")
                save_file({name: tensor.contiguous() for name, tensor in trained.items()}, partial)
                partial.replace(self._kept)
        if since >= self._patience:
            control.should_training_stop = True

    def over(self, state: TrainerState) -> bool:
        """Whether this history ends training."""
        losses = validation_losses(state)
        return bool(losses) and best_of(losses, self.min_delta)[1] >= self._patience

    def restore(self, model: nn.Module) -> None:
        """Put the kept weights back."""
        ranks.wait_for_all()
        model.load_state_dict(load_file(self._kept), strict=False)


def best_of(losses: Sequence[float], min_delta: float) -> tuple[float, int]:
    """The loss that counts as lowest, and how many came after it; each must be lower by more than ``min_delta``."""
    best, place = losses[0], 0
    for at, loss in enumerate(losses):
        if loss < best - min_delta:
            best, place = loss, at
    return best, len(losses) - 1 - place


def validation_losses(state: TrainerState) -> list[float]:
    """All validation losses so far, nats per token."""
    return [entry["eval_loss"] for entry in state.log_history if "eval_loss" in entry]


def watch(trainer: Trainer, progress: ProgressLog, asked_to_stop: Callable[[], bool]) -> None:
    """Add our callbacks, and take away the one that prints."""
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(StopRequest(asked_to_stop))
    if ranks.is_first():
        trainer.add_callback(progress)


def read_progress(path: Path) -> list[Progress]:
    """The lines of a ``progress.jsonl``, none where there is no file; a line cut by a kill is left out."""
    if not path.exists():
        return []
    whole, _, _ = path.read_bytes().rpartition(b"\n")
    return [msgspec.json.decode(line, type=Progress) for line in whole.splitlines()]
