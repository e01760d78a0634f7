"""What a teacher gives, as its logged answers show it, and which loss each row is trained with by that."""

from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal, TypeAlias

import msgspec

from distill.targets import Alignment, TeacherToken

__all__ = ("NOT_ALLOWED", "LossKind", "TeacherCapabilities", "detect", "loss_for")

LossKind: TypeAlias = Literal["dense", "top_k", "byte_aligned", "foreign", "hard"]
"""How a row is trained on.

``dense``: the teacher's whole distribution (a local one's). ``top_k``: its likeliest tokens, which are the student's
own, and a tail. ``byte_aligned``: the same where tokens of both cover the same bytes. ``foreign``: the whole
distribution of a local teacher with another tokenizer, by its shape. ``hard``: the answer's text.
"""
NOT_ALLOWED: Final = (
    "teacher.terms_allow_training is false: its answers may not be trained on; set it to true once its terms allow it"
)
SAME: Final = 0.999
"""Share of the positions that must match for a vocabulary to be the student's: some servers log no end token."""
ENOUGH: Final = 100
"""Tokens to judge a vocabulary by."""
LOW: Final = 0.5
"""A row with soft targets at a smaller share of its tokens is better off with a local teacher's distributions."""


class TeacherCapabilities(msgspec.Struct, frozen=True, kw_only=True):
    """Of the answers that were looked at. It stands in the dataset's manifest."""

    answers: int = 0
    with_logprobs: int = 0
    top_logprobs: int = 0
    """Most alternatives that were logged with a token."""
    tokens: int = 0
    """The student's, of answers with log-probabilities, without the end."""
    same_tokens: int = 0
    """Of those, what the teacher has as a token too."""
    dense: bool = False
    """A local teacher with the student's tokenizer: it gives all logits."""
    foreign: bool = False
    """A local teacher with another tokenizer."""
    terms_allow_training: bool = True
    """As the settings say (``teacher.terms_allow_training``)."""

    @property
    def gives_logprobs(self) -> bool:
        """Whether any answer has them."""
        return self.with_logprobs > 0

    @property
    def same_vocabulary(self) -> bool | None:
        """Whether its tokens are the student's; None where too few were seen."""
        return self.same_tokens >= SAME * self.tokens if self.tokens >= ENOUGH else None


def detect(
    answers: Iterable[tuple[Sequence[TeacherToken], Alignment]],
    terms_allow_training: bool = True,
    is_foreign: bool | None = None,
) -> TeacherCapabilities:
    """Look at answers, each with what was logged of it (nothing, for none) and its alignment.

    ``is_foreign`` is of a local teacher: whether its tokenizer is another than the student's; None without one.
    """
    seen = logged = top = tokens = same = 0
    for teacher, alignment in answers:
        seen += 1
        if teacher:
            logged += 1
            top = max(top, *(len(token.top) for token in teacher))
            causes = [cause for cause in alignment.causes[:-1] if cause != "special"]
            tokens += len(causes)
            same += causes.count(None) + causes.count("outside_vocabulary")
    return TeacherCapabilities(
        answers=seen,
        with_logprobs=logged,
        top_logprobs=top,
        tokens=tokens,
        same_tokens=same,
        dense=is_foreign is False,
        foreign=is_foreign is True,
        terms_allow_training=terms_allow_training,
    )


def loss_for(logprobs: Sequence[Any] | None, aligned: float, capabilities: TeacherCapabilities) -> LossKind:
    """The best loss for a row: dense, else top-k, else byte-aligned, else foreign, else hard.

    The student's own vocabulary is only taken for granted where it was seen to be the same.

    Args:
        logprobs: What was logged of the row's answer, if anything.
        aligned: Share of its tokens that have a soft target by that; `LOW` is low.
        capabilities: What the teacher gives.
    """
    if capabilities.dense:
        return "dense"
    if logprobs and capabilities.same_vocabulary:
        return "top_k"
    if capabilities.foreign and (not logprobs or aligned < LOW):
        return "foreign"
    return "byte_aligned" if logprobs else "hard"
