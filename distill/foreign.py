"""Distilling from a teacher with another tokenizer and vocabulary, without a map between the two.

Universal logit distillation (arXiv:2402.12030, section 3) compares how the probabilities of a position are spread,
largest first, whatever the tokens are. Where one side has several tokens for the other's one, the positions are
merged first, as in TRL's GOLD trainer.
"""

from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from distill.divergences import rows_at_once

__all__ = ("Merge", "aligned_groups", "merged_probabilities", "sorted_distance", "universal_logit_distance")

Merge: TypeAlias = Literal["observed", "bayesian"]


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
    scalars = probabilities.gather(-1, ids.unsqueeze(-1)).squeeze(-1).log().masked_fill(kept, 0.0)
    others = probabilities.new_zeros(n).index_add(0, groups, scalars).exp()
    return probabilities[kept] * others.unsqueeze(-1)
