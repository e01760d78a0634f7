"""A look at some answers before any is written: what their teacher gives, and what will become of it."""

from collections.abc import Iterable, Sequence
from typing import Any

from distill.capabilities import TeacherCapabilities, detect, loss_for
from distill.local_teacher import LocalTokens
from distill.target_report import TargetReport
from distill.targets import explain, from_openai
from distill.vocabulary import byte_vocabulary, special_tokens, token_bytes

__all__ = ("SAMPLE", "scan")

SAMPLE = 200
"""Answers that tell what a teacher gives."""


def scan(
    answers: Iterable[tuple[str, Sequence[Any] | None]], tokenizer: Any, local: LocalTokens | None = None
) -> tuple[TeacherCapabilities, TargetReport]:
    """What the teacher gives, and the report that a dataset of these answers would have.

    Each answer comes with its log-probabilities as in OpenAI's ``logprobs.content``, or None; ``local`` is the
    teacher whose weights are here, if one is.
    """
    table = token_bytes(tokenizer)
    vocabulary = byte_vocabulary(table) | special_tokens(tokenizer)
    found = [
        (teacher, explain([*ids, tokenizer.eos_token_id], table, teacher, vocabulary))
        for answer, logged in answers
        for teacher, ids in [(from_openai(logged or ()), tokenizer(answer, add_special_tokens=False).input_ids)]
    ]
    capabilities = detect(found, is_foreign=local.is_foreign if local else None)
    report = TargetReport()
    for teacher, alignment in found:
        report.add(alignment, loss_for(teacher, alignment.aligned_share, capabilities))
    return capabilities, report
