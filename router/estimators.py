"""What the router would do under any thresholds, from the log alone: agreement, teacher share, cost, saving.

Labels are there for some requests only, and not for an even sample: each weighs by the inverse of the probability
with which it came to be labelled. `ips` is that alone (Horvitz & Thompson 1952, doi:10.1080/01621459.1952.10483446);
`snips` divides by the sum of the weights (Swaminathan & Joachims 2015, NeurIPS 28, self-normalised estimator); `dr`
is doubly robust (Dudik, Langford & Li 2011, arXiv:1103.4601): the router's own confidence is taken for the outcome,
and the labels correct it. `ips` and `dr` are unbiased however wrong the confidence is.

All three are one formula, (1/n) sum of m + seen * weight * (z - m), with another guess m of the outcome z.
"""

from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from ledger.observed import Observed
from ledger.prices import Price

__all__ = (
    "ESTIMATORS",
    "Cutoffs",
    "Estimator",
    "Point",
    "Prices",
    "calibration_error",
    "curve",
    "estimate",
    "plain_agreement",
    "weights",
)

Estimator: TypeAlias = Literal["ips", "snips", "dr"]
ESTIMATORS: Final[tuple[Estimator, ...]] = ("ips", "snips", "dr")
Z95: Final = 1.959964
BINS: Final = 10

Floats: TypeAlias = NDArray[np.float64]
Bools: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Prices:
    """What both sides ask."""

    student: Price
    teacher: Price


class Cutoffs(msgspec.Struct, frozen=True):
    """The student is asked from the score `hard` on. Its answer is taken from the confidence `confident` on where it
    is streamed, `confident_end` where it is whole.
    """

    hard: float
    confident: float
    confident_end: float


class Point(msgspec.Struct, frozen=True):
    """An estimate for some thresholds. Shares are of the requests that the router decides on."""

    hard: float
    confident: float
    confident_end: float
    teacher_share: float
    agreement: float
    """The system's: a teacher's answer agrees with itself."""
    low: float
    high: float
    """95 % interval of the agreement."""
    cost: float
    """Per request, in the settings' currency."""
    saving: float
    """Share of the price of asking the teacher everything."""
    labels: int
    """How many labelled requests the agreement is read from."""


HALFWAY: Final = Cutoffs(0.5, 0.5, 0.5)


@dataclass(frozen=True, slots=True)
class _Sample:
    """Some outcome z of every request, seen of some of them with a weight; `m` is a guess of it."""

    needed: Bools
    """Where z may differ from 0."""
    z: Floats
    seen: Bools
    weight: Floats
    m: Floats

    def times(self, amount: Floats) -> "_Sample":
        """Of the outcome times a known amount of each request."""
        return replace(self, z=self.z * amount, m=self.m * amount)

    def mean(self, estimator: Estimator) -> tuple[float, float]:
        """Estimate of the mean of z over all requests, and the variance of the estimate."""
        seen = self.seen & self.needed
        z, weight = np.where(seen, self.z, 0.0), np.where(seen, self.weight, 0.0)
        if estimator == "dr":
            m: Floats | float = self.m
        elif estimator == "snips":
            m = float(weight @ z / weight.sum()) if seen.any() else 0.0
        else:
            m = 0.0
        each = np.where(self.needed, m + weight * (z - m), 0.0)
        return float(each.mean()), float(each.var() / len(each))

    def interval(self, value: float, variance: float) -> tuple[float, float]:
        """95 % interval of that mean, which lies between 0 and the share of `needed`.

        The gamma interval of a weighted sum of counts (Fay & Feuer 1997,
        doi:10.1002/(SICI)1097-0258(19970415)16:7<791::AID-SIM500>3.0.CO;2-#), with the mean weight for the event that
        was not seen (Tiwari, Clegg & Zou 2006, doi:10.1177/0962280206070621). A disagreement is rare and weighs much,
        so that a symmetric interval would be too short above, and none seen is not none there.
        """
        n, most = len(self.needed), float(self.needed.mean())
        weight = self.weight[self.seen & self.needed] / n
        if not weight.size:
            return 0.0, most
        low = _gamma_quantile(value, variance, -Z95)
        more = max(value, 0.0) + float(weight.mean())
        high = _gamma_quantile(more, variance + float(np.square(weight).mean()), Z95)
        return min(low, most), min(high, most)


def estimate(log: Observed, cutoffs: Cutoffs, prices: Prices, estimator: Estimator = "dr") -> Point:
    """What these thresholds would have given on the requests of the log, which is not empty.

    The estimator is the agreement's; shares and costs hang on labels only below the present thresholds, and are `dr`.
    Requests that the student answered without its confidence being read stay the student's, from `hard` on.
    """
    confident = np.where(log.stream, cutoffs.confident, cutoffs.confident_end)
    passes = log.score >= cutoffs.hard
    read = np.where(np.isnan(log.confidence) & log.student, np.inf, log.confidence)
    sure = read >= confident  # False where it is not known
    weight = weights(log, log.asked)
    # where the student was never asked, the score stands in for the confidence it would have had
    guessed = np.where(log.tried, sure, log.score >= confident)
    untried = _Sample(
        passes & ~log.tried, sure.astype(np.float64), log.asked & ~log.tried, weight, guessed.astype(np.float64)
    )
    disagreed = _disagreement(log, passes & (sure | ~log.tried), sure, guessed)
    wrong, variance = disagreed.mean(estimator)
    low, high = disagreed.interval(wrong, variance)
    answered = float((passes & log.tried & sure).mean()) + untried.mean("dr")[0]
    teacher, student = _price(prices.teacher, log.tokens), _price(prices.student, log.tokens)
    spared = float((teacher * (passes & log.tried & sure)).mean()) + untried.times(teacher).mean("dr")[0]
    cost = float(teacher.mean()) - spared + float((student * passes).mean())
    return Point(
        hard=cutoffs.hard,
        confident=cutoffs.confident,
        confident_end=cutoffs.confident_end,
        teacher_share=_unit(1.0 - answered),
        agreement=_unit(1.0 - wrong),
        low=_unit(1.0 - high),
        high=_unit(1.0 - low),
        cost=cost,
        saving=1.0 - cost / float(teacher.mean()) if teacher.any() else 0.0,
        labels=int((disagreed.seen & disagreed.needed).sum()),
    )


