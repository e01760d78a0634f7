"""Packed batches: several examples in a row, none of which sees another."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, TrainingArguments

from distill.collate import Example, ExampleSet, bins, collate, split_off
from distill.loss_settings import LossSettings
from distill.trainer import DistillTrainer

Rows = Callable[..., list[Example]]


@given(st.lists(st.integers(2, 50), min_size=1, max_size=40))
def test_every_example_is_in_one_row_that_is_no_longer_than_the_longest(lengths: list[int]):
    rows = bins(lengths, packed=True)
    assert sorted(place for row in rows for place in row) == list(range(len(lengths)))
    assert max(sum(lengths[place] for place in row) for row in rows) == max(lengths)
    # first fit leaves at most one row half empty
    assert sum(2 * sum(lengths[place] for place in row) <= max(lengths) for row in rows) <= 1


def test_the_logits_of_a_packed_row_are_those_of_its_examples_alone(tiny: Path, rows: Rows):
    model = AutoModelForCausalLM.from_pretrained(tiny).eval()
    examples = rows(12)
    batch = collate(examples, 0, 8, packed=True)
    shared = bins(list(map(len, examples)), packed=True)
    assert max(map(len, shared)) > 1
    with torch.no_grad():
        together = model(batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
        for row, places in zip(together, shared, strict=True):
            start = 0
            for place in places:
                one = examples[place]
                alone = model(torch.tensor([one.prompt_ids + one.answer_ids])).logits[0]
                torch.testing.assert_close(row[start : start + len(one)], alone, atol=1e-5, rtol=1e-5)
                start += len(one)


@pytest.mark.parametrize("multiple_of", [1, 16])
def test_the_loss_and_its_gradient_are_those_of_padded_rows(tiny: Path, rows: Rows, tmp_path: Path, multiple_of: int):
    found: list[tuple[torch.Tensor, torch.Tensor]] = []
    for packed in (False, True):
        trainer = DistillTrainer(
            loss=LossSettings(0.5, 2.0, "bucket"),
            model=AutoModelForCausalLM.from_pretrained(tiny),
            args=TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none"),
            train_dataset=ExampleSet(rows(12)),
            data_collator=partial(collate, pad_id=0),
        )
        loss = trainer.compute_loss(trainer.model, collate(rows(12), 0, multiple_of, packed))
        loss.backward()
        found.append((loss.detach(), trainer.model.get_input_embeddings().weight.grad))
    for padded, packed in zip(*found, strict=True):
        torch.testing.assert_close(packed, padded, atol=1e-6, rtol=1e-4)


def test_validation_rows_are_taken_at_random_by_the_seed_and_from_no_other_use(rows: Rows):
    examples = ExampleSet(rows(40))
    training, validation = split_off(examples, 0.25, seed=1)
    assert (len(training), len(validation)) == (30, 10)
    both = [*training.lengths, *validation.lengths]
    assert sorted(both) == sorted(examples.lengths)
    key = [(row.prompt_ids, row.answer_ids) for row in (*training, *validation)]
    assert sorted(key) == sorted((row.prompt_ids, row.answer_ids) for row in examples)
    assert split_off(examples, 0.25, seed=1)[1].lengths == validation.lengths
    assert [row.prompt_ids for row in split_off(examples, 0.25, seed=2)[1]] != [row.prompt_ids for row in validation]
