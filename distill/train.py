"""Train one student: ``python -m distill.train JOB_DIR``, a child process of the worker.

Reads ``train.json`` (`TrainConfig`); writes ``progress.jsonl``, ``checkpoints/``, ``result.json`` and the
model folder ``output``. Run again after a kill, it goes on from the newest whole checkpoint; run again after
success, it does nothing. Exit status: 0 done, 1 failed, 2 bad configuration, 143 stopped by SIGTERM.
"""

import json
import math
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import msgspec

from distill.collate import ExampleSet, collate, read_examples
from distill.loss_settings import Divergence, DivergenceName, LossSettings, Tail
from distill.student import copy_companions, make_student, new_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainingArguments

    from distill.frozen import HiddenExamples
    from distill.trainer import DistillTrainer, Progress

__all__ = ("TrainConfig", "TrainResult", "main", "train")

_Positive = Annotated[float, msgspec.Meta(gt=0)]
_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
_Count = Annotated[int, msgspec.Meta(ge=1)]

PROGRESS = "progress.jsonl"
PREPARED = "prepared.json"
"""How many rows the frozen layers have been run over: ``{done, of}``."""
LOGGED_LINES = 500
"""About how many lines of progress a job writes, however long it is."""


class TrainConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``train.json``; ``weights`` and ``output`` are model folders, ``examples`` a file of `read_examples`.

    ``layers`` makes the student from these layers of ``weights`` first; ``train_layers`` trains the uppermost so many
    of them only, the lower ones run forward alone. ``dtype`` "auto" computes in bfloat16
    only where the hardware does; weights stay float32 while training. ``max_length`` leaves longer rows out.
    """

    weights: str
    examples: str
    output: str
    layers: Annotated[list[int], msgspec.Meta(min_length=1)] | None = None
    train_layers: _Count | None = None
    epochs: _Count = 3
    batch_size: _Count = 16
    learning_rate: _Positive = 2e-4
    warmup_ratio: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.05
    weight_decay: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    alpha: _Share = 0.5
    temperature: _Positive = 1.0
    tail: Tail = "renormalise"
    divergence: DivergenceName = "forward_kl"
    beta: _Share = 0.5
    lora_rank: _Count | None = None
    freeze_embeddings: bool = True
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    seed: int = 0
    threads: _Count = 2
    max_length: Annotated[int, msgspec.Meta(ge=2)] = 1024
    save_steps: _Count = 200

    def __post_init__(self) -> None:
        """Refuse a loss that means nothing, as `ValueError`."""
        _ = self.loss

    @property
    def loss(self) -> LossSettings:
        """How the student is compared with the teacher."""
        return LossSettings(self.alpha, self.temperature, self.tail, Divergence(self.divergence, self.beta))


class TrainResult(msgspec.Struct):
    """``result.json``, over all runs of the job: ``examples`` rows were trained on, ``too_long`` left out."""

    seconds: float
    tokens: int
    tokens_per_second: float
    examples: int
    too_long: int
    final_loss: float
    steps: int


class ConfigError(Exception):
    """The configuration names what does not exist or cannot be."""


class Stopped(Exception):
    """SIGTERM came; a checkpoint is written if training had begun."""


def main(arguments: Sequence[str]) -> int:
    """Run the job and give the exit status; a failure is one line on standard error."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m distill.train JOB_DIR\n")
        return 2
    job = Path(arguments[0])
    stop = StopFlag()
    signal.signal(signal.SIGTERM, stop.ask)
    try:
        config = read_config(job)
        prepare_process(config.threads)
        train(config, job, stop)
    except Stopped:
        return 128 + signal.SIGTERM
    except ConfigError as error:
        sys.stderr.write(f"distill.train: {error}\n")
        return 2
    except Exception as error:  # noqa: BLE001 - the outermost seam: the worker reads one line, people the file
        (job / "traceback.txt").write_text(traceback.format_exc(), encoding="utf-8")
        sys.stderr.write(f"distill.train: {type(error).__name__}: {' '.join(str(error).split())}\n")
        return 1
    return 0


def read_config(job: Path) -> TrainConfig:
    """Read ``train.json``.

    Raises:
        ConfigError: It is missing or ill-formed, or names a file that is not there.
    """
    try:
        config = msgspec.json.decode((job / "train.json").read_bytes(), type=TrainConfig)
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"{job / 'train.json'}: {error}") from error
    for needed in (Path(config.weights, "config.json"), Path(config.examples)):
        if not needed.is_file():
            raise ConfigError(f"{needed} is not a file")
    return config


