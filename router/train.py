"""Trains a router from labelled requests: cross-fitted for the thresholds, refitted on all rows to be served.

Only this module needs scikit-learn, so only the trainer's process loads it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits

from router.calibration import (
    Evidence,
    Prices,
    answered,
    choose_thresholds,
    classifier_rule,
    expected_cost,
    rule_of,
)
from router.calibration_error import calibration_error
from router.classifier_training import MIN_PER_CLASS, cross_fitted, fit_classifier
from router.confidence import EVIDENCE, ConfidenceModel, score_logit
from router.features import RequestView
from router.folds import random_folds
from router.logistic import platt
from router.model import RouterModel, TrainingSummary, WayFigures
from router.reference import Reference, quantiles
from router.signals import SIGNALS, TokenLogprob, confidence_signals
from router.thresholds import Thresholds

__all__ = ("LabelledRequest", "train_router", "train_with_evidence")

FOLDS = 5
CONFIDENCE_REGULARISATION = 1.0

Floats: TypeAlias = NDArray[np.float64]
Labels: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class LabelledRequest:
    """A request, the student's logprobs on it, and whether its answer agreed with the teacher's.

    `tokens` must be cut as they are when a stream is held: with a hold of 8 tokens, the first 8. `whole` are all of
    the answer, where they are known, and `cut_off` says that it ended at its length limit. `teacher_right` is False
    where the teacher's answer was found wrong, by feedback say: sending the request to it would have gained nothing.
    `token_ms` is the time the student took per token.
    """

    view: RequestView
    tokens: tuple[TokenLogprob, ...]
    agreed: bool
    whole: tuple[TokenLogprob, ...] | None = None
    cut_off: bool = False
    teacher_right: bool = True
    token_ms: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """Rows ready to fit: signals (n, len(SIGNALS)) by the held tokens and by all, labels (n,).

    `will_do` is what is learned, `agreed` what is promised.
    """

    views: list[RequestView]
    held: Floats
    whole: Floats
    agreed: Labels
    will_do: Labels
    needs_logprobs: bool

    @property
    def is_fitted(self) -> bool:
        """Whether there is enough of both labels to learn from."""
        return min(int(self.will_do.sum()), int((~self.will_do).sum())) >= MIN_PER_CLASS


def train_router(
    rows: Sequence[LabelledRequest], target: float, delta: float, prices: Prices, seed: int = 0
) -> RouterModel:
    """Train on held-out requests; the same rows and seed give the same router.

    Rows should be like the traffic to come: at most one per conversation, none that the hard rules refuse. What is
    learned is whether the student's answer will do: it agreed, or the teacher's was no better. What is promised is
    agreement. The thresholds are chosen on numbers of models that have not seen the row: a row's label has no part in
    its own score, and in its confidence only by way of other rows' scores, as in stacking
    (doi:10.1016/S0893-6080(05)80023-1). The served models are refitted on all rows, so that the guarantee is the
    cross-fitted one's, carried over. Rows without logprobs are left out if any row has some, since such answers are
    always escalated. With fewer than 10 rows of either label nothing but the base rate is fitted: answers are ranked
    by the student's least likely token, and are still subject to the bound. Raises ValueError for a target or delta
    outside (0, 1).
    """
    return train_with_evidence(rows, target, delta, prices, seed)[0]


def train_with_evidence(
    rows: Sequence[LabelledRequest], target: float, delta: float, prices: Prices, seed: int = 0
) -> tuple[RouterModel, Evidence]:
    """`train_router`, and the out-of-fold numbers that its thresholds were chosen on."""
    # on matrices this small, threads cost far more than they give
    with threadpool_limits(1):
        return _train([row for row in rows if row.tokens] or list(rows), (target, delta), prices, seed)


def _train(
    kept: Sequence[LabelledRequest], promise: tuple[float, float], prices: Prices, seed: int
) -> tuple[RouterModel, Evidence]:
    table = _table(kept)
    classifier = fit_classifier(table.views, table.will_do, seed=seed)
    if table.is_fitted:
        scores, novelties = cross_fitted(table.views, table.will_do, seed=seed)
        held, whole = (_fit_confidence(scores, signals, table.will_do, seed) for signals in (table.held, table.whole))
        confidences = [_out_of_fold(scores, s, table.will_do, seed) for s in (table.held, table.whole)]
    else:
        scores, novelties = classifier.assess_many(table.views)
        held, whole = (_unfitted(signals, table.will_do) for signals in (table.held, table.whole))
        confidences = [held.many(scores, table.held), whole.many(scores, table.whole)]
    evidence = Evidence(scores, confidences[0], confidences[1], table.agreed)
    thresholds = choose_thresholds(evidence, *promise, prices)
    router = RouterModel(
        classifier,
        held,
        whole,
        table.needs_logprobs,
        thresholds,
        _summary(table, evidence, thresholds, prices, (seed, _hold_ms(kept))),
        Reference(
            rows=len(kept),
            score=quantiles(scores.tolist()),
            confidence=quantiles(evidence.held.tolist()),
            novelty=quantiles(novelties.tolist()),
        ),
    )
    return router, evidence


def _table(rows: Sequence[LabelledRequest]) -> _Table:
    held, whole = (np.zeros((len(rows), len(SIGNALS))) for _ in range(2))
    for i, row in enumerate(rows):
        held[i] = confidence_signals(row.tokens)
        whole[i] = confidence_signals(row.tokens if row.whole is None else row.whole, row.cut_off)
    agreed = np.array([row.agreed for row in rows], dtype=bool)
    return _Table(
        [row.view for row in rows],
        held,
        whole,
        agreed,
        agreed | ~np.array([row.teacher_right for row in rows], dtype=bool),
        needs_logprobs=any(row.tokens for row in rows),
    )


def _hold_ms(rows: Sequence[LabelledRequest]) -> float | None:
    waits = [(len(row.tokens) - 1) * row.token_ms for row in rows if row.tokens and row.token_ms is not None]
    return median(waits) if waits else None


def _summary(
    table: _Table, evidence: Evidence, thresholds: Thresholds, prices: Prices, told: tuple[int, float | None]
) -> TrainingSummary:
    """What was measured, and by whose side it stands; `told` are seed and hold_ms."""
    scores, served = evidence.scores, rule_of(thresholds)
    alone = classifier_rule(evidence, thresholds.agreement_target, thresholds.delta)

    def figures(taken: Labels, cost: float, numbers: Floats) -> WayFigures:
        right = table.agreed | ~taken
        mixed = 0 < table.will_do.sum() < table.will_do.size
        auc = float(roc_auc_score(table.will_do, numbers)) if mixed else None
        share, agreement = (float(column.mean()) if column.size else 0.0 for column in (taken, right))
        return WayFigures(share, agreement, cost, auc)

    held, whole = (
        figures(taken, expected_cost(served, scores, taken, prices), numbers)
        for taken, numbers in zip(answered(served, evidence), evidence.ways, strict=True)
    )
    by_score = answered(alone, evidence)[0]
    return TrainingSummary(
        rows=scores.size,
        agreed=int(table.agreed.sum()),
        seed=told[0],
        fitted=table.is_fitted,
        score_calibration_error=calibration_error(scores, table.will_do),
        confidence_calibration_error=calibration_error(evidence.held, table.will_do),
        whole_calibration_error=calibration_error(evidence.whole, table.will_do),
        classifier=figures(by_score, expected_cost(alone, scores, by_score, prices), scores),
        held=held,
        whole=whole,
        hold_ms=told[1],
    )


def _unfitted(signals: Floats, will_do: Labels) -> ConfidenceModel:
    """The base rate, and for an answer its least likely token's logprob above the rows' mean.

    No label enters but through the base rate, which moves all alike, so these numbers need no cross-fitting.
    """
    rate = (int(will_do.sum()) + 1) / (will_do.size + 2)
    weights = np.zeros(EVIDENCE)
    least = SIGNALS.index("min_logprob")
    weights[least] = 1.0
    mean = float(signals[:, least].mean()) if will_do.size else 0.0
    return ConfidenceModel(weights, float(logit(rate)) - mean)


def _fit_confidence(scores: Floats, signals: Floats, will_do: Labels, seed: int) -> ConfidenceModel:
    """Scaled by its own out-of-fold margins (Platt)."""
    evidence = np.column_stack((signals, score_logit(scores)))
    mean, scale = evidence.mean(axis=0), evidence.std(axis=0)
    scale = np.where(scale > 1e-9, scale, 1.0)
    standard = (evidence - mean) / scale
    total = CONFIDENCE_REGULARISATION * will_do.size
    if _logistic(standard, will_do, total)[0][-1] < 0.0:
        # a score that says nothing can point slightly the wrong way out of fold
        standard[:, -1] = 0.0
    margins = np.zeros(will_do.size)
    for inside, outside in random_folds(will_do, FOLDS, seed):
        weights, bias = _logistic(standard[inside], will_do[inside], total)
        margins[outside] = standard[outside] @ weights + bias
    slope, offset = platt(margins, will_do)
    weights, bias = _logistic(standard, will_do, total)
    unscaled = slope * weights / scale
    return ConfidenceModel(unscaled, slope * bias + offset - float(unscaled @ mean))


def _out_of_fold(scores: Floats, signals: Floats, will_do: Labels, seed: int) -> Floats:
    """Every row's confidence from a model fitted, and scaled, without its fold."""
    confidences = np.zeros(will_do.size)
    for inside, outside in random_folds(will_do, FOLDS, seed):
        fitted = _fit_confidence(scores[inside], signals[inside], will_do[inside], seed)
        confidences[outside] = fitted.many(scores[outside], signals[outside])
    return confidences


def _logistic(rows: Floats, will_do: Labels, total: float) -> tuple[Floats, float]:
    """Weights and bias at C = total / rows, so that penalty and *mean* loss weigh the same for a part of the rows.

    At one C, the margins of a strongly regularised fit grow with its rows, and a slope learned on four fifths of
    them would make the model of all rows overconfident.
    """
    # liblinear: unlike lbfgs it starts no threads
    model = LogisticRegression(C=total / will_do.size, solver="liblinear", dual=False, max_iter=1000, random_state=0)
    model.fit(rows, will_do)
    return np.ravel(model.coef_), float(np.ravel(model.intercept_)[0])
