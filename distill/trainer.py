"""The trainer: transformers' own loop, with a distillation loss computed only where there is a label."""

import json
import random
import shutil
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Final, cast

import torch
from accelerate.data_loader import prepare_data_loader
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedModel, Trainer, TrainerState

from distill import ranks
from distill.collate import IGNORED, BucketSampler, Selected
from distill.divergences import picked_logprobs
from distill.foreign import Side, answers_distance
from distill.loss_settings import LossSettings
from distill.losses import Targets, dense_distillation_loss, distillation_loss
from distill.on_policy import drift_weights, long_term_loss, prefix_weights, token_rewards
from distill.sampling import LocalSampler, Sampler, Sampling, sampled_batches

__all__ = (
    "DistillTrainer",
    "LocalTeacher",
    "computes_bfloat16",
    "freeze_embeddings",
    "freeze_lower_layers",
    "newest_checkpoint",
    "state_of",
)


SAMPLING: Final = Sampling(tokens=128, temperature=1.0, seed=0)


@dataclass(frozen=True)
class LocalTeacher:
    """A teacher that is run beside the student: on the rows' answers, and in ``share`` of the steps on sampled ones.

    ``model`` has the student's vocabulary. A sampled answer has the divergence as its loss, without the hard label.
    One that ``is_foreign`` has another: it reads the rows that are there in its tokens too, and no samples.
    """

    model: PreTrainedModel
    share: float = 0.0
    sampling: Sampling = SAMPLING
    is_foreign: bool = False
    gamma: float | None = None
    """Of `long_term_loss` in sampled answers; None leaves it out."""
    early: float = 0.0
    """Of `prefix_weights` in sampled answers."""
    sampler: Sampler | None = None
    """What draws the answers, by ``sampling``; None is the model that is trained itself."""


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


