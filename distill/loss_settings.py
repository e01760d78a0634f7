"""Which loss a student is trained with: names and their meaning, without torch, so that settings can be checked."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

__all__ = ("Divergence", "DivergenceName", "LossSettings", "Tail")

Tail: TypeAlias = Literal["bucket", "renormalise", "ignore"]
DivergenceName: TypeAlias = Literal["forward_kl", "reverse_kl", "jsd", "skew_forward_kl", "skew_reverse_kl"]

_Weights: TypeAlias = tuple[float, float, float]
_WEIGHTS: Final[dict[DivergenceName, Callable[[float], _Weights]]] = {
    "forward_kl": lambda _: (1.0, 0.0, 0.0),
    "reverse_kl": lambda _: (0.0, 1.0, 1.0),
    "jsd": lambda beta: (beta, 1.0 - beta, beta) if 0.0 < beta < 1.0 else (1.0 - beta, beta, beta),
    "skew_forward_kl": lambda beta: (1.0, 0.0, beta),
    "skew_reverse_kl": lambda beta: (0.0, 1.0, 1.0 - beta),
}


@dataclass(frozen=True)
class Divergence:
    """How far the student q is from the teacher p; each is at least 0, and 0 where they are the same.

    - ``forward_kl``: KL(p ∥ q), Hinton's (arXiv:1503.02531). The student covers all that the teacher might say.
    - ``reverse_kl``: KL(q ∥ p), MiniLLM's (arXiv:2306.08543). It keeps to what the teacher finds likely.
    - ``jsd``: beta KL(p ∥ M) + (1 - beta) KL(q ∥ M) with M = beta p + (1 - beta) q, GKD's (arXiv:2306.13649, eq. 1).
      It vanishes at both ends, where it means ``forward_kl`` (0) and ``reverse_kl`` (1), as in TRL.
    - ``skew_forward_kl``: KL(p ∥ beta p + (1 - beta) q), DistiLLM's (arXiv:2402.03898), who take beta 0.1.
    - ``skew_reverse_kl``: KL(q ∥ beta q + (1 - beta) p), same.

    Raises:
        ValueError: ``beta`` is outside [0, 1], or is 1 where the student would be compared with itself.
    """

    name: DivergenceName = "forward_kl"
    beta: float = 0.5

    def __post_init__(self) -> None:
        """Refuse what means nothing."""
        if not 0.0 <= self.beta <= 1.0:
            raise ValueError(f"beta is {self.beta}, not in [0, 1]")
        if self.beta == 1.0 and self.name in ("skew_forward_kl", "skew_reverse_kl"):
            raise ValueError(f"beta 1 leaves {self.name} nothing to learn: take less, as 0.1")

    @property
    def weights(self) -> tuple[float, float, float]:
        """Of KL(p ∥ M), of KL(q ∥ M), and of p in the mixture M with q."""
        return _WEIGHTS[self.name](self.beta)

    @property
    def needs_tail(self) -> bool:
        """Whether it is infinite where the student gives something to a token that the teacher gives nothing."""
        _, on_student, of_teacher = self.weights
        return on_student > 0.0 and of_teacher == 1.0


@dataclass(frozen=True)
class LossSettings:
    """``alpha`` is the share of the soft targets in the loss; ``temperature`` softens both sides.

    ``tail`` says what becomes of the teacher's mass that is not in its top-k: ``bucket`` makes one further class of
    it, on both sides; ``renormalise`` spreads it over the listed tokens, so that the student is pushed off all
    others; ``ignore`` compares within the listed tokens alone, on both sides.

    Raises:
        ValueError: The student's mass would be compared with a teacher's of 0.
    """

    alpha: float = 0.5
    temperature: float = 1.0
    tail: Tail = "renormalise"
    divergence: Divergence = Divergence()

    def __post_init__(self) -> None:
        """Refuse a divergence that is infinite with this tail."""
        if self.tail == "renormalise" and self.divergence.needs_tail:
            raise ValueError(
                f'{self.divergence.name} is infinite with tail = "renormalise": take "bucket" or "ignore"'
            )
