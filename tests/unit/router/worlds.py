"""Made-up traffic with a known truth, for the router's tests."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from router.calibration import Thresholds
from router.features import RequestView
from router.signals import TokenLogprob
from router.train import LabelledRequest


@dataclass(frozen=True)
class Population:
    """Scores, confidences and labels of so many requests that their rates are the truth."""

    scores: NDArray[np.float64]
    confidences: NDArray[np.float64]
    agreed: NDArray[np.bool_]

    def sample(self, rng: np.random.Generator, n: int) -> "Population":
        rows = rng.integers(self.agreed.size, size=n)
        return Population(self.scores[rows], self.confidences[rows], self.agreed[rows])

    def answered(self, thresholds: Thresholds) -> NDArray[np.bool_]:
        chosen = (self.scores >= thresholds.hard) & (self.confidences >= thresholds.confident)
        return chosen & thresholds.feasible

    def agreement(self, thresholds: Thresholds) -> float:
        return 1.0 - float((self.answered(thresholds) & ~self.agreed).mean())


def population(seed: int, size: int, ease: float = 1.5, overconfidence: float = 1.0) -> Population:
    rng = np.random.default_rng(seed)
    request, answer = rng.normal(size=size), rng.normal(size=size)
    truth = ease + request + 2.0 * answer
    scores = expit(overconfidence * (ease + request + 0.5 * rng.normal(size=size)))
    confidences = expit(overconfidence * (truth + rng.normal(size=size)))
    return Population(scores, confidences, rng.random(size) < expit(truth))


def traffic(seed: int, size: int, tokens: int = 5) -> list[LabelledRequest]:
    """Requests whose topic says a little about agreement, and whose logprobs say much."""
    rng = np.random.default_rng(seed)
    rows: list[LabelledRequest] = []
    for _ in range(size):
        topic, luck = int(rng.integers(6)), float(rng.normal())
        words = [f"topic{topic}word{int(w)}" for w in rng.integers(12, size=8)]
        agreed = bool(rng.random() < expit(1.0 + 0.5 * (topic - 2) + 2.0 * luck))
        chosen = expit(1.5 + luck + 0.7 * rng.normal(size=tokens))
        said = tuple(_token(float(p)) for p in chosen)
        rows.append(LabelledRequest(RequestView((("user", " ".join(words)),)), said, agreed))
    return rows


def _token(p: float) -> TokenLogprob:
    rest = [0.6 * (1 - p), 0.3 * (1 - p)]
    return TokenLogprob(float(np.log(p)), tuple(sorted((float(np.log(q)) for q in (p, *rest)), reverse=True)))
