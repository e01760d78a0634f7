"""Divergences of two distributions, in nats, without a copy as large as the logits.

A vocabulary is large: at 49,152 tokens a thousand positions of float32 are 197 MB, and a log-softmax as much again.
So what is wanted of the student is picked from its logits (`picked_logprobs`), or compared a few rows at a time.
"""

from typing import Any, Final

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from distill.loss_settings import Divergence

__all__ = ("NOTHING", "dense_divergence", "divergence", "picked_logprobs", "rows_at_once")

NOTHING: Final = -1_000.0
"""The log-probability that stands for minus infinity: its exponential is 0, and 0 times it is 0."""
ELEMENTS_AT_ONCE: Final = 1 << 21


def rows_at_once(logits: Tensor) -> int:
    """How many rows of (N, V) are taken at a time."""
    return max(1, ELEMENTS_AT_ONCE // max(1, logits.shape[-1]))


def divergence(log_p: Tensor, log_q: Tensor, kind: Divergence) -> Tensor:
    """The divergence of q, the student, from p, the teacher.

    Args:
        log_p: (..., C) normalised log-probabilities, `NOTHING` or more.
        log_q: (..., C), same.
        kind: Which; its docstring has the formulas.

    Returns:
        (...), nats.
    """
    on_teacher, on_student, of_teacher = kind.weights
    mixture = _mixture(log_p, log_q, of_teacher)
    terms = [weight * _kl(side, mixture) for weight, side in ((on_teacher, log_p), (on_student, log_q)) if weight]
    return terms[0] if len(terms) == 1 else terms[0] + terms[1]


def _mixture(log_p: Tensor, log_q: Tensor, of_teacher: float) -> Tensor:
    if of_teacher in (0.0, 1.0):
        return log_p if of_teacher else log_q
    shares = log_q.new_tensor([of_teacher, 1.0 - of_teacher]).log()
    return torch.logaddexp(log_p + shares[0], log_q + shares[1])


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def dense_divergence(
    student_logits: Tensor, teacher_logits: Tensor, kind: Divergence, temperature: float = 1.0
) -> Tensor:
    """The divergence at each position from both sides' whole logits.

    A few rows at a time, and again in the backward pass: what is alive at once is the logits, their gradient and
    those rows.

    Args:
        student_logits: (N, V), before any softmax.
        teacher_logits: (N, V) over the same vocabulary.
        kind: Which divergence.
        temperature: T > 0, divides both; no T² here.

    Returns:
        (N,) nats.
    """
    rows = rows_at_once(student_logits)
    pairs = zip(student_logits.split(rows), teacher_logits.split(rows), strict=True)
    return torch.cat(
        [
            checkpoint(_dense, *pair, kind, temperature, use_reentrant=False, preserve_rng_state=False)
            for pair in pairs
        ]
    )


def _dense(student: Tensor, teacher: Tensor, kind: Divergence, temperature: float) -> Tensor:
    log_q = torch.log_softmax(_wide(student) / temperature, dim=-1)
    return divergence(torch.log_softmax(_wide(teacher) / temperature, dim=-1), log_q, kind)


def _wide(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def picked_logprobs(logits: Tensor, ids: Tensor, temperature: float = 1.0) -> Tensor:
    """log softmax(logits / T) at the listed tokens, in float32 or better.

    Args:
        logits: (N, V).
        ids: (N, K) long, each in [0, V).
        temperature: T > 0.

    Returns:
        (N, K). The backward pass makes one tensor of the logits' size, their gradient.
    """
    return _Picked.apply(logits, ids, temperature)


class _Picked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor, temperature: float) -> Tensor:
        rows = logits.split(rows_at_once(logits))
        lse = torch.cat([torch.logsumexp(_scaled(some, temperature), dim=-1, keepdim=True) for some in rows])
        ctx.save_for_backward(logits, ids, lse)
        ctx.temperature = temperature
        return _scaled(logits.gather(-1, ids), temperature) - lse

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - the decorator hides the parameters' names
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor, None, None]:
        logits, ids, lse = ctx.saved_tensors
        gradient = gradient / ctx.temperature
        through_lse = gradient.sum(-1, keepdim=True)
        result = torch.empty_like(logits)
        rows = rows_at_once(logits)
        parts = (each.split(rows) for each in (result, logits, ids, lse, gradient, through_lse))
        for out, some, picked, norm, direct, shared in zip(*parts, strict=True):
            wide = _scaled(some, ctx.temperature).sub_(norm).exp_().mul_(-shared)
            out.copy_(wide.scatter_add_(-1, picked, direct))
        return result, None, None


def _scaled(logits: Tensor, temperature: float) -> Tensor:
    """A fresh tensor in float32 or better."""
    return logits.div(temperature) if logits.dtype == torch.float64 else logits.float().div(temperature)
