"""How the dense part and the n-gram part of a classifier are put together, chosen on held-out requests."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Final

import numpy as np
from numpy.typing import NDArray

from router.logistic import log_loss, platt

__all__ = ("NGRAM_STRENGTHS", "HeldOut", "Mix", "best_mix", "calibrated", "joined")

NGRAM_STRENGTHS: Final = (0.03, 0.003, 0.0003)
FADINGS: Final = (1.0, 2.0, 4.0, 8.0, 16.0)
SHARES: Final = (1.0, 0.5, 0.25)
"""Parts of the weight that suits requests like those trained on."""
LIMIT_LEVEL: Final = 0.99
"""The n-gram part is bounded by this quantile of what it said of held-out requests."""

Floats = NDArray[np.float64]
Labels = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """Rows left out, and what is said of them: dense margins, n-gram margins at each strength (n, k), novelty."""

    rows: NDArray[np.int64]
    dense: Floats
    ngrams: Floats
    novelty: Floats

    def faded(self, mix: "Mix") -> Floats:
        """What the n-gram part adds to the logit, before its weight."""
        said = self.ngrams[:, NGRAM_STRENGTHS.index(mix.strength)]
        return np.clip(said, -mix.limit, mix.limit) * (1.0 - self.novelty) ** mix.fading

    def logits(self, mix: "Mix") -> Floats:
        """Both parts together."""
        return mix.offset + mix.dense * self.dense + mix.ngrams * self.faded(mix)


@dataclass(frozen=True, slots=True)
class Mix:
    """How the parts are put together: logit = offset + dense * d + ngrams * clip(m, limit) * (1 - novelty)^fading."""

    strength: float
    fading: float
    dense: float
    ngrams: float
    offset: float
    limit: float


def joined(found: Sequence[HeldOut]) -> HeldOut:
    """The folds of one scheme as one."""
    return HeldOut(
        np.concatenate([each.rows for each in found]),
        np.concatenate([each.dense for each in found]),
        np.concatenate([each.ngrams for each in found]),
        np.concatenate([each.novelty for each in found]),
    )


def best_mix(agreed: Labels, every: Sequence[HeldOut]) -> Mix:
    """The mix with the least log loss on rows left out at random, the first of `every`, and on groups left out, the
    second if there is one; both weigh the same.

    No n-grams at all are among the mixes, so that they have to earn their place.
    """
    plain = Mix(NGRAM_STRENGTHS[0], FADINGS[0], 1.0, 0.0, 0.0, 0.0)
    return min((plain, *_mixes(agreed, every[0])), key=lambda mix: sum(_loss(agreed, found, mix) for found in every))


def _mixes(agreed: Labels, alike: HeldOut) -> Iterator[Mix]:
    """Every strength with every fading, scaled to suit rows left out at random, and parts of that."""
    for strength, fading in product(NGRAM_STRENGTHS, FADINGS):
        limit = float(np.quantile(np.abs(alike.ngrams[:, NGRAM_STRENGTHS.index(strength)]), LIMIT_LEVEL))
        mix = Mix(strength, fading, 1.0, 1.0, 0.0, limit)
        slope, _ = platt(alike.faded(mix), agreed[alike.rows], alike.dense)
        if slope > 0.0:
            yield from (replace(mix, ngrams=slope * share) for share in SHARES)


def _loss(agreed: Labels, found: HeldOut, mix: Mix) -> float:
    """Log loss, with an offset of its own: the base rate of groups left out is a matter of which they are."""
    labels, logits = agreed[found.rows], found.logits(mix)
    return log_loss(logits + platt(np.zeros(labels.size), labels, logits)[1], labels)


def calibrated(agreed: Labels, found: HeldOut, mix: Mix) -> Mix:
    """The mix scaled by the requests that were left out at random, since these are like the traffic to come."""
    slope, offset = platt(found.logits(mix), agreed[found.rows])
    return replace(mix, dense=slope * mix.dense, ngrams=slope * mix.ngrams, offset=slope * mix.offset + offset)
