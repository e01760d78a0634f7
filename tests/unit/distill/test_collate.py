"""Rows, their file, the order of batches, and the tensors of a batch."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from distill.collate import BucketSampler, Example, ExampleSet, collate, read_examples

Rows = Callable[..., list[Example]]
Written = Callable[[list[Example]], Path]


def test_a_batch_is_padded_on_the_right_and_its_targets_are_packed():
    batch = collate(
        [
            Example([5, 6], [7, 0], [[7, 8], []], [[-0.1, -3.0], []]),
            Example([9], [4, 3, 2, 0], weight=0.5),
        ],
        pad_id=1,
        multiple_of=4,
    )
    assert batch["input_ids"].tolist() == [[5, 6, 7, 0, 1, 1, 1, 1], [9, 4, 3, 2, 0, 1, 1, 1]]
    assert batch["attention_mask"].sum(1).tolist() == [4, 5]
    assert batch["labels"].tolist() == [[-100, -100, 7, 0] + [-100] * 4, [-100, 4, 3, 2, 0] + [-100] * 3]
    assert batch["soft_ids"].tolist() == [[7, 8]] + [[-1, -1]] * 5
    assert batch["soft_logprobs"][0].tolist() == pytest.approx([-0.1, -3.0])
    assert batch["weights"].tolist() == [1.0, 1.0, 0.5, 0.5, 0.5, 0.5]


def test_a_batch_without_soft_targets_has_none():
    batch = collate([Example([1], [2, 0])], pad_id=0)
    assert batch["soft_ids"].shape == batch["soft_logprobs"].shape == (2, 0)
    assert batch["soft_ids"].dtype == torch.long


@pytest.mark.parametrize("packed", [False, True])
def test_rows_that_a_foreign_teacher_reads_are_there_in_its_tokens_and_know_their_place(packed: bool):
    read = [Example([5], [7, 0], [], [], 1.0, [11, 12], [13, 14, 10], [2, 3], [1, 2, 3]), Example([5], [0])]
    read.append(Example([6, 6, 6], [8, 0], [], [], 1.0, [15], [16, 10], [1, 2], [1, 2]))
    batch = collate(read, pad_id=1, multiple_of=1, packed=packed)
    apart = {name: batch[name].tolist() for name in ("rows", "ends", "teacher_rows", "teacher_ends")}
    labels = batch["labels"][batch["labels"] != -100].tolist()
    if packed:  # the longest comes first
        assert labels == [8, 0, 7, 0, 0]
        assert apart["rows"] == [0, 0, 1, 1, -1]
        assert apart["ends"] == [1, 2, 2, 3, -1]
        assert apart["teacher_ends"] == [1, 2, 1, 2, 3]
    else:
        assert labels == [7, 0, 0, 8, 0]
        assert apart["rows"] == [0, 0, -1, 1, 1]
        assert apart["ends"] == [2, 3, -1, 1, 2]
        assert batch["teacher_ids"].tolist() == [[11, 12, 13, 14, 10], [15, 16, 10, 0, 0]]
        assert batch["teacher_mask"].sum(1).tolist() == [5, 3]
        assert batch["teacher_labels"].tolist() == [[-100, -100, 13, 14, 10], [-100, 16, 10, -100, -100]]
        assert apart["teacher_rows"] == [0, 0, 0, 1, 1]
    assert "rows" not in collate([Example([5], [0])], pad_id=1)


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt_ids": [], "answer_ids": [1]},
        {"prompt_ids": [1], "answer_ids": []},
        {"prompt_ids": [1], "answer_ids": [1, 2], "soft_ids": [[1]], "soft_logprobs": [[-1.0]]},
        {"prompt_ids": [1], "answer_ids": [1], "soft_ids": [[1]], "soft_logprobs": [[-1.0, -2.0]]},
        {"prompt_ids": [1], "answer_ids": [1], "soft_ids": [[1]], "soft_logprobs": []},
        {"prompt_ids": [1], "answer_ids": [1], "teacher_prompt_ids": [1], "teacher_answer_ids": [1]},
        {"prompt_ids": [1], "answer_ids": [1], "ends": [1], "teacher_answer_ids": [1], "teacher_ends": [1]},
    ],
    ids=["no prompt", "no answer", "too few targets", "more logs than ids", "no logs", "no ends", "no prompt of it"],
)
def test_a_row_that_cannot_be_trained_on_is_refused(fields: dict[str, Any]):
    with pytest.raises(ValueError, match=r"example|soft|teacher"):
        Example(**fields)
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(json.dumps(fields), type=Example)


def test_parquet_and_json_lines_read_alike(rows: Rows, written: Written, tmp_path: Path):
    examples = [*rows(5), *rows(3, soft=0)]
    parquet.write_table(pa.Table.from_pylist([msgspec.to_builtins(row) for row in examples]), tmp_path / "r.parquet")
    assert list(read_examples(tmp_path / "r.parquet")) == examples == list(read_examples(written(examples)))


def test_a_set_of_examples_gives_back_the_rows_and_counts_those_too_long(rows: Rows):
    examples = rows(20)
    longest = max(map(len, examples))
    held = ExampleSet(examples, max_length=longest - 1)
    kept = [row for row in examples if len(row) < longest]
    assert list(held) == kept == held[:]
    assert held.lengths == list(map(len, kept))
    assert held.too_long == len(examples) - len(kept) > 0


@settings(deadline=None)
@given(st.lists(st.integers(1, 60), max_size=200), st.integers(1, 9), st.integers(), st.integers(0, 5))
def test_an_epoch_has_each_row_once_in_batches_of_the_size(lengths: list[int], size: int, seed: int, epoch: int):
    sampler = BucketSampler(lengths, size, seed)
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    assert len(batches) == len(sampler)
    assert sum(len(batch) != size for batch in batches) <= 1
    assert batches == list(sampler)


def test_epochs_differ_and_seeds_differ():
    lengths = [10] * 64
    orders = []
    for seed, epoch in ((0, 0), (0, 1), (1, 0)):
        sampler = BucketSampler(lengths, 8, seed)
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_batches_of_similar_length_hardly_need_padding():
    lengths = [5 + (7 * n) % 60 for n in range(640)]
    padded = sum(max(lengths[row] for row in batch) * len(batch) for batch in BucketSampler(lengths, 16, 0))
    assert padded < 1.05 * sum(lengths)
