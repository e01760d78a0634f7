"""The loss of distillation: a divergence from a teacher's top-k, mixed with cross-entropy."""

from dataclasses import dataclass

import torch
from torch import Tensor

from distill.divergences import NOTHING, dense_divergence, divergence, picked_logprobs
from distill.loss_settings import LossSettings, Tail

__all__ = ("Targets", "dense_distillation_loss", "distillation_loss", "sparse_divergence")


@dataclass(frozen=True)
class Targets:
    """What the N label positions should say.

    ``labels`` (N,) token ids; ``soft_ids`` (N, K) token ids, -1 where there are fewer than K;
    ``soft_logprobs`` (N, K) natural logs, ignored where the id is -1; ``weights`` (N,) or None for ones;
    ``distances`` (N,) of `distill.foreign.answers_distance` in the place of soft targets, -1 where there is none.
    """

    labels: Tensor
    soft_ids: Tensor
    soft_logprobs: Tensor
    weights: Tensor | None = None
    distances: Tensor | None = None


def sparse_divergence(student_logits: Tensor, ids: Tensor, logprobs: Tensor, settings: LossSettings) -> Tensor:
    """The divergence at each position from the teacher's top-k alone (arXiv:2503.16870 has the bias of top-k).

    The cells are the K listed tokens and, unless the tail is ignored, one for all the others; the student's are
    read from its whole softmax. At a temperature T the stored logs (of T = 1) become log p / T, normalised again over
    the cells; the tail counts as one cell, since how it is spread is not known.

    Args:
        student_logits: (N, V), before any softmax.
        ids: (N, K) long, padded with -1. A row of -1 has no target and gives 0 without gradient.
        logprobs: (N, K), natural logs; values at padding are ignored.
        settings: The divergence, the temperature and the tail; no alpha and no T² here, see `distillation_loss`.

    Returns:
        (N,) nats, at least 0 up to rounding.
    """
    picked = picked_logprobs(student_logits, ids.clamp(min=0), settings.temperature)
    return _sparse(picked, ids, logprobs, settings)


def _sparse(picked: Tensor, ids: Tensor, logprobs: Tensor, settings: LossSettings) -> Tensor:
    listed = ids >= 0
    some = listed.any(-1)
    teacher = _teacher(logprobs.to(picked.dtype), listed, settings.temperature, settings.tail)
    student = _student(picked, listed, settings.tail)
    return divergence(teacher, student, settings.divergence).masked_fill(~some, 0.0)


def _teacher(logprobs: Tensor, listed: Tensor, temperature: float, tail: Tail) -> Tensor:
    """The teacher's cells, normalised: (N, K) or (N, K + 1)."""
    stored = logprobs.masked_fill(~listed, -torch.inf)
    cells = stored / temperature
    if tail == "bucket":
        left = 1.0 - stored.exp().sum(-1, keepdim=True)
        # Four steps of rounding are no tail: at T = 2 their square root would be one.
        left = left.masked_fill(left < 4 * torch.finfo(left.dtype).eps, 0.0)
        cells = torch.cat([cells, left.log() / temperature], dim=-1)
    elif tail == "renormalise":
        cells = torch.nn.functional.pad(cells, (0, 1), value=-torch.inf)
    # a row without a target is 0/0; whatever stands for it is masked later
    cells = cells.masked_fill(~listed.any(-1, keepdim=True), 0.0)
    return torch.log_softmax(cells, dim=-1).clamp(min=NOTHING)


def _student(picked: Tensor, listed: Tensor, tail: Tail) -> Tensor:
    cells = picked.masked_fill(~listed, NOTHING)
    if tail == "ignore":
        return torch.log_softmax(cells, dim=-1).clamp(min=NOTHING)
    rest = 1.0 - cells.exp().sum(-1, keepdim=True)
    return torch.cat([cells, rest.clamp(min=torch.finfo(rest.dtype).eps).log()], dim=-1)


def distillation_loss(
    student_logits: Tensor, targets: Targets, settings: LossSettings, num_items: Tensor | int | None = None
) -> Tensor:
    """alpha T² D(teacher, student) + (1 - alpha) CE, a scalar (arXiv:1503.02531, section 2).

    T² keeps the soft part's gradient in proportion when T changes; a distance is taken as it is. A position without
    a soft target or a distance has CE with weight 1 instead. The sum over positions, each times its weight, is
    divided by ``num_items`` (the labels of all micro-batches of a step) or else by N; with no position at all it is
    0, with a gradient.

    Args:
        student_logits: (N, V) at the label positions.
        targets: The N targets.
        settings: alpha, temperature, tail and divergence.
        num_items: The divisor under gradient accumulation.
    """
    labels, ids = targets.labels.unsqueeze(-1), targets.soft_ids
    is_soft = settings.alpha > 0.0 and ids.shape[-1] > 0
    # one pass over the logits serves both parts where T is 1
    together = is_soft and settings.temperature == 1.0
    picked = picked_logprobs(student_logits, torch.cat([labels, ids.clamp(min=0)], dim=-1) if together else labels)
    hard = loss = -picked[:, 0]
    if is_soft:
        soft = picked[:, 1:] if together else picked_logprobs(student_logits, ids.clamp(min=0), settings.temperature)
        soft = settings.temperature**2 * _sparse(soft, ids, targets.soft_logprobs, settings)
        loss = torch.where((ids >= 0).any(-1), settings.alpha * soft + (1.0 - settings.alpha) * hard, loss)
    if targets.distances is not None:
        mixed = settings.alpha * targets.distances + (1.0 - settings.alpha) * hard
        loss = torch.where(targets.distances >= 0.0, mixed, loss)
    return _reduced(loss, targets.weights, num_items)


def dense_distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    targets: Targets,
    settings: LossSettings,
    num_items: Tensor | int | None = None,
) -> Tensor:
    """`distillation_loss` where the teacher's whole distribution is known: no ``tail``, no soft targets.

    Args:
        student_logits: (N, V) at the label positions.
        teacher_logits: (N, V) at the same ones.
        targets: ``labels`` and ``weights`` of the N positions.
        settings: alpha, temperature and divergence. With alpha 1, the labels are not read either.
        num_items: The divisor under gradient accumulation.
    """
    kind, temperature = settings.divergence, settings.temperature
    loss = settings.alpha * temperature**2 * dense_divergence(student_logits, teacher_logits, kind, temperature)
    if settings.alpha < 1.0:
        hard = picked_logprobs(student_logits, targets.labels.unsqueeze(-1))[:, 0]
        loss = loss - (1.0 - settings.alpha) * hard
    return _reduced(loss, targets.weights, num_items)


def _reduced(loss: Tensor, weights: Tensor | None, num_items: Tensor | int | None) -> Tensor:
    if weights is not None:
        loss = loss * weights
    return loss.sum() / (num_items if num_items is not None else max(loss.numel(), 1))
