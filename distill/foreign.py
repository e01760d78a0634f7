"""Distilling from a teacher with another tokenizer and vocabulary, without a map between the two.

Universal logit distillation (arXiv:2402.12030, section 3) compares how the probabilities of a position are spread,
largest first, whatever the tokens are. Where one side has several tokens for the other's one, the positions are
merged first, as in TRL's GOLD trainer.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from distill.divergences import rows_at_once

__all__ = (
    "Merge",
    "Side",
    "aligned_groups",
    "answers_distance",
    "merged_probabilities",
    "sorted_distance",
    "universal_logit_distance",
)

Merge: TypeAlias = Literal["observed", "bayesian"]


@dataclass(frozen=True)
class Side:
    """One model's N tokens of some answers: ``logits`` (N, V) that each was to be drawn from, ``ids`` (N,).

    ``ends`` (N,) is the byte of its answer at which each ends, ``rows`` (N,) the answer's number, -1 for one that
    only this side has.
    """

    logits: Tensor
    ids: Tensor
    ends: Tensor
    rows: Tensor

    def of(self, row: int) -> "Side":
        """The tokens of one answer."""
        there = self.rows == row
        return Side(self.logits[there], self.ids[there], self.ends[there], self.rows[there])


def answers_distance(student: Side, teacher: Side, temperature: float = 1.0) -> Tensor:
    """`sorted_distance` of both sides' distributions wherever their tokens end on the same byte.

    Tokens up to such a byte are one, whose distribution is that of the last times the probability of those before it
    (``bayesian``). One answer at a time, and again in the backward pass, so that no copy of all logits is kept.

    Returns:
        (N,) for the student's tokens, each with the distance of the group that it is in; -1 where the teacher has not
        the answer.
    """
    found = _wide(student.logits[:0]).new_full(student.ids.shape, -1.0)
    for row in range(int(teacher.rows.max()) + 1):
        mine, theirs = student.of(row), teacher.of(row)
        groups, others = aligned_groups(mine.ends, theirs.ends)
        distance = checkpoint(
            _grouped_distance, (mine.logits, mine.ids, groups), (theirs.logits, theirs.ids, others), temperature,
            use_reentrant=False, preserve_rng_state=False,
        )  # fmt: skip
        found = found.masked_scatter(student.rows == row, distance[groups])
    return found


def _grouped_distance(
    student: tuple[Tensor, Tensor, Tensor], teacher: tuple[Tensor, Tensor, Tensor], temperature: float
) -> Tensor:
    sides = [
        merged_probabilities(torch.softmax(_wide(logits) / temperature, dim=-1), ids, groups, "bayesian")
        for logits, ids, groups in (student, teacher)
    ]
    return sorted_distance(*sides)


def _wide(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def sorted_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Sum of |p_(i) - q_(i)| over the ranks i, the shorter side ending in zeros (arXiv:2402.12030, eq. 5).

    Without their constants, it is the Wasserstein distance of the two under a cost of 1 for any two tokens.

    Args:
        student: (N, V) probabilities, not necessarily adding up to 1.
        teacher: (N, W) same.

    Returns:
        (N,), from 0 to 2 where both add up to 1.
    """
    q, p = (each.sort(dim=-1, descending=True).values for each in (student, teacher))
    shared = min(q.shape[-1], p.shape[-1])
    return (q[:, :shared] - p[:, :shared]).abs().sum(-1) + q[:, shared:].sum(-1) + p[:, shared:].sum(-1)


def universal_logit_distance(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """`sorted_distance` of both softmaxes at each position, a few rows at a time.

    Args:
        student_logits: (N, V), before any softmax.
        teacher_logits: (N, W) of the same N positions.
        temperature: T > 0, divides both.

    Returns:
        (N,).
    """
    rows = min(rows_at_once(student_logits), rows_at_once(teacher_logits))
    pairs = zip(student_logits.split(rows), teacher_logits.split(rows), strict=True)
    return torch.cat(
        [checkpoint(_distance, *pair, temperature, use_reentrant=False, preserve_rng_state=False) for pair in pairs]
    )


def _distance(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    student, teacher = (torch.softmax(each / temperature, dim=-1) for each in (student_logits, teacher_logits))
    return sorted_distance(student, teacher)


def aligned_groups(student_ends: Tensor, teacher_ends: Tensor) -> tuple[Tensor, Tensor]:
    """The shortest runs of tokens that end on the same byte on both sides, by number.

    Args:
        student_ends: (N,) the byte of the text at which each token ends, rising.
        teacher_ends: (M,) same.

    Returns:
        (N,) and (M,) long: each token's group, from 0; what comes after the last common byte is a group of its own.
    """
    common = student_ends[torch.isin(student_ends, teacher_ends)].unique()
    return torch.searchsorted(common, student_ends), torch.searchsorted(common, teacher_ends)


def merged_probabilities(probabilities: Tensor, ids: Tensor, groups: Tensor, merge: Merge = "observed") -> Tensor:
    """One distribution for each group of positions, times the probability of the group's other tokens.

    Args:
        probabilities: (N, V). For ``bayesian`` row k is of the token k itself, for ``observed`` as TRL has it.
        ids: (N,) long, the tokens that are there.
        groups: (N,) long, rising by at most 1, from 0.
        merge: Whether the group's first row is kept whole (``observed``) or its last (``bayesian``).

    Returns:
        (G, V), not normalised: the rest of the mass is on other runs of tokens.
    """
    n = int(groups[-1]) + 1 if len(groups) else 0
    starts = groups.new_zeros(len(groups), dtype=torch.bool)
    changes = groups[1:] != groups[:-1]
    starts[:1], starts[1:] = True, changes
    ends = torch.cat([changes, starts[:1]])
    kept = starts if merge == "observed" else ends
    drawn = probabilities.gather(-1, ids.unsqueeze(-1)).squeeze(-1)
    # a probability that rounds to 0 has no logarithm, and no gradient
    scalars = drawn.clamp(min=torch.finfo(drawn.dtype).tiny).log().masked_fill(kept, 0.0)
    others = probabilities.new_zeros(n).index_add(0, groups, scalars).exp()
    return probabilities[kept] * others.unsqueeze(-1)