def prepare_process(threads: int) -> None:
    """Set what OpenMP reads only once, when torch loads it; start the process again if that is past.

    Threads that spin at a barrier make training 7 to 12 times slower on a machine shared with an engine.
    """
    wanted = {
        "OMP_WAIT_POLICY": "PASSIVE",
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    if all(os.environ.get(name) == value for name, value in wanted.items()):
        return
    os.environ.update(wanted)
    if "torch" in sys.modules:
        os.execv(sys.executable, [sys.executable, "-m", "distill.train", *sys.argv[1:]])  # noqa: S606


def train(config: TrainConfig, job: Path, stop: "StopFlag") -> None:
    """Train by ``config``, with everything but the model folder under ``job``.

    Raises:
        Stopped: ``stop`` was asked for; a checkpoint is written if training had begun.
        ConfigError: No example is short enough.
    """
    if Path(config.output).exists():
        return  # the rename to `output` is the last thing a run does
    from distill.frozen import restore_layers, without_lower_layers
    from distill.trainer import ProgressLog, newest_checkpoint, read_progress, watch

    source = _source(config, job)
    examples = ExampleSet(read_examples(Path(config.examples)), config.max_length)
    if not examples:
        raise ConfigError(f"{config.examples} has no example of at most {config.max_length} tokens")
    model = _model(config, source)
    prepared = partial(_write_prepared, job / PREPARED, len(examples))
    rows, lower = without_lower_layers(model, config.train_layers, examples, prepared)
    trainer = _trainer(config, job, rows, model)
    watch(trainer, ProgressLog(job / PROGRESS, len(examples)), lambda: stop.asked)
    if stop.asked:
        raise Stopped
    trainer.train(resume_from_checkpoint=newest_checkpoint(job / "checkpoints"))
    if trainer.state.global_step < trainer.state.max_steps:
        raise Stopped
    if lower is not None:
        restore_layers(model, lower)
    result = _result(read_progress(job / PROGRESS)[-1], examples)
    with new_folder(Path(config.output)) as folder:
        _save(trainer.model, config.lora_rank is not None, source, folder)
        (job / "result.json").write_bytes(msgspec.json.encode(result))


class StopFlag:
    """Set by SIGTERM; training looks at it after each step."""

    asked = False

    def ask(self, _signal: int, _frame: FrameType | None) -> None:
        """Handle the signal."""
        self.asked = True


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


def _model(config: TrainConfig, source: Path) -> "PreTrainedModel":
    """The student in float32, with what is not trained frozen."""
    import torch
    from transformers import AutoModelForCausalLM, set_seed

    from distill.trainer import freeze_embeddings, freeze_lower_layers

    torch.set_num_threads(config.threads)
    set_seed(config.seed)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, local_files_only=True)
    if config.lora_rank is not None:
        from peft import LoraConfig, get_peft_model

        adapter = LoraConfig(
            r=config.lora_rank,
            lora_alpha=2 * config.lora_rank,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )
        return cast("PreTrainedModel", get_peft_model(model, adapter))
    if config.freeze_embeddings:
        freeze_embeddings(model)
    if config.train_layers is not None:
        freeze_lower_layers(model, config.train_layers)
    return model


def _trainer(
    config: TrainConfig, job: Path, examples: "ExampleSet | HiddenExamples", model: "PreTrainedModel"
) -> "DistillTrainer":
    import torch

    from distill.frozen import HiddenExamples, collate_hidden
    from distill.trainer import DistillTrainer

    # Widths that are multiples of 8 feed a GPU's matrix units; on a CPU they are only more padding.
    multiple_of = 8 if torch.cuda.is_available() else 1
    return DistillTrainer(
        loss=config.loss,
        model=model,
        args=_arguments(config, job, len(examples)),
        train_dataset=examples,
        data_collator=partial(
            collate_hidden if isinstance(examples, HiddenExamples) else collate,
            pad_id=model.config.pad_token_id or 0,
            multiple_of=multiple_of,
        ),
    )


def _arguments(config: TrainConfig, job: Path, examples: int) -> "TrainingArguments":
    import torch
    from transformers import TrainingArguments

    from distill.trainer import computes_bfloat16

    steps = config.epochs * math.ceil(examples / config.batch_size)
    return TrainingArguments(
        output_dir=str(job / "checkpoints"),
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        warmup_steps=config.warmup_ratio,
        weight_decay=config.weight_decay,
        optim="adamw_torch_fused",
        seed=config.seed,
        use_cpu=not torch.cuda.is_available(),
        bf16=computes_bfloat16() if config.dtype == "auto" else config.dtype == "bfloat16",
        dataloader_pin_memory=torch.cuda.is_available(),
        save_steps=config.save_steps,
        save_total_limit=2,
        logging_steps=max(1, steps // LOGGED_LINES),
        logging_nan_inf_filter=False,
        include_num_input_tokens_seen="non_padding",
        disable_tqdm=not sys.stderr.isatty(),
        report_to="none",
    )


def _write_prepared(path: Path, rows: int, done: int) -> None:
    path.write_bytes(msgspec.json.encode({"done": done, "of": rows}))


def _result(last: "Progress", examples: ExampleSet) -> TrainResult:
    return TrainResult(
        seconds=last.seconds,
        tokens=last.tokens,
        tokens_per_second=last.tokens / last.seconds,
        examples=len(examples),
        too_long=examples.too_long,
        final_loss=last.loss,
        steps=last.step,
    )


def _save(model: Any, lora: bool, source: Path, folder: Path) -> None:
    """Write the trained weights in the source's dtype, and the source's config, tokenizer and template."""
    import torch

    plain = model.merge_and_unload() if lora else model
    config = json.loads((source / "config.json").read_bytes())
    dtype = config.get("dtype") or config.get("torch_dtype") or "float32"
    plain.to(getattr(torch, dtype)).save_pretrained(folder)
    # The trainer changes the config (use_cache, dtype): a release differs from its source in weights only.
    copy_companions(source, folder)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
