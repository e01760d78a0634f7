"""The trained router: classifier, confidence models and thresholds, kept as safetensors and JSON."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from router.classifier import Assessment, Classifier
from router.confidence import EVIDENCE, ConfidenceModel
from router.features import RequestView
from router.reference import Reference
from router.signals import TokenLogprob, confidence_signals
from router.thresholds import Thresholds

__all__ = ("SCHEMA_VERSION", "RouterFileError", "RouterModel", "TrainingSummary", "WayFigures")

# To be raised when a file's layout changes, and when features or signals do: the weights are tied to them.
SCHEMA_VERSION = 2
TENSORS_FILE, JSON_FILE = "router.safetensors", "router.json"


class RouterFileError(Exception):
    """The folder holds no router that this version can read; the message says in one line what is wrong."""


@dataclass(frozen=True, slots=True)
class WayFigures:
    """One way to decide, on the rows the thresholds were chosen on and with out-of-fold numbers.

    `student_share`, `agreement` of the system and `cost` per request (the unit of the prices) are those of thresholds
    that keep the target, or of the teacher alone where none do. `auc` is of the number that the way goes by, None
    where all labels are the same.
    """

    student_share: float
    agreement: float
    cost: float
    auc: float | None


@dataclass(frozen=True, slots=True)
class TrainingSummary:
    """How it was trained. Calibration errors are out of fold; not `fitted`: too few rows of a label for any but the
    base rate.

    `classifier` is the request alone, at the level of confidence of the others; `held` and `whole` are the cascade as
    served, by the first tokens and by the whole answer. `hold_ms` is what holding those tokens back adds to the
    median stream's first token: at most that, since it is measured by whole answers, their prompts' time among it.
    None where it was not measured.
    """

    rows: int
    agreed: int
    seed: int
    fitted: bool
    score_calibration_error: float
    confidence_calibration_error: float
    whole_calibration_error: float
    classifier: WayFigures
    held: WayFigures
    whole: WayFigures
    hold_ms: float | None = None


class _RouterFile(msgspec.Struct, forbid_unknown_fields=True):
    schema_version: int
    tensors_sha256: str
    classifier: dict[str, Any]
    held_bias: float
    whole_bias: float
    needs_logprobs: bool
    thresholds: Thresholds
    training: TrainingSummary
    reference: Reference


class _Version(msgspec.Struct):
    schema_version: int


@dataclass(frozen=True, eq=False)
class RouterModel:
    """A trained router: its models, its thresholds, and how it came to be.

    `held` judges streams by their first tokens, `whole` judges whole answers. With `needs_logprobs`, an answer
    without logprobs has confidence 0.
    """

    classifier: Classifier
    held: ConfidenceModel
    whole: ConfidenceModel
    needs_logprobs: bool
    thresholds: Thresholds
    training: TrainingSummary
    reference: Reference

    def score(self, view: RequestView) -> float:
        """P(the student's answer will do | request)."""
        return self.assess(view).score

    def assess(self, view: RequestView) -> Assessment:
        """The score, and how unlike its training requests this one is."""
        return self.classifier.assess(view)

    def confidence(
        self, score: float, tokens: Sequence[TokenLogprob], whole: bool = False, cut_off: bool = False
    ) -> float:
        """P(the student's answer will do | request, logprobs); 0 if trained with logprobs and given none.

        `tokens` are the held ones, or all of a `whole` answer; `cut_off` tells of a whole one that it ended at its
        length limit.
        """
        if self.needs_logprobs and not tokens:
            return 0.0
        model = self.whole if whole else self.held
        return model.one(score, confidence_signals(tokens, whole and cut_off))

    def save(self, folder: Path) -> None:
        """Write router.safetensors and router.json into `folder`, made if it is missing. Raises OSError."""
        tensors = save(
            self.classifier.tensors() | {"held_weights": self.held.weights, "whole_weights": self.whole.weights}
        )
        described = _RouterFile(
            schema_version=SCHEMA_VERSION,
            tensors_sha256=hashlib.sha256(tensors).hexdigest(),
            classifier=self.classifier.described(),
            held_bias=self.held.bias,
            whole_bias=self.whole.bias,
            needs_logprobs=self.needs_logprobs,
            thresholds=self.thresholds,
            training=self.training,
            reference=self.reference,
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
        try:
            arrays = load(tensors)
            held, whole = (_weights(arrays, name) for name in ("held_weights", "whole_weights"))
            classifier = Classifier.restore(arrays, described.classifier)
        except SafetensorError as error:
            raise RouterFileError(f"{folder / TENSORS_FILE} is not safetensors: {error}") from error
        except ValueError as error:
            raise RouterFileError(f"{folder} holds no router's weights: {error}") from error
        return RouterModel(
            classifier,
            ConfidenceModel(held, described.held_bias),
            ConfidenceModel(whole, described.whole_bias),
            described.needs_logprobs,
            described.thresholds,
            described.training,
            described.reference,
        )


def _weights(arrays: dict[str, NDArray[Any]], name: str) -> NDArray[np.float64]:
    weights = arrays.get(name)
    if weights is None or weights.shape != (EVIDENCE,) or not np.isfinite(weights).all():
        raise ValueError(f"{name} must be {EVIDENCE} finite numbers")
    return weights.astype(np.float64, copy=False)


def _described(content: bytes) -> _RouterFile:
    version = msgspec.json.decode(content, type=_Version).schema_version
    if version != SCHEMA_VERSION:
        raise RouterFileError(
            f"router of schema version {version}, this Stillroom reads {SCHEMA_VERSION}; retrain it"
        )
    return msgspec.json.decode(content, type=_RouterFile)
