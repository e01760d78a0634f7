"""Distilling on what the student itself said: what the teacher thinks of what follows a token is its reward."""

from typing import Final

import torch
from torch import Tensor

from distill.divergences import picked_logprobs

__all__ = ("discounted_sum", "drift_weights", "long_term_loss", "prefix_weights", "token_rewards")

MOST: Final = 2.0
"""What a token of a sampled answer counts at most for its prefix's having become likelier: it bounds the variance."""


def discounted_sum(values: Tensor, gamma: float) -> Tensor:
    """A_t = sum over i >= t of gamma^(i - t) r_i.

    With r_t = log p(y_t) - log q(y_t), the teacher's and the student's, it is the advantage whose policy gradient
    lowers KL(q ∥ p) (arXiv:2306.08543, eq. 3); divided by the same sum of the mask it does not grow with what is left
    of the sequence. TRL's MiniLLM multiplies by gamma^t besides, so that late tokens count less; the quotient agrees.

    Args:
        values: (B, T), 0 after a sequence's end.
        gamma: In [0, 1]; 0 looks at the token alone.

    Returns:
        (B, T).
    """
    position = torch.arange(values.shape[-1], device=values.device)
    later = (position - position.unsqueeze(-1)).clamp(min=0)
    # (T, T): row t has gamma^(i - t) at i >= t
    return values @ torch.triu(values.new_tensor(gamma) ** later).T


def token_rewards(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, keep: Tensor) -> Tensor:
    """log p(y_t) - log q(y_t) of the sampled tokens, without a gradient.

    Args:
        student_logits: (N, V) at the N labels, in the order of ``keep``.
        teacher_logits: (N, V) at the same ones.
        labels: (N,) the tokens that were sampled.
        keep: (B, T) bool, N times true: where they are, each row's one after the other.

    Returns:
        (B, T), 0 where there is no token.
    """
    with torch.no_grad():
        q, p = (picked_logprobs(each, labels.unsqueeze(-1))[:, 0] for each in (student_logits, teacher_logits))
    return q.new_zeros(keep.shape).masked_scatter(keep, p - q)


def prefix_weights(rewards: Tensor, extra: float) -> Tensor:
    """What each token of a sampled answer counts: most where the answer has not left the teacher's ways yet.

    w_t = 1 + extra * (sum over i >= t of abs(r_i)) / (sum over all i of abs(r_i)), and 1 where the sum is 0: extra is
    multiplied by the share of the disagreement that is still to come (arXiv:2606.22600; TRL's IW-OPD trainer).

    Args:
        rewards: (B, T) of `token_rewards`.
        extra: At least 0.

    Returns:
        (B, T), from 1 to 1 + extra.
    """
    size = rewards.abs()
    left = size.flip(-1).cumsum(-1).flip(-1)
    whole = left[:, :1]
    return 1.0 + extra * left / whole.masked_fill(whole == 0.0, 1.0)


def drift_weights(now: Tensor, drawn: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """What tokens count whose answers were drawn with other weights than the student has now.

    The prefix of a token came with the probability that the old weights gave it. Its importance weight is the product
    over the prefix of q_now(y_i) / q_drawn(y_i), `MOST` at most: with it, the divergence at a position is, up to that
    bound, what it would be over answers of the present student. Where nothing has changed it is 1.

    Args:
        now: (N,) log-probabilities of the sampled tokens, in the order of ``keep``, at the sampling temperature.
        drawn: (N,) the ones that they were drawn with.
        keep: (B, T) bool, N times true: where they are, each row's one after the other.

    Returns:
        (N,) for the divergence at a token, which is of the prefix before it; and (N,) with the token itself, for what
        its own probability is answerable for (`long_term_loss`). Both without a gradient.
    """
    with torch.no_grad():
        ratios = now.new_zeros(keep.shape).masked_scatter(keep, now - drawn.to(now.dtype))
        through = ratios.cumsum(-1)
        before = (through - ratios).exp().clamp(max=MOST)[keep]
        return before, through.exp().clamp(max=MOST)[keep]


def long_term_loss(student_logits: Tensor, rewards: Tensor, labels: Tensor, keep: Tensor, gamma: float) -> Tensor:
    """What a sampled token does to KL(q ∥ p) of those after it: -A_(t+1) log q(y_t), A without a gradient.

    Together with KL(q ∥ p) at each token it is MiniLLM's gradient (arXiv:2306.08543, section 2.2: single-step
    decomposition, length normalisation). Its importance weights are those of `drift_weights`;
    what follows a token counts as it was drawn.

    Args:
        student_logits: (N, V) at the N labels, in the order of ``keep``.
        rewards: (B, T) of `token_rewards`.
        labels: (N,) the tokens that were sampled.
        keep: (B, T) bool, N times true: where they are, each row's one after the other.
        gamma: In [0, 1]; each further token counts so much less.

    Returns:
        (N,).
    """
    # at least 1 where there is a token
    tokens = discounted_sum(keep.to(rewards.dtype), gamma).clamp(min=1.0)
    advantage = torch.nn.functional.pad((discounted_sum(rewards, gamma) / tokens)[:, 1:], (0, 1))
    return -advantage[keep] * picked_logprobs(student_logits, labels.unsqueeze(-1))[:, 0]
