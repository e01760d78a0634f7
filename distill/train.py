"""Train one student: ``python -m distill.train JOB_DIR``, a child process of the worker.

Reads ``train.json`` (`TrainConfig`); writes ``progress.jsonl``, ``checkpoints/``, ``result.json`` and the
model folder ``output``. Run again after a kill, it goes on from the newest whole checkpoint; run again after
success, it does nothing. Exit status: 0 done, 1 failed, 2 bad configuration, 143 stopped by SIGTERM.
"""

import math
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, cast

import msgspec

from distill import ranks, sharding
from distill.collate import ExampleSet, collate, read_examples, split_off
from distill.student import make_student, new_folder
from distill.train_config import ConfigError, TrainConfig, TrainResult, read_config
from serving.launch import die_with_launcher

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainingArguments

    from distill.progress import EarlyStop, Progress
    from distill.sampling import Sampler
    from distill.trainer import DistillTrainer, LocalTeacher

__all__ = ("StopFlag", "attempt", "main", "prepared", "train")

PROGRESS = "progress.jsonl"
PREPARED = "prepared.json"
"""How many rows the frozen layers have been run over: ``{done, of}``."""
KEPT = "checkpoints/best.safetensors"
"""What is trained of the weights, where the validation loss was lowest."""
LOGGED_LINES = 500
"""About how many lines of progress a job writes, however long it is."""


class Stopped(Exception):
    """SIGTERM came; a checkpoint is written if training had begun."""


