"""The trained router: two calibrated linear models and the thresholds, kept as safetensors and JSON."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from router.features import FEATURES, RequestView, dot, feature_row
from router.lexicon import Lexicon
from router.signals import SIGNALS, TokenLogprob, confidence_signals
from router.thresholds import Thresholds

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

__all__ = ("SCHEMA_VERSION", "Coefficients", "RouterFileError", "RouterModel", "TrainingSummary", "score_logit")

# To be raised when a file's layout changes, and when features or signals do: the weights are tied to them.
SCHEMA_VERSION = 1
TENSORS_FILE, JSON_FILE = "router.safetensors", "router.json"
SHAPES = {"classifier_weights": (FEATURES,), "confidence_weights": (len(SIGNALS) + 1,)}
SCORE_EDGE = 1e-6


class RouterFileError(Exception):
    """The folder holds no router that this version can read; the message says in one line what is wrong."""


@dataclass(frozen=True, slots=True, eq=False)
class Coefficients:
    """Classifier and confidence model, with scaling and Platt's slope and offset folded in.

    `classifier_weights` is float32 of shape (FEATURES,); `confidence_weights` float64 of shape
    (len(SIGNALS) + 1,), the last for the classifier's logit. With `needs_logprobs`, an answer without
    logprobs has confidence 0.
    """

    classifier_weights: NDArray[np.float32]
    classifier_bias: float
    confidence_weights: NDArray[np.float64]
    confidence_bias: float
    needs_logprobs: bool

    def scores(self, matrix: "csr_matrix") -> NDArray[np.float64]:
        """P(agreement | request) for each row of `features`, shape (n,)."""
        return _expit(matrix @ self.classifier_weights.astype(np.float64) + self.classifier_bias)

    def confidences(self, scores: NDArray[np.float64], signals: NDArray[np.float64]) -> NDArray[np.float64]:
        """P(agreement | request, logprobs), shape (n,), from scores (n,) and signals (n, len(SIGNALS))."""
        evidence = np.column_stack((signals, score_logit(scores)))
        return _expit(evidence @ self.confidence_weights + self.confidence_bias)


@dataclass(frozen=True, slots=True)
class TrainingSummary:
    """How it was trained. Calibration errors are out of fold; `regularisation` is 0 where nothing was fitted."""

    rows: int
    agreed: int
    seed: int
    regularisation: float
    score_calibration_error: float
    confidence_calibration_error: float


class _RouterFile(msgspec.Struct, forbid_unknown_fields=True):
    schema_version: int
    tensors_sha256: str
    classifier_bias: float
    confidence_bias: float
    needs_logprobs: bool
    thresholds: Thresholds
    training: TrainingSummary


class _Version(msgspec.Struct):
    schema_version: int


@dataclass(frozen=True, eq=False)
class RouterModel:
    """A trained router: its models, its thresholds, and how it came to be."""

    coefficients: Coefficients
    thresholds: Thresholds
    training: TrainingSummary
    schema_version: int = SCHEMA_VERSION
    _lexicon: Lexicon = field(default_factory=Lexicon, init=False, repr=False)

    @cached_property
    def _weights(self) -> list[float]:
        """The classifier's weights, to be looked up one by one."""
        return self.coefficients.classifier_weights.astype(np.float64).tolist()

    def score(self, view: RequestView) -> float:
        """P(agreement | request)."""
        found = dot(view, self._lexicon, self._weights)
        if found is not None:
            return _logistic(found + self.coefficients.classifier_bias)
        indices, values = feature_row(view)
        weights = self.coefficients.classifier_weights[indices]
        return _logistic(float(weights @ values) + self.coefficients.classifier_bias)

    def confidence(self, score: float, tokens: Sequence[TokenLogprob]) -> float:
        """P(agreement | request, the student's logprobs); 0 if it was trained with logprobs and gets none."""
        fit = self.coefficients
        if fit.needs_logprobs and not tokens:
            return 0.0
        bounded = min(max(score, SCORE_EDGE), 1.0 - SCORE_EDGE)
        signals = float(fit.confidence_weights[:-1] @ confidence_signals(tokens))
        logits = float(fit.confidence_weights[-1]) * math.log(bounded / (1.0 - bounded))
        return _logistic(signals + logits + fit.confidence_bias)

    def save(self, folder: Path) -> None:
        """Write router.safetensors and router.json into `folder`, made if it is missing. Raises OSError."""
        fit = self.coefficients
        tensors = save({name: getattr(fit, name) for name in SHAPES})
        described = _RouterFile(
            schema_version=self.schema_version,
            tensors_sha256=hashlib.sha256(tensors).hexdigest(),
            classifier_bias=fit.classifier_bias,
            confidence_bias=fit.confidence_bias,
            needs_logprobs=fit.needs_logprobs,
            thresholds=self.thresholds,
            training=self.training,
        )
        folder.mkdir(parents=True, exist_ok=True)
        (folder / TENSORS_FILE).write_bytes(tensors)
        (folder / JSON_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(described)))

    @staticmethod
    def load(folder: Path) -> "RouterModel":
        """Read what `save` wrote; RouterFileError if missing, foreign, corrupt or of another version."""
        try:
            described = _described((folder / JSON_FILE).read_bytes())
            tensors = (folder / TENSORS_FILE).read_bytes()
        except OSError as error:
            raise RouterFileError(f"cannot read the router in {folder}: {error.strerror}") from error
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise RouterFileError(f"{folder / JSON_FILE} is not a router: {error}") from error
        if hashlib.sha256(tensors).hexdigest() != described.tensors_sha256:
            raise RouterFileError(f"{folder / TENSORS_FILE} does not belong to {JSON_FILE} or is damaged")
        arrays = _arrays(tensors, folder / TENSORS_FILE)
        coefficients = Coefficients(
            arrays["classifier_weights"].astype(np.float32, copy=False),
            described.classifier_bias,
            arrays["confidence_weights"].astype(np.float64, copy=False),
            described.confidence_bias,
            described.needs_logprobs,
        )
        return RouterModel(coefficients, described.thresholds, described.training)


def _logistic(x: float) -> float:
    """`_expit` of one number, without an array's overhead."""
    small = math.exp(-abs(x))
    return (1.0 if x >= 0 else small) / (1.0 + small)


def score_logit(scores: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """Log-odds of a score, bounded so that a score of 0 or 1 stays finite."""
    bounded = np.clip(scores, SCORE_EDGE, 1.0 - SCORE_EDGE)
    return np.log(bounded / (1.0 - bounded))


def _expit(x: NDArray[np.float64]) -> NDArray[np.float64]:
    # by the half that does not overflow
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, small) / (1.0 + small)


def _described(content: bytes) -> _RouterFile:
    version = msgspec.json.decode(content, type=_Version).schema_version
    if version != SCHEMA_VERSION:
        raise RouterFileError(
            f"router of schema version {version}, this Stillroom reads {SCHEMA_VERSION}; retrain it"
        )
    return msgspec.json.decode(content, type=_RouterFile)


def _arrays(tensors: bytes, path: Path) -> dict[str, NDArray[np.float64]]:
    try:
        arrays = load(tensors)
    except SafetensorError as error:
        raise RouterFileError(f"{path} is not safetensors: {error}") from error
    if {name: array.shape for name, array in arrays.items()} != SHAPES:
        raise RouterFileError(f"{path} holds other tensors than a router's")
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise RouterFileError(f"{path} holds weights that are not finite")
    return arrays