def curve(
    log: Observed, prices: Prices, points: int = 101, estimator: Estimator = "dr", in_force: Cutoffs = HALFWAY
) -> list[Point]:
    """Estimates along thresholds from everything for the student to everything for the teacher.

    The way is straight from 0 over the thresholds `in_force` to above every score; its steps are of about as many
    requests each.
    """
    if not len(log):
        return []
    read = np.where(np.isnan(log.confidence), log.score, log.confidence)
    hard, first, end = (min(each, 1.0) for each in msgspec.structs.astuple(in_force))
    taken = np.where(log.stream, _inverse(read, first), _inverse(read, end))
    steps = np.quantile(
        np.append(np.minimum(_inverse(log.score, hard), taken), [0.0, 2.0]), np.linspace(0, 1, points)
    )
    return [
        estimate(log, Cutoffs(_on_way(t, hard), _on_way(t, first), _on_way(t, end)), prices, estimator) for t in steps
    ]


def plain_agreement(log: Observed) -> float | None:
    """Share of the labelled requests whose answers agree, as if they were an even sample: biased, for comparison."""
    labelled = log.agreement[log.labelled]
    return float(labelled.mean()) if labelled.size else None


def calibration_error(log: Observed, of: Literal["score", "confidence"]) -> float | None:
    """Expected calibration error of a probability on the labels, weighted to stand for the traffic; None without any.

    Ten bins of equal weight (Naeini et al. 2015, doi:10.1609/aaai.v29i1.9602, with equal mass for equal width).
    """
    p = log.score if of == "score" else log.confidence
    kept = log.labelled & ~np.isnan(p)
    if not kept.any():
        return None
    order = np.argsort(p[kept], kind="stable")
    weight = weights(log, log.labelled)[kept][order]
    p, agreed = p[kept][order], log.agreement[kept][order]
    total = weight.sum()
    bins = np.minimum((np.cumsum(weight) - weight / 2) * BINS // total, BINS - 1).astype(int)
    gaps = np.bincount(bins, weight * (p - agreed), BINS)
    return float(np.abs(gaps).sum() / total)


def _disagreement(log: Observed, needed: Bools, sure: Bools, guessed: Bools) -> _Sample:
    """Of the answers that the student would have given: how much they differ from the teacher's."""
    read = np.where(np.isnan(log.confidence) | ~log.tried, log.score, log.confidence)
    z = np.where(sure, 1.0 - log.agreement, 0.0)
    return _Sample(needed, z, log.labelled, weights(log, log.labelled), np.where(guessed, 1.0 - read, 0.0))


def _price(price: Price, tokens: Floats) -> Floats:
    prompt, completion, cached = tokens[:, 0], tokens[:, 1], np.minimum(tokens[:, 2], tokens[:, 0])
    cached_input = price.input if price.cached_input is None else price.cached_input
    per_million = (prompt - cached) * price.input + cached * cached_input + completion * price.output
    return per_million / 1e6 + price.request


def weights(log: Observed, seen: Bools) -> Floats:
    """1 / P(seen), 0 where not seen; shape (n,).

    Answers that were asked for and are not compared yet are taken to be like the others of their kind.
    """
    share = np.ones(len(log))
    for kind in (log.student, ~log.student & log.tried, ~log.tried):
        asked, there = int((kind & log.asked).sum()), int((kind & seen).sum())
        share[kind] = there / asked if there and asked else 1.0
    return np.where(seen, 1.0 / (np.where(seen, log.propensity, 1.0) * share), 0.0)


def _gamma_quantile(mean: float, variance: float, z: float) -> float:
    """Quantile of the gamma distribution of these moments at a standard normal deviate.

    Wilson & Hilferty 1931, doi:10.1073/pnas.17.12.684: its cube root is nearly normal.
    """
    if mean <= 0.0 or variance <= 0.0:
        return max(mean, 0.0)
    shape = mean * mean / variance
    return float(mean * max(0.0, 1.0 - 1.0 / (9.0 * shape) + z / (3.0 * np.sqrt(shape))) ** 3)


def _on_way(t: float, middle: float) -> float:
    """0 at t = 0, `middle` at 1, just above 1 at 2."""
    end = 1.0 + 1e-9
    return float(middle * t if t <= 1.0 else middle + (end - middle) * (t - 1.0))


def _inverse(value: Floats, middle: float) -> Floats:
    """The t of `_on_way` for each value."""
    below = value / middle if middle > 0.0 else np.ones_like(value)
    above = 1.0 + (value - middle) / max(1.0 - middle, 1e-9)
    return np.clip(np.where(value < middle, below, above), 0.0, 2.0)


def _unit(value: float) -> float:
    return min(1.0, max(0.0, value))
