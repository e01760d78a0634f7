"""Distilling on what the student itself said: the teacher's log-probabilities of it are the reward."""

import torch
from torch import Tensor

__all__ = ("discounted_sum", "prefix_weights")


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


def prefix_weights(advantages: Tensor, gamma: float) -> Tensor:
    """Weights that are larger early, where little of the disagreement is past (TRL's IW-OPD trainer).

    w_t = 1 + gamma * (sum over i >= t of abs(A_i)) / (sum over all i of abs(A_i)), and 1 where there is none.

    Args:
        advantages: (B, T), 0 after a sequence's end.
        gamma: At least 0.

    Returns:
        (B, T), from 1 to 1 + gamma.
    """
    size = advantages.abs()
    left = size.flip(-1).cumsum(-1).flip(-1)
    whole = left[:, :1]
    return 1.0 + gamma * left / whole.masked_fill(whole == 0.0, 1.0)
