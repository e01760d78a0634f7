"""The trainer: transformers' own loop, with a distillation loss computed only where there is a label."""
# ruff: noqa: ARG002 - the trainer decides what a callback is given

import json
import math
import shutil
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import msgspec
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_callback import PrinterCallback
from transformers.training_args import TrainingArguments

from distill.collate import IGNORED, BucketSampler, ExampleSet
from distill.frozen import HiddenExamples
from distill.loss_settings import LossSettings
from distill.losses import Targets, distillation_loss

__all__ = (
    "DistillTrainer",
    "Progress",
    "ProgressLog",
    "computes_bfloat16",
    "freeze_embeddings",
    "freeze_lower_layers",
    "newest_checkpoint",
    "read_progress",
    "watch",
)


def freeze_embeddings(model: PreTrainedModel) -> None:
    """Keep the input embeddings and the output head, tied or not, as they are."""
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        cast("nn.Module", module).requires_grad_(False)


def freeze_lower_layers(model: PreTrainedModel, trained: int) -> None:
    """Train the uppermost ``trained`` decoder layers only: no gradient passes through the others."""
    for layer in cast("Any", model).get_decoder().layers[:-trained]:
        layer.requires_grad_(False)


def computes_bfloat16() -> bool:
    """Whether the hardware computes in bfloat16; emulated, it is slower than float32."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def newest_checkpoint(folder: Path) -> str | None:
    """The path of the newest whole checkpoint under ``folder``, or None.

    ``trainer_state.json`` is the last file that the trainer writes, so it is whole where the rest is. A
    checkpoint cut by a kill is removed: the trainer would count it among those it keeps.
    """
    for path in sorted(folder.glob("checkpoint-*"), key=_step, reverse=True):
        try:
            json.loads((path / "trainer_state.json").read_bytes())
        except (OSError, ValueError):
            shutil.rmtree(path)
        else:
            return str(path)
    return None


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))


@contextmanager
def _head_only_at(model: PreTrainedModel, keep: Tensor) -> Generator[None]:
    """Inside, the model's head sees the hidden states of ``keep`` (B, T) only and its logits are (N, V).

    A hook, rather than calling the decoder and the head one by one, leaves the model's own forward in charge:
    autocast, DDP's and FSDP's gradient hooks, adapters and logit scaling live there.
    """

    def pick(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (arguments[0][keep],)

    handle = cast("nn.Module", model.get_output_embeddings()).register_forward_pre_hook(pick)
    try:
        yield
    finally:
        handle.remove()


class DistillTrainer(Trainer):
    """A `transformers.Trainer` over an `ExampleSet` whose loss is `distillation_loss`.

    Takes what `Trainer` takes, and the loss settings. Batches come from `BucketSampler` and `collate`.
    """

    def __init__(self, *, loss: LossSettings, **trainer: Any) -> None:
        super().__init__(**trainer)
        self.loss_settings = loss

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches of similar length, in an order decided by the seed and the epoch."""
        rows = cast("ExampleSet | HiddenExamples", self.train_dataset)
        sampler = BucketSampler(rows.lengths, self.args.train_batch_size, self.args.seed)
        loader = DataLoader(cast("Dataset[Any]", rows), batch_sampler=sampler, collate_fn=self.data_collator)
        return cast("DataLoader[Any]", self.accelerator.prepare(loader))

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The loss of a batch of `collate`; the head is applied at the N positions before a label only."""
        following = inputs["labels"][:, 1:]
        keep = nn.functional.pad(following != IGNORED, (0, 1))
        with _head_only_at(self.accelerator.unwrap_model(model), keep):
            entering = "inputs_embeds" if "inputs_embeds" in inputs else "input_ids"
            outputs = model(**{entering: inputs[entering]}, attention_mask=inputs["attention_mask"], use_cache=False)
        targets = Targets(
            labels=following[keep[:, :-1]],
            soft_ids=inputs["soft_ids"],
            soft_logprobs=inputs["soft_logprobs"],
            weights=inputs["weights"],
        )
        loss = distillation_loss(outputs.logits, targets, self.loss_settings, num_items_in_batch)
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            # The divisor counts all processes' labels, and their gradients are averaged once more.
            loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss


class StopRequest(TrainerCallback):
    """Once ``asked()``, ends training after the current step, with a checkpoint."""

    def __init__(self, asked: Callable[[], bool]) -> None:
        self._asked = asked

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Ask the loop to save and to stop."""
        if self._asked():
            control.should_save = True
            control.should_training_stop = True


class Progress(msgspec.Struct):
    """A line of ``progress.jsonl``: what is done at ``step``, over all runs of the job.

    ``loss`` is the mean since the line before; ``examples`` and ``tokens`` (without padding) count each epoch
    again; ``tokens_per_second`` and ``eta_seconds`` are this run's; ``time`` is seconds since 1970.
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


class ProgressLog(TrainerCallback):
    """Appends a `Progress` line whenever the trainer logs a loss."""

    def __init__(self, path: Path, examples: int) -> None:
        self._path = path
        self._examples = examples
        self._began = 0.0
        self._seconds_before = 0.0
        self._first_step = 0
        self._first_token = 0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Drop the lines behind the checkpoint that training goes on from: those steps are done again."""
        kept = [line for line in read_progress(self._path) if line.step <= state.global_step]
        self._path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in kept))
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
        loss = context["logs"].get("loss")
        if loss is None:
            return
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss} at step {state.global_step}")
        elapsed = time.monotonic() - self._began
        step_seconds = elapsed / (state.global_step - self._first_step)
        line = Progress(
            step=state.global_step,
            steps=state.max_steps,
            loss=loss,
            examples=round((state.epoch or 0.0) * self._examples),
            tokens=state.num_input_tokens_seen,
            seconds=self._seconds_before + elapsed,
            tokens_per_second=(state.num_input_tokens_seen - self._first_token) / elapsed,
            eta_seconds=step_seconds * (state.max_steps - state.global_step),
            time=time.time(),
        )
        with self._path.open("ab") as lines:
            lines.write(msgspec.json.encode(line) + b"\n")


def watch(trainer: Trainer, progress: ProgressLog, asked_to_stop: Callable[[], bool]) -> None:
    """Add our callbacks, and take away the one that prints."""
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(StopRequest(asked_to_stop))
    trainer.add_callback(progress)


def read_progress(path: Path) -> list[Progress]:
    """The lines of a ``progress.jsonl``, none where there is no file; a line cut by a kill is left out."""
    if not path.exists():
        return []
    whole, _, _ = path.read_bytes().rpartition(b"\n")
    return [msgspec.json.decode(line, type=Progress) for line in whole.splitlines()]