def main(arguments: Sequence[str]) -> int:
    """Run the job and give the exit status; a failure is one line on standard error."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m distill.train JOB_DIR\n")
        return 2
    job = Path(arguments[0])
    if "TORCHELASTIC_RUN_ID" in os.environ:
        # torchrun gives each process a session of its own, so that nobody would end it after a SIGKILL of torchrun
        die_with_launcher()
    stop = StopFlag()
    signal.signal(signal.SIGTERM, stop.ask)
    status, line = attempt(job, stop, prepare_process)
    if line:
        sys.stderr.write(f"distill.train: {line}\n")
    return status


def attempt(job: Path, stop: "StopFlag", prepare: Callable[[int], None]) -> tuple[int, str]:
    """Run the job after ``prepare`` was given the threads: the exit status, and why it failed if it did."""
    try:
        config = read_config(job)
        prepare(config.threads)
        train(config, job, stop)
    except Stopped:
        return 128 + signal.SIGTERM, ""
    except ConfigError as error:
        return 2, str(error)
    except Exception as error:  # noqa: BLE001 - the outermost seam: the worker reads one line, people the file
        (job / "traceback.txt").write_text(traceback.format_exc(), encoding="utf-8")
        return 1, f"{type(error).__name__}: {' '.join(str(error).split())}"
    return 0, ""


def prepared(threads: int) -> dict[str, str]:
    """The variables that OpenMP and transformers read once, when they are loaded.

    Threads that spin at a barrier make training 7 to 12 times slower on a machine shared with an engine.
    """
    return {
        "OMP_WAIT_POLICY": "PASSIVE",
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }


def prepare_process(threads: int) -> None:
    """Set `prepared`; start the process again if torch is loaded already."""
    wanted = prepared(threads)
    if all(os.environ.get(name) == value for name, value in wanted.items()):
        return
    os.environ.update(wanted)
    if "torch" in sys.modules:
        os.execv(sys.executable, [sys.executable, "-m", "distill.train", *sys.argv[1:]])  # noqa: S606


def train(config: TrainConfig, job: Path, stop: "StopFlag") -> None:
    """Train by ``config``, with everything but the model folder under ``job``.

    Raises:
        Stopped: ``stop`` was asked for; a checkpoint is written if training had begun.
        ConfigError: No example is short enough, or the configuration asks for what is not here.
    """
    if Path(config.output).exists():
        return  # the rename to `output` is the last thing a run does
    from distill.student_engine import sampler_of

    part = ranks.join()
    with ranks.first_alone():
        source = _source(config, job)
    try:
        with sampler_of(config, job, source) as sampler:
            _train_from(source, config, job, stop, sampler)
    except Stopped:  # by all of them; after a failure nobody parts, for the others may wait for this one
        part()
        raise
    part()


def _train_from(source: Path, config: TrainConfig, job: Path, stop: "StopFlag", sampler: "Sampler | None") -> None:
    from distill.frozen import restore_layers, without_lower_layers
    from distill.progress import ProgressLog, watch
    from distill.student_model import load_student, load_teacher

    examples = ExampleSet(read_examples(Path(config.examples)), config.max_length)
    if len(examples) < ranks.world():
        few = "no example" if not examples else f"fewer than {ranks.world()} examples"
        raise ConfigError(f"{config.examples} has {few} of at most {config.max_length} tokens")
    model = load_student(config, source)
    teacher = load_teacher(config, source, sampler)
    # what samples needs all its layers, and four-bit weights stay where they are
    upper = config.train_layers if not (config.on_policy_share or config.lora_4bit) else None
    prepared = partial(_write_prepared, job / PREPARED, len(examples))
    rows, lower = without_lower_layers(model, upper, examples, prepared)
    run = _run(config, job, rows, model, teacher)
    watch(run.trainer, ProgressLog(job / PROGRESS, run.examples), lambda: stop.asked)
    if ranks.agreed(stop.asked):
        raise Stopped
    run.finish(job)
    if config.sharding != "none":
        run.trainer.model = sharding.gathered(run.trainer.model, load_student(config, source))
    run.take_best()
    if lower is not None:
        restore_layers(model, lower)
    if ranks.is_first():
        _write(config, job, source, run, examples.too_long)


def _write(config: TrainConfig, job: Path, source: Path, run: "_Run", too_long: int) -> None:
    from distill.progress import read_progress
    from distill.student_model import save_student

    result = _result(read_progress(job / PROGRESS)[-1], run, too_long)
    with new_folder(Path(config.output)) as folder:
        save_student(run.trainer.model, config, source, folder)
        (job / "result.json").write_bytes(msgspec.json.encode(result))


class StopFlag:
    """Set by SIGTERM; training looks at it after each step."""

    asked = False

    def ask(self, _signal: int, _frame: FrameType | None) -> None:
        """Handle the signal."""
        self.asked = True


@dataclass
class _Run:
    """A trainer, and what decides whether it ends early."""

    trainer: "DistillTrainer"
    examples: int
    early: "EarlyStop | None"
    validation_loss: float | None = None
    stopped_early: bool = False

    def finish(self, job: Path) -> None:
        """Train from the newest checkpoint to the end. Raises `Stopped`."""
        from distill.trainer import newest_checkpoint, state_of

        with ranks.first_alone():
            checkpoint = newest_checkpoint(job / "checkpoints")
        if checkpoint is not None:
            self.trainer.state = state_of(checkpoint)
        over = self.early is not None and self.early.over(self.trainer.state)
        if not over:
            self.trainer.train(resume_from_checkpoint=checkpoint)
        state = self.trainer.state
        self.stopped_early = self.early is not None and self.early.over(state)
        if state.global_step < state.max_steps and not self.stopped_early:
            raise Stopped

    def take_best(self) -> None:
        """Take the weights that were best, where that was measured."""
        from distill.progress import best_of, validation_losses

        if self.early is not None:
            self.validation_loss = best_of(validation_losses(self.trainer.state), self.early.min_delta)[0]
            self.early.restore(cast("PreTrainedModel", self.trainer.model))


def _source(config: TrainConfig, job: Path) -> Path:
    """The folder to start from: the weights, or the smaller student cut from them once for this job."""
    if config.layers is None:
        return Path(config.weights)
    student = job / "student"
    if not student.exists():
        try:
            make_student(Path(config.weights), config.layers, student)
        except ValueError as error:
            raise ConfigError(str(error)) from error
    return student


def _run(config: TrainConfig, job: Path, rows: Any, model: "PreTrainedModel", teacher: "LocalTeacher | None") -> _Run:
    import torch

    from distill.frozen import HiddenExamples, collate_hidden
    from distill.progress import EarlyStop
    from distill.trainer import DistillTrainer

    training, validation = (
        split_off(rows, config.validation_share, config.seed) if config.validation_share else (rows, None)
    )
    if not len(training):
        raise ConfigError(f"validation_share = {config.validation_share:g} leaves no row of {len(rows)} to train on")
    trainer = DistillTrainer(
        loss=config.loss,
        teacher=teacher,
        packed=config.batching == "packed",
        model=model,
        args=_arguments(config, job, len(training)),
        train_dataset=training,
        eval_dataset=validation,
        data_collator=partial(
            collate_hidden if isinstance(rows, HiddenExamples) else collate,
            pad_id=model.config.pad_token_id or 0,
            # Widths that are multiples of 8 feed a GPU's matrix units; on a CPU they are only more padding.
            multiple_of=8 if torch.cuda.is_available() else 1,
            packed=config.batching == "packed",
        ),
    )
    early = EarlyStop(job / KEPT, config.patience, config.min_delta) if validation is not None else None
    for callback in (early, _tensorboard(config, job)):
        if callback is not None:
            trainer.add_callback(callback)
    return _Run(trainer, len(training), early)


def _tensorboard(config: TrainConfig, job: Path) -> Any:
    """The callback that writes ``tensorboard/``, if it is wanted. Raises `ConfigError` where TensorBoard is not."""
    if not config.tensorboard or not ranks.is_first():
        return None
    if find_spec("tensorboard") is None:
        raise ConfigError("tensorboard = true needs TensorBoard: pip install 'stillroom[tensorboard]', or unset it")
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations.integration_utils import TensorBoardCallback

    return TensorBoardCallback(SummaryWriter(str(job / "tensorboard")))


def _arguments(config: TrainConfig, job: Path, examples: int) -> "TrainingArguments":
    import torch
    from transformers import TrainingArguments

    from distill.student_model import uses_bfloat16

    steps = config.epochs * math.ceil(examples / config.batch_size)
    return TrainingArguments(
        output_dir=str(job / "checkpoints"),
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.batch_size // config.accumulation_steps // ranks.world(),
        gradient_accumulation_steps=config.accumulation_steps,
        **sharding.arguments(config),
        gradient_checkpointing_kwargs={"use_reentrant": False},
        learning_rate=config.learning_rate,
        warmup_steps=config.warmup_ratio,
        weight_decay=config.weight_decay,
        optim="adamw_torch_fused",
        seed=config.seed,
        use_cpu=not torch.cuda.is_available(),
        ddp_find_unused_parameters=False,
        bf16=uses_bfloat16(config),
        dataloader_pin_memory=torch.cuda.is_available(),
        eval_strategy="steps" if config.validation_share else "no",
        eval_steps=config.save_steps,
        save_steps=config.save_steps,
        save_total_limit=2,
        logging_steps=max(1, steps // LOGGED_LINES),
        logging_nan_inf_filter=False,
        include_num_input_tokens_seen="non_padding",
        disable_tqdm=not sys.stderr.isatty(),
        report_to="none",
    )


def _write_prepared(path: Path, rows: int, done: int) -> None:
    if ranks.is_first():
        path.write_bytes(msgspec.json.encode({"done": done, "of": rows}))


def _result(last: "Progress", run: _Run, too_long: int) -> TrainResult:
    return TrainResult(
        seconds=last.seconds,
        tokens=last.tokens,
        tokens_per_second=last.tokens / last.seconds,
        examples=run.examples,
        too_long=too_long,
        final_loss=last.loss,
        steps=last.step,
        validation_loss=run.validation_loss,
        stopped_early=run.stopped_early,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
