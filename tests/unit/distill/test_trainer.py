"""The trainer's loss and gradients, on a tiny model."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, TrainingArguments

from distill.collate import Example, ExampleSet, collate
from distill.loss_settings import Divergence, LossSettings
from distill.losses import Targets, distillation_loss
from distill.sampling import LocalSampler, Sampling, sampled_batches
from distill.trainer import DistillTrainer

Rows = Callable[..., list[Example]]


def trainer_of(folder: Path, examples: list[Example], output: Path, **arguments: Any) -> DistillTrainer:
    defaults: dict[str, Any] = {"num_train_epochs": 1, "per_device_train_batch_size": 4, "max_grad_norm": 0.0}
    return DistillTrainer(
        loss=LossSettings(0.5, 2.0, "bucket"),
        model=AutoModelForCausalLM.from_pretrained(folder),
        args=TrainingArguments(
            output_dir=str(output),
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
            save_strategy="no",
            **(defaults | arguments),
        ),
        train_dataset=ExampleSet(examples),
        data_collator=partial(collate, pad_id=0, multiple_of=1),
    )


def test_the_loss_is_that_of_full_logits_shifted_by_one(tiny: Path, rows: Rows, tmp_path: Path):
    trainer = trainer_of(tiny, rows(4), tmp_path)
    batch = collate(rows(4), pad_id=0)
    loss = trainer.compute_loss(trainer.model, batch)
    logits = trainer.model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    labels = batch["labels"][:, 1:]
    keep = labels != -100
    targets = Targets(labels[keep], batch["soft_ids"], batch["soft_logprobs"])
    torch.testing.assert_close(loss, distillation_loss(logits[keep], targets, LossSettings(0.5, 2.0, "bucket")))
    reverse = LossSettings(0.5, 1.0, "ignore", Divergence("reverse_kl"))
    trainer.loss_settings = reverse
    torch.testing.assert_close(
        trainer.compute_loss(trainer.model, batch), distillation_loss(logits[keep], targets, reverse)
    )
    hard = functional.cross_entropy(logits[keep], labels[keep])
    trainer.loss_settings = LossSettings(alpha=0.0)
    torch.testing.assert_close(trainer.compute_loss(trainer.model, batch), hard)


def test_the_head_sees_label_positions_only(tiny: Path, rows: Rows, tmp_path: Path):
    trainer = trainer_of(tiny, rows(4), tmp_path)
    batch = collate(rows(4), pad_id=0, multiple_of=32)
    _, outputs = trainer.compute_loss(trainer.model, batch, return_outputs=True)
    assert outputs.logits.shape == ((batch["labels"] != -100).sum(), 300)
    assert trainer.model(batch["input_ids"]).logits.shape == (4, 32, 300), "the hook is gone afterwards"


def test_padding_does_not_change_the_loss_and_gets_no_gradient(tiny: Path, rows: Rows, tmp_path: Path):
    trainer = trainer_of(tiny, rows(5), tmp_path)
    narrow, wide = (collate(rows(5), pad_id=299, multiple_of=n) for n in (1, 64))
    loss = trainer.compute_loss(trainer.model, wide)
    torch.testing.assert_close(loss, trainer.compute_loss(trainer.model, narrow))
    seen: list[torch.Tensor] = []

    def watch(_module: torch.nn.Module, _ids: Any, embedded: torch.Tensor) -> None:
        embedded.register_hook(seen.append)

    trainer.model.get_input_embeddings().register_forward_hook(watch)
    trainer.compute_loss(trainer.model, wide).backward()
    (gradient,) = seen
    assert gradient[wide["attention_mask"] == 0].abs().max() == 0
    assert gradient[wide["attention_mask"] == 1].abs().sum() > 0


def test_a_sampled_row_keeps_its_prompt_and_its_weight(tiny: Path, rows: Rows):
    examples = [msgspec.structs.replace(row, weight=0.5 + place) for place, row in enumerate(rows(5))]
    model = AutoModelForCausalLM.from_pretrained(tiny)
    sampler = LocalSampler(Sampling(tokens=6, temperature=1.0, seed=0))
    (batch,) = sampled_batches(model, [collate(examples, pad_id=0)], sampler, 0)
    labels = batch["labels"] != -100
    assert batch["weights"].tolist() == [0.5 + row for row, _ in labels.nonzero().tolist()]
    for place, row in enumerate(examples):
        start = int(labels[place].int().argmax())
        assert batch["input_ids"][place, :start].tolist() == row.prompt_ids


def test_micro_batches_add_up_to_the_whole_batch(tiny: Path, rows: Rows, tmp_path: Path):
    weights = []
    for size, accumulated in ((4, 1), (1, 4)):
        trainer = trainer_of(
            tiny,
            rows(4),
            tmp_path,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulated,
            optim="sgd",
            learning_rate=0.1,
            lr_scheduler_type="constant",
        )
        trainer.train()
        assert trainer.state.global_step == 1
        weights.append({name: tensor.detach().clone() for name, tensor in trainer.model.named_parameters()})
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], msg=name)
