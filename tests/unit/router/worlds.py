"""Made-up traffic with a known truth, for the router's tests."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from router.calibration import Evidence, Thresholds, answered, rule_of
from router.classifier import Classifier
from router.classifier_training import fit_classifier
from router.confidence import EVIDENCE, ConfidenceModel
from router.features import RequestView
from router.model import RouterModel, TrainingSummary, WayFigures
from router.reference import STEPS, Reference
from router.signals import SIGNALS, TokenLogprob
from router.train import LabelledRequest


@dataclass(frozen=True)
class Population:
    """Scores, confidences and labels of so many requests that their rates are the truth."""

    scores: NDArray[np.float64]
    held: NDArray[np.float64]
    whole: NDArray[np.float64]
    agreed: NDArray[np.bool_]

    @property
    def evidence(self) -> Evidence:
        return Evidence(self.scores, self.held, self.whole, self.agreed)

    def sample(self, rng: np.random.Generator, n: int) -> "Population":
        rows = rng.integers(self.agreed.size, size=n)
        return Population(self.scores[rows], self.held[rows], self.whole[rows], self.agreed[rows])

    def answered(self, thresholds: Thresholds) -> NDArray[np.bool_]:
        """Shape (2, n): streamed, and plain."""
        return np.array(answered(rule_of(thresholds), self.evidence))

    def agreement(self, thresholds: Thresholds) -> float:
        """Of the way that agrees less."""
        return 1.0 - float((self.answered(thresholds) & ~self.agreed).mean(axis=1).max())


def population(seed: int, size: int, ease: float = 1.5, overconfidence: float = 1.0) -> Population:
    """The score knows the request, the first tokens half of the answer too, and the whole answer all of it."""
    rng = np.random.default_rng(seed)
    request, begun, ended = rng.normal(size=size), rng.normal(size=size), rng.normal(size=size)
    truth = ease + request + 1.4 * (begun + ended)
    said = (0.0 * begun, 1.4 * begun, 1.4 * (begun + ended))
    scores, held, whole = (
        expit(overconfidence * (ease + request + part + 0.5 * rng.normal(size=size))) for part in said
    )
    return Population(scores, held, whole, rng.random(size) < expit(truth))


FIGURES = WayFigures(0.5, 0.97, 11.0, 0.9)
SUMMARY = TrainingSummary(300, 280, 0, True, 0.02, 0.01, 0.015, FIGURES, FIGURES, FIGURES, hold_ms=40.0)
REFERENCE = Reference(300, *((1 / 3,) * (STEPS + 1) for _ in range(3)))


def undecided() -> Classifier:
    """Scores every request 0.5."""
    return fit_classifier([RequestView((("user", "hello"),))] * 2, np.array([True, False]))


def mean_of_logprobs(edge: float) -> ConfidenceModel:
    """Confident by so much as the mean logprob is above the edge."""
    weights = np.zeros(EVIDENCE)
    weights[SIGNALS.index("mean_logprob")] = 10.0
    return ConfidenceModel(weights, -10.0 * edge)


def router_of(thresholds: Thresholds, held: float = -1.0, whole: float = -1.0) -> RouterModel:
    """Scores every request 0.5, and is as confident as the mean logprob is above the way's edge."""
    models = mean_of_logprobs(held), mean_of_logprobs(whole)
    return RouterModel(undecided(), *models, True, thresholds, SUMMARY, REFERENCE)


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


def told_late(seed: int, size: int, hold: int = 4) -> list[LabelledRequest]:
    """As `traffic`, but the held tokens say little and later ones much; answers are short or long for no reason."""
    rng = np.random.default_rng(seed)
    rows: list[LabelledRequest] = []
    for row in traffic(seed, size):
        luck = float(rng.normal())
        length = int(rng.choice((8, 80)))
        weight = np.where(np.arange(length) < hold, 0.3, 1.0)
        said = tuple(_token(float(p)) for p in expit(1.5 + weight * luck + 0.7 * rng.normal(size=length)))
        agreed = bool(rng.random() < expit(1.0 + 2.5 * luck))
        rows.append(replace(row, tokens=said[:hold], whole=said, agreed=agreed, token_ms=20.0))
    return rows


def _token(p: float) -> TokenLogprob:
    rest = [0.6 * (1 - p), 0.3 * (1 - p)]
    return TokenLogprob(float(np.log(p)), tuple(sorted((float(np.log(q)) for q in (p, *rest)), reverse=True)))
