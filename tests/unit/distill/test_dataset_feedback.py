"""Feedback in a dataset: wrong answers stay out, corrections come in as hard labels."""

import json
from pathlib import Path
from typing import Any

import pytest

from distill.collate import read_examples
from distill.dataset import Building, build_dataset, is_held_out, read_held_out
from distill.settings import DistillSettings
from ledger import feedback
from ledger.feedback import Feedback
from ledger.requests import insert_records
from ledger.store import Store
from tests.unit.distill.data.rows import EXACT, ask, record, row, split
from tests.unit.distill.test_dataset import SETTINGS, logprobs_of, pieces_of, store, tokenizer

__all__ = ("store", "tokenizer")

TRAINED = DistillSettings(min_examples=1, holdout_share=0, data=EXACT)


def say(store: Store, request_id: str, **values: Any) -> None:
    feedback.add(store, Feedback(id="", created_at=0, request_id=request_id, **values), "key_1", anyones=False)


def answers(selected: dict[str, Any]) -> dict[str, str]:
    return {r.id: r.answer for r in selected.values()}


@pytest.mark.parametrize(("score", "taken"), [(0.0, False), (0.49, False), (0.5, True), (1.0, True), (None, True)])
def test_an_answer_with_a_negative_score_is_dropped_and_counted(score: float | None, taken: bool):
    selection = split([row("where is it?", score=score)], TRAINED, 0.1)
    assert len(selection.train) == taken
    assert selection.dropped == ({} if taken else {"negative_feedback": 1})


def test_a_negative_score_keeps_an_answer_out_of_both_files():
    rows = [row(f"parcel {n}", score=0.0) for n in range(50)]
    selection = split(rows, SETTINGS, 1.0)
    assert (selection.train, selection.held_out) == ({}, {})
    assert selection.dropped == {"negative_feedback": 50}


def test_a_corrected_answer_is_taken_whatever_its_score_and_may_be_a_refusal():
    rows = [row("a", "right", score=0.0, corrected=True), row("b", "I'm sorry, but I can't.", corrected=True)]
    selection = split(rows, TRAINED, 0.1)
    assert (len(selection.train), selection.dropped) == (2, {})


def test_a_correction_outlives_later_answers_to_the_same_request_but_not_a_later_correction():
    rows = [row("where is it?", f"answer {n}", id=str(n), corrected=n in (1, 2)) for n in range(5)]
    selection = split(rows, TRAINED, 0.1)
    assert answers(selection.train) == {"2": "answer 2"}
    assert selection.dropped == {"duplicate": 4}


def test_what_only_a_correction_brings_is_never_held_out():
    rows = [row(f"parcel {n}", reason="confident", corrected=True, answered=False) for n in range(200)]
    selection = split(rows, SETTINGS, 1.0)
    held_out = sum(is_held_out(ask(f"parcel {n}"), SETTINGS.holdout_share) for n in range(200))
    assert selection.held_out == {}
    assert (len(selection.train), selection.dropped) == (200 - held_out, {"not_sampled": held_out})


def test_a_dataset_of_a_ledger_with_feedback_has_corrections_as_hard_labels(
    store: Store, tokenizer: Any, tmp_path: Path
):
    pieces = logprobs_of(pieces_of(tokenizer, "lost"))
    teachers = [record(f"where is parcel {n}", "lost", teacher_logprobs=pieces) for n in range(40)]
    students = [record(f"late card {n}", "lost", route="student", reason="confident") for n in range(40)]
    insert_records(store, [*teachers, *students])
    for wrong in teachers[:10]:
        say(store, wrong.id, score=0.2)
    for corrected in (*teachers[10:20], *students[:10]):
        say(store, corrected.id, score=0.0, correction="refund")
    for praised in (*teachers[20:30], *students[10:20]):
        say(store, praised.id, score=1.0)
    manifest = build_dataset(Building(store, SETTINGS, 1.0, tokenizer), tmp_path / "dataset")
    examples = list(read_examples(tmp_path / "dataset" / "train.parquet"))
    held_out = read_held_out(tmp_path / "dataset")
    right = [e for e in examples if tokenizer.decode(e.answer_ids) == "refund<end>"]
    assert right
    assert not any(ids for example in right for ids in example.soft_ids or ())
    assert all(e.soft_ids for e in examples if tokenizer.decode(e.answer_ids) == "lost<end>")
    put_right = len(right) + sum(held.answer == "refund" for held in held_out)
    assert manifest.corrected == put_right
    assert json.loads((tmp_path / "dataset" / "manifest.json").read_bytes())["corrected"] == put_right
    assert manifest.dropped == {"negative_feedback": 10, "not_sampled": 20 - put_right}
    assert manifest.train + manifest.held_out == 20 + put_right
    ids = {held.id for held in held_out}
    assert not ids & {r.id for r in (*teachers[:10], *students)}
