"""P(the student's answer will do | request, its log-probabilities): a logistic model of the signals and the score."""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from router.signals import SIGNALS

__all__ = ("EVIDENCE", "ConfidenceModel", "score_logit")

EVIDENCE: Final = len(SIGNALS) + 1
"""Inputs: the signals, and the score's log-odds."""
SCORE_EDGE: Final = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class ConfidenceModel:
    """Weights of shape (EVIDENCE,), the last for the score's log-odds, and a bias. Scaling and Platt's slope and
    offset are folded in. One model is for answers cut to their first tokens, another for whole ones.
    """

    weights: NDArray[np.float64]
    bias: float

    def one(self, score: float, signals: NDArray[np.float64]) -> float:
        """Confidence of one answer, from its score and signals (len(SIGNALS),)."""
        bounded = min(max(score, SCORE_EDGE), 1.0 - SCORE_EDGE)
        known = float(self.weights[-1]) * math.log(bounded / (1.0 - bounded))
        logit = float(self.weights[:-1] @ signals) + known + self.bias
        small = math.exp(-abs(logit))
        return (1.0 if logit >= 0 else small) / (1.0 + small)

    def many(self, scores: NDArray[np.float64], signals: NDArray[np.float64]) -> NDArray[np.float64]:
        """Confidences (n,) of scores (n,) and signals (n, len(SIGNALS)): the numbers of `one`."""
        logits = np.column_stack((signals, score_logit(scores))) @ self.weights + self.bias
        # by the half that does not overflow
        small = np.exp(-np.abs(logits))
        return np.where(logits >= 0, 1.0, small) / (1.0 + small)


def score_logit(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log-odds of scores, bounded so that a score of 0 or 1 stays finite."""
    bounded = np.clip(scores, SCORE_EDGE, 1.0 - SCORE_EDGE)
    return np.log(bounded / (1.0 - bounded))
