"""Whether the traffic is still what a release was made for: what its router says of it, and if the student agrees.

False alarms are bounded by ``budget``: the number of them that is expected at most, per test or per label. A caller
that gives out rate * time of it as time passes has at most rate * time false alarms, however often it looks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from router.reference import STEPS

__all__ = ("TOLERANCE", "AgreementWatch", "Drift", "shift", "student_target")

TOLERANCE: Final = 0.1
"""A shift of so much of the traffic is no drift: served models are refitted, and hours of a day differ."""
BETS: Final = np.array([0.02, 0.05, 0.12, 0.3, 0.7])
"""Parts of the largest bet, each played; small ones win slowly on small falls, large ones fast on large."""


@dataclass(frozen=True, slots=True)
class Drift:
    """One look: ``drifted`` where the statistic, of ``n`` requests or labels, is above the threshold."""

    kind: str
    statistic: float
    threshold: float
    n: int

    @property
    def drifted(self) -> bool:
        """Whether it is an alarm."""
        return self.statistic > self.threshold


def shift(kind: str, reference: Sequence[float], rows: int, values: NDArray[np.float64], budget: float) -> Drift:
    """Largest distance between two distribution functions (Kolmogorov-Smirnov), read at the reference's quantiles.

    ``reference`` are the quantiles of ``rows`` values (`router.reference`), ``values`` those of now, shape (n,). If
    the true distance is at most `TOLERANCE`, and requests are independent, ``drifted`` has at most probability
    ``budget``. At each inner quantile both errors, the binomial one of ``values`` (Hoeffding) and the Beta one of an
    order statistic (arXiv:1705.00048), are sub-Gaussian with variance 1/4n and 1/4rows; a union over both signs of
    `STEPS` - 1 quantiles is the bound. Repeated values make it more careful, not less.
    """
    n = values.size
    inner, ranked = np.asarray(reference[1:-1]), np.sort(values)
    share = np.arange(1, STEPS) / STEPS
    missing = share - np.searchsorted(ranked, inner, side="right") / n
    beyond = np.searchsorted(ranked, inner, side="left") / n - share
    spread = 1 / n + 1 / rows
    noise = math.sqrt(math.log(2 * (STEPS - 1) / budget) / 2 * spread) + 1 / rows
    return Drift(kind, float(max(missing.max(), beyond.max())), TOLERANCE + noise, n)


def student_target(target: float, student_share: float) -> float:
    """The agreement that the student's own answers need, for the system's to be ``target``.

    The teacher's answers agree with themselves; ``student_share`` (above 0) of the requests are the student's.
    """
    return 1.0 - (1.0 - target) / max(student_share, 1.0 - target)


@dataclass
class AgreementWatch:
    """Bets against "the mean agreement is at least ``target``", in bounded memory (a Shiryaev-Roberts e-detector).

    Each label multiplies what was bet by 1 + bet * weight * (target - agreement) (Waudby-Smith and Ramdas 2024,
    doi:10.1093/jrsssb/qkad009), and new bets are begun with the ``budget`` of each label, so that a change is found
    whenever it comes (Shin, Ramdas and Rinaldo, arXiv:2203.03532). While the mean is at least the target, nothing is
    won on average: the budget that is given out up to an alarm is at least 1 on average. A budget of 1/A per label is
    at least A labels between false alarms.

    ``least_propensity`` weighs the labels: those that were likelier to be taken count less, so that the mean is all
    requests'. A propensity below it counts as it.
    """

    target: float
    least_propensity: float = 1.0
    labels: int = 0
    _wealth: NDArray[np.float64] = field(default_factory=lambda: np.zeros(BETS.size))

    def see(self, agreement: float, propensity: float, budget: float) -> Drift:
        """Take in a label, 0 to 1. After an alarm it begins anew."""
        self.labels += 1
        weight = min(self.least_propensity / propensity, 1.0) if propensity > 0 else 1.0
        # with agreement of 1 and a weight of 1, the largest bet would lose all
        bets = BETS / max(1.0 - self.target, 1e-3)
        self._wealth = (self._wealth + budget) * (1.0 + bets * weight * (self.target - agreement))
        seen = Drift("agreement", float(self._wealth.mean()), 1.0, self.labels)
        if seen.drifted:
            self.labels, self._wealth = 0, np.zeros(BETS.size)
        return seen
