"""Distillation losses: forward KL from a teacher's top-k, dense generalised JSD, and the mix with CE."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ("LossSettings", "Tail", "Targets", "distillation_loss", "generalised_jsd", "sparse_forward_kl")

Tail = Literal["bucket", "renormalise"]


@dataclass(frozen=True)
class LossSettings:
    """``alpha`` is the share of the soft targets in the loss; ``temperature`` softens both sides."""

    alpha: float = 0.5
    temperature: float = 1.0
    tail: Tail = "renormalise"


@dataclass(frozen=True)
class Targets:
    """What the N label positions should say.

    ``labels`` (N,) token ids; ``soft_ids`` (N, K) token ids, -1 where there are fewer than K;
    ``soft_logprobs`` (N, K) natural logs, ignored where the id is -1; ``weights`` (N,) or None for ones.
    """

    labels: Tensor
    soft_ids: Tensor
    soft_logprobs: Tensor
    weights: Tensor | None = None


def sparse_forward_kl(
    student_logits: Tensor, ids: Tensor, logprobs: Tensor, temperature: float, tail: Tail
) -> Tensor:
    """KL(teacher ∥ student) at each position from the teacher's top-k alone.

    ``bucket`` compares K+1 cells, the last holding all that is not listed, on both sides (arXiv:2503.16870
    discusses the bias of dropping it). ``renormalise`` spreads the teacher's whole mass over the K listed
    tokens and compares with the student's full softmax, so unlisted tokens are pushed down.

    At a temperature T the stored logs (of T = 1) become log p / T, normalised again over the cells; the tail
    counts as one cell, since how it is spread is not known.

    Args:
        student_logits: (N, V), before any softmax.
        ids: (N, K) long, padded with -1. A row of -1 has no target and gives 0 without gradient.
        logprobs: (N, K), natural logs; values at padding are ignored.
        temperature: T > 0; no T² here, see `distillation_loss`.
        tail: What becomes of the mass that is not listed.

    Returns:
        (N,) nats, at least 0 up to rounding.
    """
    scaled = student_logits if temperature == 1.0 else student_logits / temperature
    return _sparse_kl(_picked(scaled, ids), ids, logprobs, temperature, tail)


def _picked(scaled_logits: Tensor, ids: Tensor, lse: Tensor | None = None) -> Tensor:
    """The student's log-probabilities of the listed tokens, (N, K), without an (N, V) log-softmax."""
    lse = torch.logsumexp(scaled_logits, dim=-1) if lse is None else lse
    return scaled_logits.gather(-1, ids.clamp(min=0)) - lse.unsqueeze(-1)


def _sparse_kl(student: Tensor, ids: Tensor, logprobs: Tensor, temperature: float, tail: Tail) -> Tensor:
    listed = ids >= 0
    stored = logprobs.to(student.dtype).masked_fill(~listed, -torch.inf)
    cells = stored / temperature
    if tail == "bucket":
        epsilon = torch.finfo(student.dtype).eps
        left = 1.0 - stored.exp().sum(-1, keepdim=True)
        # Four steps of rounding are no tail: at T = 2 their square root would be one.
        cells = torch.cat([cells, left.masked_fill(left < 4 * epsilon, 0.0).log() / temperature], dim=-1)
        rest = 1.0 - student.masked_fill(~listed, -torch.inf).exp().sum(-1, keepdim=True)
        student = torch.cat([student, rest.clamp(min=epsilon).log()], dim=-1)
    # A row without any cell is 0/0 where nothing stands for the tail; the NaN is in a constant.
    teacher = torch.softmax(cells, dim=-1).masked_fill(~listed.any(-1, keepdim=True), 0.0)
    return -(torch.special.entr(teacher) + teacher * student).sum(-1)


def generalised_jsd(student_logits: Tensor, teacher_logits: Tensor, beta: float, temperature: float) -> Tensor:
    """Generalised Jensen-Shannon divergence at each position (arXiv:2306.13649, eq. 1), dense.

    With p the teacher, q the student and M = beta p + (1 - beta) q: beta KL(p ∥ M) + (1 - beta) KL(q ∥ M).
    That vanishes at both ends, so beta 0 means KL(p ∥ q) and beta 1 means KL(q ∥ p).

    Args:
        student_logits: (N, V).
        teacher_logits: (N, V) over the same vocabulary.
        beta: In [0, 1].
        temperature: T > 0, applied to both; no T² here.

    Returns:
        (N,) nats.

    Raises:
        ValueError: ``beta`` is outside [0, 1].
    """
    if not 0.0 <= beta <= 1.0:
        raise ValueError(f"beta is {beta}, not in [0, 1]")
    q = torch.log_softmax(student_logits / temperature, dim=-1)
    p = torch.log_softmax(teacher_logits / temperature, dim=-1)
    if beta == 0.0:
        return _kl(p, q)
    if beta == 1.0:
        return _kl(q, p)
    weights = p.new_tensor([beta, 1.0 - beta]).log()
    mixture = torch.logaddexp(p + weights[0], q + weights[1])
    return beta * _kl(p, mixture) + (1.0 - beta) * _kl(q, mixture)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)


def distillation_loss(
    student_logits: Tensor, targets: Targets, settings: LossSettings, num_items: Tensor | int | None = None
) -> Tensor:
    """alpha T² KL(teacher ∥ student) + (1 - alpha) CE, a scalar (arXiv:1503.02531, section 2).

    T² keeps the soft part's gradient in proportion when T changes. A position without a soft target has CE
    with weight 1 instead. The sum over positions, each times its weight, is divided by ``num_items`` (the
    labels of all micro-batches of a step) or else by N; with no position at all it is 0, with a gradient.

    Args:
        student_logits: (N, V) at the label positions.
        targets: The N targets.
        settings: alpha, temperature and tail.
        num_items: The divisor under gradient accumulation.
    """
    lse = torch.logsumexp(student_logits, dim=-1)
    loss = lse - student_logits.gather(-1, targets.labels.unsqueeze(-1)).squeeze(-1)
    if settings.alpha > 0.0 and targets.soft_ids.shape[-1] > 0:
        soft = _soft_loss(student_logits, lse, targets, settings)
        has_soft = (targets.soft_ids >= 0).any(-1)
        loss = torch.where(has_soft, settings.alpha * soft + (1.0 - settings.alpha) * loss, loss)
    if targets.weights is not None:
        loss = loss * targets.weights
    return loss.sum() / (num_items if num_items is not None else max(loss.numel(), 1))


def _soft_loss(student_logits: Tensor, lse: Tensor, targets: Targets, settings: LossSettings) -> Tensor:
    """T² KL(teacher ∥ student), (N,), sharing CE's log-sum-exp where T is 1."""
    temperature = settings.temperature
    if temperature == 1.0:
        student = _picked(student_logits, targets.soft_ids, lse)
    else:
        student = _picked(student_logits / temperature, targets.soft_ids)
    divergence = _sparse_kl(student, targets.soft_ids, targets.soft_logprobs, temperature, settings.tail)
    return temperature**2 * divergence
