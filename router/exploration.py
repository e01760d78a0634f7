"""How likely a request is to be asked on the other side too: more so if it is new, or the router in doubt.

The probability is known before anything is drawn, and is logged as the propensity. Its mean stays the share that the
settings allow, whatever the traffic is like.
"""

from dataclasses import dataclass
from typing import Final

__all__ = ("Exploration", "interest")

LIFT: Final = 3.0
"""A request of full interest is explored this much more often, on top, than one of none."""
NEAR: Final = 0.1
"""Within this distance of the threshold a request is in doubt."""
MEMORY: Final = 2_000
"""Requests over which the mean weight is taken."""
FIRST_MEAN: Final = 1.75
"""Taken for the mean until there is one: a quarter of the traffic of full interest."""


def interest(p: float | None, threshold: float | None, novelty: float | None) -> float:
    """How much is learned of a request, 0 to 1: 1 at the threshold or where nothing of it was seen in training.

    `p` is the score or the confidence that decided, `threshold` what it was held against. What is not known adds
    nothing.
    """
    doubt = 0.0 if p is None or threshold is None else max(0.0, 1.0 - abs(p - threshold) / NEAR)
    return min(1.0, max(doubt, novelty or 0.0))


@dataclass
class Exploration:
    """Spends ``share`` of the requests it is asked about, in the mean. One for each process and direction."""

    share: float
    _mean: float = FIRST_MEAN
    _seen: int = 1

    def probability(self, interest: float) -> float:
        """The probability for a request of this interest (0 to 1), given those before it.

        It is the share times weight / mean weight, the weight from 1 to 1 + `LIFT`, and so never below a quarter of
        the share. A share above a quarter could lead beyond 1: then the weights are pulled together by as much as it
        takes, so that the share is still spent.
        """
        weight = 1.0 + LIFT * interest
        spread = min(1.0, (1.0 - self.share) / (LIFT * self.share)) if self.share else 0.0
        probability = self.share * (1.0 + spread * (weight / self._mean - 1.0))
        self._seen = min(self._seen + 1, MEMORY)
        self._mean += (weight - self._mean) / self._seen
        return min(1.0, probability)