def state_of(checkpoint: str) -> TrainerState:
    """Where the trainer was when it wrote this checkpoint."""
    return TrainerState.load_from_json(str(Path(checkpoint, "trainer_state.json")))


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
    """A `transformers.Trainer` over an `ExampleSet`, or rows like it, whose loss is `distillation_loss`.

    Takes what `Trainer` takes, and the loss settings; with a ``teacher``, the loss is `dense_distillation_loss`.
    Batches come from `BucketSampler` and `collate`; with ``packed``, rows of any length make a batch.
    """

    def __init__(
        self, *, loss: LossSettings, teacher: LocalTeacher | None = None, packed: bool = False, **trainer: Any
    ) -> None:
        super().__init__(**trainer)
        self.loss_settings = loss
        self.teacher = teacher
        self._packed = packed

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches of similar length, in an order decided by the seed and the epoch, in pieces where so set."""
        return self._batches(self.train_dataset)

    def _batches(self, dataset: Any) -> DataLoader[Any]:
        rows = cast("Selected", dataset)
        window = 1 if self._packed else 32
        pieces = self.args.gradient_accumulation_steps
        size, part = self.args.train_batch_size * pieces * ranks.world(), (ranks.rank(), ranks.world(), pieces)
        sampler = BucketSampler(rows.lengths, size, self.args.seed, window, part)
        loader = DataLoader(cast("Dataset[Any]", rows), batch_sampler=sampler, collate_fn=self.data_collator)
        # the sampler has taken this process's part already
        return prepare_data_loader(
            loader, self.accelerator.device, num_processes=1, process_index=0, put_on_device=True
        )

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        """A step's batches; in a sampled step, with the student's own answers to their prompts."""
        teacher, step = self.teacher, self.state.global_step
        if teacher is None or not teacher.share or not _chosen(teacher, step):
            return super().get_batch_samples(epoch_iterator, num_batches, device)
        student = self.accelerator.unwrap_model(self.model)
        batches = list(islice(epoch_iterator, num_batches))
        sampler = teacher.sampler or LocalSampler(teacher.sampling)
        sampled = iter(sampled_batches(student, batches, sampler, step))
        return super().get_batch_samples(sampled, num_batches, device)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The loss of a batch of `collate`; the head is applied at the N positions before a label only."""
        labels, keep = _labels(inputs["labels"])
        with _head_only_at(self.accelerator.unwrap_model(model), keep):
            outputs = model(**_entering(inputs, "inputs_embeds" if "inputs_embeds" in inputs else "input_ids"))
        targets = Targets(
            labels=labels,
            soft_ids=inputs["soft_ids"],
            soft_logprobs=inputs["soft_logprobs"],
            weights=inputs["weights"],
        )
        if self.teacher is None or self.teacher.is_foreign:
            if self.teacher is not None and "teacher_ids" in inputs:
                temperature = self.loss_settings.temperature
                distances = _distances(self.teacher.model, outputs.logits, inputs, temperature)
                targets = replace(targets, distances=distances)
            loss = distillation_loss(outputs.logits, targets, self.loss_settings, num_items_in_batch)
        else:
            scores = _scores(self.teacher.model, _entering(inputs, "input_ids"), keep)
            if "sampled" in inputs:
                loss = self._sampled_loss(outputs.logits, scores, targets, inputs, num_items_in_batch)
            else:
                loss = dense_distillation_loss(
                    outputs.logits, scores, targets, self.loss_settings, num_items_in_batch
                )
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            # The divisor counts all processes' labels, and their gradients are averaged once more.
            loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def _sampled_loss(
        self,
        logits: Tensor,
        scores: Tensor,
        targets: Targets,
        inputs: dict[str, Tensor],
        items: Tensor | int | None,
    ) -> Tensor:
        """The loss of answers that the student sampled: no hard label is in it."""
        teacher = cast("LocalTeacher", self.teacher)
        labels, keep = _labels(inputs["labels"])
        rewards = token_rewards(logits, scores, labels, keep)
        weights = prefix_weights(rewards, teacher.early)[keep] * cast("Tensor", targets.weights)
        before = through = weights
        if "drawn_logprobs" in inputs:
            now = picked_logprobs(logits.detach(), labels.unsqueeze(-1), teacher.sampling.temperature)[:, 0]
            before, through = (weights * each for each in drift_weights(now, inputs["drawn_logprobs"], keep))
        settings = replace(self.loss_settings, alpha=1.0)
        loss = dense_distillation_loss(logits, scores, replace(targets, weights=before), settings, items)
        if teacher.gamma is not None:
            later = through * long_term_loss(logits, rewards, labels, keep, teacher.gamma)
            loss = loss + later.sum() / (items or len(labels))
        return loss

    def evaluate(
        self, eval_dataset: Any = None, *_: Any, metric_key_prefix: str = "eval", **__: Any
    ) -> dict[str, float]:
        """The loss over the validation rows, a mean over their labels, as ``eval_loss``."""
        model = cast("nn.Module", self.model)
        model.eval()
        total = torch.zeros(2, dtype=torch.float64)
        with torch.no_grad():
            for batch in self._batches(eval_dataset or self.eval_dataset):
                inputs = self._prepare_inputs(batch)
                with self.compute_loss_context_manager():
                    loss = float(self.compute_loss(model, inputs, num_items_in_batch=1)) / ranks.world()
                total += torch.tensor([loss, len(inputs["weights"])])
        model.train()
        loss, labels = ranks.summed(total).tolist()
        metrics = {f"{metric_key_prefix}_loss": loss / labels}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def _chosen(teacher: LocalTeacher, step: int) -> bool:
    return random.Random(f"{teacher.sampling.seed}/{step}").random() < teacher.share  # noqa: S311 - a draw, not a secret


def _entering(inputs: dict[str, Tensor], name: str) -> dict[str, Any]:
    """What a model is given of a batch: packed examples are told apart by their positions, without a mask."""
    apart = "position_ids" if "position_ids" in inputs else "attention_mask"
    return {name: inputs[name], apart: inputs[apart], "use_cache": False}


def _labels(labels: Tensor) -> tuple[Tensor, Tensor]:
    """The N labels of a batch, and where (B, T) the positions are that come before one."""
    following = labels[:, 1:]
    keep = nn.functional.pad(following != IGNORED, (0, 1))
    return following[keep[:, :-1]], keep


def _scores(teacher: PreTrainedModel, entering: dict[str, Any], keep: Tensor) -> Tensor:
    with torch.no_grad(), _head_only_at(teacher, keep):
        return teacher(**entering).logits


def _distances(teacher: PreTrainedModel, logits: Tensor, inputs: dict[str, Tensor], temperature: float) -> Tensor:
    """What a teacher with another tokenizer says of the batch's labels, see `answers_distance`."""
    ids, keep = _labels(inputs["teacher_labels"])
    entering = {"input_ids": inputs["teacher_ids"], "attention_mask": inputs["teacher_mask"], "use_cache": False}
    theirs = Side(_scores(teacher, entering, keep), ids, inputs["teacher_ends"], inputs["teacher_rows"])
    mine = Side(logits, _labels(inputs["labels"])[0], inputs["ends"], inputs["rows"])
    return answers_distance(mine, theirs, temperature)
