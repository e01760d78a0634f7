"""Trains a router from labelled requests: cross-fitted for the thresholds, refitted on all rows to be served.

Only this module needs scikit-learn, so only the trainer's process loads it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse import csr_matrix
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from router.calibration import Prices, choose_thresholds
from router.evaluate import calibration_error
from router.features import FEATURES, RequestView
from router.matrix import features
from router.model import Coefficients, RouterModel, TrainingSummary, score_logit
from router.signals import SIGNALS, TokenLogprob, confidence_signals

__all__ = ("LabelledRequest", "train_router")

FOLDS = 5
MIN_PER_CLASS = 10  # below it nothing is fitted to the rows but the base rate
REGULARISATIONS = (0.01, 0.1, 1.0)
CONFIDENCE_REGULARISATION = 1.0

Floats: TypeAlias = NDArray[np.float64]
Folds: TypeAlias = list[tuple[NDArray[np.int64], NDArray[np.int64]]]


@dataclass(frozen=True, slots=True)
class LabelledRequest:
    """A request, the student's logprobs on it, and whether its answer agreed with the teacher's.

    `tokens` must be cut as they are when served: with a hold of 8 tokens, the first 8.
    """

    view: RequestView
    tokens: tuple[TokenLogprob, ...]
    agreed: bool


@dataclass(frozen=True, slots=True)
class _Table:
    """Rows ready to fit: features (n, FEATURES), signals (n, len(SIGNALS)), labels (n,)."""

    matrix: csr_matrix
    signals: Floats
    agreed: NDArray[np.bool_]
    needs_logprobs: bool

    def take(self, rows: NDArray[np.int64]) -> "_Table":
        return _Table(self.matrix[rows], self.signals[rows], self.agreed[rows], self.needs_logprobs)


def train_router(
    rows: Sequence[LabelledRequest], target: float, delta: float, prices: Prices, seed: int = 0
) -> RouterModel:
    """Train on held-out requests; the same rows and seed give the same router.

    Rows should be like the traffic to come: at most one per conversation, none that the hard rules refuse.
    The thresholds are chosen on scores that no row's own label has touched: classifier, its choice of C,
    Platt scaling and confidence model are all fitted again without each fold. The served models are
    refitted on all rows, so that the guarantee is the cross-fitted one's, carried over. Rows without
    logprobs are left out if any row has some, since such answers are always escalated. With fewer than 10
    rows of either label nothing but the base rate is fitted: answers are ranked by the student's least
    likely token, and are still subject to the bound. Raises ValueError for a target or delta outside (0, 1).
    """
    table = _table([row for row in rows if row.tokens] or rows)
    if _minority(table.agreed) < MIN_PER_CLASS:
        chosen, fit = 0.0, _unfitted(table)
        scores = fit.scores(table.matrix)
        confidences = fit.confidences(scores, table.signals)
    else:
        chosen, fit = _fit(table, seed)
        scores, confidences = _cross_fitted(table, seed)
    return RouterModel(
        fit,
        choose_thresholds(scores, confidences, table.agreed, target, delta, prices),
        TrainingSummary(
            rows=table.agreed.size,
            agreed=int(table.agreed.sum()),
            seed=seed,
            regularisation=chosen,
            score_calibration_error=calibration_error(scores, table.agreed),
            confidence_calibration_error=calibration_error(confidences, table.agreed),
        ),
    )


def _table(rows: Sequence[LabelledRequest]) -> _Table:
    return _Table(
        features([row.view for row in rows]),
        np.array([confidence_signals(row.tokens) for row in rows]).reshape(len(rows), len(SIGNALS)),
        np.array([row.agreed for row in rows], dtype=bool),
        needs_logprobs=any(row.tokens for row in rows),
    )


def _minority(agreed: NDArray[np.bool_]) -> int:
    return int(min(agreed.sum(), (~agreed).sum()))


def _unfitted(table: _Table) -> Coefficients:
    """The base rate for every request, and for an answer its least likely token's logprob above the rows' mean.

    No label enters but through the base rate, which moves all alike, so these scores need no cross-fitting.
    """
    rate = (int(table.agreed.sum()) + 1) / (table.agreed.size + 2)
    bias = float(logit(rate))
    evidence = np.zeros(len(SIGNALS) + 1)
    least = SIGNALS.index("min_logprob")
    evidence[least] = 1.0
    mean = float(table.signals[:, least].mean()) if table.agreed.size else 0.0
    return Coefficients(np.zeros(FEATURES, dtype=np.float32), bias, evidence, bias - mean, table.needs_logprobs)


def _cross_fitted(table: _Table, seed: int) -> tuple[Floats, Floats]:
    """Scores and confidences of every row, from models that have not seen its fold."""
    scores, confidences = np.zeros(table.agreed.size), np.zeros(table.agreed.size)
    for inside, outside in _folds(table.agreed, seed):
        _, fit = _fit(table.take(inside), seed)
        held_out = table.take(outside)
        scores[outside] = fit.scores(held_out.matrix)
        confidences[outside] = fit.confidences(scores[outside], held_out.signals)
    return scores, confidences


def _folds(agreed: NDArray[np.bool_], seed: int) -> Folds:
    splitter = StratifiedKFold(min(FOLDS, _minority(agreed)), shuffle=True, random_state=seed)
    return list(splitter.split(np.zeros(agreed.size), agreed))


def _fit(table: _Table, seed: int) -> tuple[float, Coefficients]:
    """The chosen C and both models, each scaled by its own out-of-fold margins."""
    folds = _folds(table.agreed, seed)
    chosen, slope, offset, margins = min(_classifiers(table, folds), key=lambda found: found[0])[1:]
    weights, bias = _logistic(table.matrix, table.agreed, chosen * table.agreed.size)
    # In-sample logits would be surer than those of new requests, so the confidence model learns from these.
    score = score_logit(expit(slope * margins + offset))
    confidence_weights, confidence_bias = _fit_confidence(
        np.column_stack((table.signals, score)), table.agreed, folds
    )
    return chosen, Coefficients(
        (slope * weights).astype(np.float32),
        slope * bias + offset,
        confidence_weights,
        confidence_bias,
        table.needs_logprobs,
    )


def _classifiers(table: _Table, folds: Folds) -> Iterator[tuple[float, float, float, float, Floats]]:
    """For every C: log loss after Platt scaling, C, slope, offset, out-of-fold margins."""
    for strength in REGULARISATIONS:
        margins = _out_of_fold(table.matrix, table.agreed, strength * table.agreed.size, folds)
        slope, offset = _platt(margins, table.agreed)
        yield _log_loss(slope * margins + offset, table.agreed), strength, slope, offset, margins


def _fit_confidence(evidence: Floats, agreed: NDArray[np.bool_], folds: Folds) -> tuple[Floats, float]:
    mean, scale = evidence.mean(axis=0), evidence.std(axis=0)
    scale = np.where(scale > 1e-9, scale, 1.0)
    standard = (evidence - mean) / scale
    total = CONFIDENCE_REGULARISATION * agreed.size
    slope, offset = _platt(_out_of_fold(standard, agreed, total, folds), agreed)
    weights, bias = _logistic(standard, agreed, total)
    unscaled = slope * weights / scale
    return unscaled, slope * bias + offset - float(unscaled @ mean)


def _out_of_fold(rows: csr_matrix | Floats, agreed: NDArray[np.bool_], total: float, folds: Folds) -> Floats:
    margins = np.zeros(agreed.size)
    for inside, outside in folds:
        weights, bias = _logistic(rows[inside], agreed[inside], total)
        margins[outside] = rows[outside] @ weights + bias
    return margins


def _logistic(rows: csr_matrix | Floats, agreed: NDArray[np.bool_], total: float) -> tuple[Floats, float]:
    """Weights and bias at C = total / rows, so that penalty and *mean* loss weigh the same for a part of
    the rows.

    At one C, the margins of a strongly regularised fit grow with its rows, and a slope learned on four
    fifths of them would make the model of all rows overconfident.
    """
    # liblinear: the columns no row uses cost it nothing, and unlike lbfgs it starts no threads. Its dual form
    # suits the n-grams, of which there are more than rows.
    dual = isinstance(rows, csr_matrix)
    strength = total / agreed.size
    model = LogisticRegression(C=strength, solver="liblinear", dual=dual, max_iter=1000, random_state=0)
    model.fit(rows, agreed)
    return np.ravel(model.coef_), float(np.ravel(model.intercept_)[0])


def _platt(margins: Floats, agreed: NDArray[np.bool_]) -> tuple[float, float]:
    """Slope and offset of Platt scaling with his smoothed targets (Platt 1999), the slope at least 0.

    Margins that say nothing can come out slightly negative out of fold; following them would turn the order
    round.
    """
    positives, negatives = int(agreed.sum()), int((~agreed).sum())
    wanted = np.where(agreed, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    mean, scale = float(margins.mean()), max(float(margins.std()), 1e-12)
    standard = (margins - mean) / scale

    def loss(parameters: Floats) -> tuple[float, Floats]:
        z = parameters[0] * standard + parameters[1]
        error = expit(z) - wanted
        value = float(np.mean(np.logaddexp(0.0, z) - wanted * z))
        return value, np.array([np.mean(error * standard), np.mean(error)])

    start = np.array([1.0, float(logit(wanted.mean()))])
    best = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0.0, None), (None, None)]).x
    return float(best[0] / scale), float(best[1] - best[0] * mean / scale)


def _log_loss(logits: Floats, agreed: NDArray[np.bool_]) -> float:
    return float(np.mean(np.logaddexp(0.0, np.where(agreed, -logits, logits))))
