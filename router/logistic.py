"""Logistic regression with a prior mean and an offset; for the trainer."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

__all__ = ("Design", "Fit", "Problem", "fit_logistic", "fit_ridge", "log_loss", "platt")

Floats = NDArray[np.float64]
ITERATIONS = 60
NEWTON_STEPS = 25
TOLERANCE, TINY = 1e-6, 1e-12


class Design(Protocol):
    """A matrix of shape (n, d)."""

    def __matmul__(self, weights: Floats) -> Floats:
        """Its product with weights (d,)."""
        ...

    def transposed(self, errors: Floats) -> Floats:
        """The product of its transpose with a vector (n,)."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """Rows, their labels (n,), and what is already known of each row's logit (n,)."""

    design: Design
    labels: NDArray[np.bool_]
    offset: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """Weights and bias."""

    weights: Floats
    bias: float


def fit_logistic(
    problem: Problem, strength: Floats | float, prior: Floats, start: Fit, tolerance: float = 1e-7
) -> Fit:
    """The weights w and bias b with the least mean log loss + sum(strength / 2 * (w - prior)**2), from `start` on,
    by L-BFGS until a step gains less than `tolerance` of the loss.

    Penalty and *mean* loss weigh the same for a part of the rows, so that margins do not grow with the rows and a
    scale learned on four fifths of them holds for all.
    """
    labels, size = problem.labels.astype(np.float64), max(problem.labels.size, 1)

    def loss(parameters: Floats) -> tuple[float, Floats]:
        away = parameters[:-1] - prior
        logits = problem.design @ parameters[:-1] + parameters[-1] + problem.offset
        error = (expit(logits) - labels) / size
        value = float(np.sum(np.logaddexp(0.0, logits) - labels * logits)) / size
        pull = strength * away
        gradient = np.append(problem.design.transposed(error) + pull, error.sum())
        return value + float(pull @ away) / 2.0, gradient

    found = minimize(
        loss,
        np.append(start.weights, start.bias),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": ITERATIONS, "ftol": tolerance, "gtol": 1e-6},
    ).x
    return Fit(found[:-1], float(found[-1]))


def fit_ridge(columns: Floats, labels: NDArray[np.bool_], strength: float, prior: Floats) -> Fit:
    """As `fit_logistic`, of an array (n, d) with few columns, by Newton's method."""
    size, width = labels.size, columns.shape[1]
    table = np.column_stack((columns, np.ones(size)))
    penalty, mean = np.append(np.full(width, strength * size), TINY), np.append(prior, 0.0)

    def loss(weights: Floats) -> float:
        logits, away = table @ weights, weights - mean
        return float(np.sum(np.logaddexp(0.0, np.where(labels, -logits, logits)))) + float(penalty @ away**2) / 2.0

    weights = mean.copy()
    value = loss(weights)
    for _ in range(NEWTON_STEPS):
        p = expit(table @ weights)
        gradient = (p - labels) @ table + penalty * (weights - mean)
        hessian = (table * (p * (1.0 - p))[:, np.newaxis]).T @ table + np.diag(penalty)
        step, former = np.linalg.solve(hessian, gradient), value
        while (value := loss(weights - step)) > former and np.abs(step).max() > TINY:
            step = step / 2.0
        weights = weights - step
        if former - value < TOLERANCE * size:
            break
    return Fit(weights[:-1], float(weights[-1]))


def platt(margins: Floats, labels: NDArray[np.bool_], known: Floats | float = 0.0) -> tuple[float, float]:
    """The slope, at least 0, and offset that make margins (n,) log-odds beside a `known` part of them: Platt scaling
    with his smoothed targets (Platt 1999), by Newton's method.

    Margins that say nothing can come out slightly negative out of fold; following them would turn the order round.
    """
    positives, negatives = int(labels.sum()), int((~labels).sum())
    wanted = np.where(labels, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    mean, scale = float(margins.mean()), max(float(margins.std()), TINY)
    standard = (margins - mean) / scale
    slope, offset = _line(standard, wanted, known)
    if slope <= 0.0:
        return 0.0, _line(np.zeros(labels.size), wanted, known)[1]
    return slope / scale, offset - slope * mean / scale


def _line(x: Floats, wanted: Floats, known: Floats | float) -> tuple[float, float]:
    slope, offset, size = 0.0, 0.0, x.size
    for _ in range(NEWTON_STEPS):
        p = expit(slope * x + offset + known)
        error, weight = p - wanted, np.maximum(p * (1.0 - p), 1e-3)  # at least: so no step is far too long
        weighed = weight * x
        one, line, square = float(weight.sum()) / size, float(weighed.sum()) / size, float(weighed @ x) / size + TINY
        first, second = float(error @ x) / size, float(error.sum()) / size
        least = one * square - line * line
        turn, shift = (one * first - line * second) / least, (square * second - line * first) / least
        slope, offset = slope - turn, offset - shift
        if abs(turn) + abs(shift) < TOLERANCE:
            break
    return slope, offset


def log_loss(logits: Floats, labels: NDArray[np.bool_]) -> float:
    """Mean log loss in nats."""
    return float(np.mean(np.logaddexp(0.0, np.where(labels, -logits, logits))))
