"""The request classifier: how likely the student's answer will do, and how unlike its training the request is.

The logit is a sum of two parts. The dense part (`router.dense`) reads length, shape, scripts and what is asked for,
and means the same on any request. The n-gram part (`router.hashing`) reads the words; it is bounded by what it said
of requests left out in training, and it fades as novelty rises, so that far from its training the score rests on the
dense part and the base rate. A request that says it belongs to a group that training had none of is all new.

Novelty: a request's surprise is the mean of log((n + 1) / (count + 1)) over its words and their character n-grams,
`count` being how many of the n training requests had it. The quantiles of the surprise of training requests left out
of the counting are mapped to 0 .. 0.5, and from there it rises in a straight line to 1, where nothing is known. A
dense column outside its range in training raises it by up to half of what it lacks of 1.
"""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from router.dense import DENSE, dense_row
from router.features import RequestView, edges
from router.hashing import BUCKETS, PAIR_START
from router.lexicon import Lexicon

__all__ = ("DENSE_COLUMNS", "KNOTS", "LEVELS", "NOVELTIES", "Assessment", "Classifier", "Scaling", "farther")

KNOTS: Final = 4
"""The response to length is a straight line that may bend at this many quantiles of the training lengths."""
DENSE_COLUMNS: Final = len(DENSE) + KNOTS
CLIP: Final = 3.0
"""Standard deviations beyond which a dense column says no more."""
LEAST_ROOM: Final = 0.2
"""The least width that a distance is measured in: in length, a factor of 11."""
LEVELS: Final = 17
"""Quantiles of surprise that are kept."""
NOVELTIES: Final = np.append(np.linspace(0.0, 0.5, LEVELS), 1.0)
"""The novelty at each quantile, and of a request of unknown words alone."""
_NOVELTIES: Final[list[float]] = NOVELTIES.tolist()

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Assessment:
    """What the classifier says of a request: P(the student's answer will do) and novelty, both in [0, 1]."""

    score: float
    novelty: float


@dataclass(frozen=True, eq=False)
class Scaling:
    """Bends of the length, shape (KNOTS,), then of every dense column mean, scale, least and most in training, shape
    (DENSE_COLUMNS,) each.
    """

    knots: Floats
    mean: Floats
    scale: Floats
    least: Floats
    most: Floats

    @cached_property
    def bounds(self) -> tuple[Floats, Floats]:
        """Below and above which a column says no more."""
        reach = CLIP * self.scale
        return np.maximum(self.least, self.mean - reach), np.minimum(self.most, self.mean + reach)

    @cached_property
    def room(self) -> Floats:
        """The widths that distances are measured in."""
        return np.maximum(self.most - self.least, LEAST_ROOM)

    def columns(self, dense: Floats) -> Floats:
        """Rows of `dense_row`, shape (..., len(DENSE)), with the bends of the length: (..., DENSE_COLUMNS)."""
        return np.concatenate((dense, np.maximum(dense[..., :1] - self.knots, 0.0)), axis=-1)

    def standard(self, columns: Floats) -> Floats:
        """Standardised columns of the same shape. Nothing extrapolates: values beyond those of training, or beyond
        three standard deviations, count as the outermost, so a column that never varied says nothing.
        """
        low, high = self.bounds
        return (np.minimum(np.maximum(columns, low), high) - self.mean) / self.scale

    def outside(self, columns: Floats) -> Floats:
        """How far the farthest column is outside its values in training, in widths of these, at most 1; (...,)."""
        beyond = np.maximum(self.least - columns, columns - self.most) / self.room
        return np.minimum(np.maximum(beyond.max(axis=-1), 0.0), 1.0)


@dataclass(frozen=True, eq=False)
class Classifier:
    """A trained request classifier; `router.classifier_training.fit_classifier` makes one.

    `grams` (BUCKETS,) float32 are the weights of the n-grams, `surprise` (PAIR_START,) float32 what each n-gram
    adds to a request's surprise, which also weighs the n-grams among each other. `lean` is the n-gram part's own
    bias, and `limit` bounds the part before it is faded by (1 - novelty) ** `fading`. `rows` is how many requests
    the surprise was counted on, `groups` are those it had enough of.
    """

    scaling: Scaling
    dense: Floats
    bias: float
    grams: NDArray[np.float32]
    surprise: NDArray[np.float32]
    quantiles: Floats
    lean: float
    limit: float
    fading: float
    rows: float
    groups: frozenset[str] = frozenset()

    @cached_property
    def _lexicon(self) -> Lexicon:
        return Lexicon(self.grams, self.surprise)

    def assess(self, view: RequestView) -> Assessment:
        """Score and novelty of one request. Never raises, whatever the text."""
        text = view.text()
        read = edges(text)
        words = read.casefold().split()
        dense, outside = self._read_dense(dense_row(view, text, read, words))
        said, surprise = self._lexicon.read(words)
        novelty = farther(self._novelty(surprise), outside)
        if self.groups and view.group and view.group not in self.groups:
            novelty = 1.0
        part = min(max(said + self.lean, -self.limit), self.limit) * (1.0 - novelty) ** self.fading
        return Assessment(_expit(self.bias + dense + part), novelty)

    @cached_property
    def _columns(self) -> list[tuple[float, float, float, float, tuple[float, float, float]]]:
        """Of each dense column: where it says no more at either end, mean, slope of the logit, and least, most and
        room.
        """
        scaling = self.scaling
        edges_of = zip(scaling.least.tolist(), scaling.most.tolist(), scaling.room.tolist(), strict=True)
        slopes = (self.dense / scaling.scale).tolist()
        low, high = (bound.tolist() for bound in scaling.bounds)
        return list(zip(low, high, scaling.mean.tolist(), slopes, edges_of, strict=True))

    @cached_property
    def _knots(self) -> list[float]:
        return self.scaling.knots.tolist()

    def _read_dense(self, row: list[float]) -> tuple[float, float]:
        """The dense part of the logit, and `Scaling.outside`: one request, without an array's overhead."""
        said, farthest, length = 0.0, 0.0, row[0]
        row += [max(length - knot, 0.0) for knot in self._knots]
        for value, (low, high, mean, slope, (least, most, room)) in zip(row, self._columns, strict=True):
            if low <= value <= high:
                said += (value - mean) * slope
                continue
            if value < low:
                said += (low - mean) * slope
                far = (least - value) / room
            else:
                said += (high - mean) * slope
                far = (value - most) / room
            if far > farthest:
                farthest = far
        return said, min(farthest, 1.0)

    @cached_property
    def _levels(self) -> list[float]:
        return self.quantiles.tolist()

    def _novelty(self, surprise: float) -> float:
        """`np.interp` of one number, without an array's overhead."""
        at = bisect_right(self._levels, surprise)
        if at in (0, len(self._levels)):
            return float(at > 0)
        low, high = self._levels[at - 1], self._levels[at]
        return _NOVELTIES[at - 1] + (_NOVELTIES[at] - _NOVELTIES[at - 1]) * (surprise - low) / (high - low)

    def assess_many(self, views: Sequence[RequestView]) -> tuple[Floats, Floats]:
        """Scores and novelties, shape (n,) each: the numbers of `assess`."""
        found = [self.assess(view) for view in views]
        return np.array([each.score for each in found]), np.array([each.novelty for each in found])

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The arrays to be kept as safetensors."""
        return {
            "classifier_grams": self.grams,
            "classifier_surprise": self.surprise,
            "classifier_dense": self.dense,
            "classifier_knots": self.scaling.knots,
            "classifier_mean": self.scaling.mean,
            "classifier_scale": self.scaling.scale,
            "classifier_least": self.scaling.least,
            "classifier_most": self.scaling.most,
            "classifier_quantiles": self.quantiles,
        }

    def described(self) -> dict[str, Any]:
        """The rest, to be kept as JSON."""
        return {name: getattr(self, name) for name in _NUMBERS} | {"groups": sorted(self.groups)}

    @staticmethod
    def restore(tensors: Mapping[str, NDArray[Any]], described: Mapping[str, Any]) -> "Classifier":
        """What `tensors` and `described` gave; ValueError for other shapes, missing or non-finite numbers."""
        arrays = {name: _checked(tensors, name) for name in _SHAPES}
        numbers = {name: _number(described, name) for name in _NUMBERS}
        scaling = Scaling(*(arrays[f"classifier_{name}"] for name in SCALING))
        if not (scaling.scale > 0.0).all():
            raise ValueError("classifier_scale must be above 0")
        return Classifier(
            scaling,
            arrays["classifier_dense"],
            numbers["bias"],
            arrays["classifier_grams"].astype(np.float32, copy=False),
            arrays["classifier_surprise"].astype(np.float32, copy=False),
            arrays["classifier_quantiles"],
            numbers["lean"],
            numbers["limit"],
            numbers["fading"],
            numbers["rows"],
            _groups(described),
        )


SCALING: Final = ("knots", "mean", "scale", "least", "most")
_NUMBERS: Final = ("bias", "lean", "limit", "fading", "rows")
_SHAPES: Final[dict[str, tuple[int, ...]]] = {
    "classifier_grams": (BUCKETS,),
    "classifier_surprise": (PAIR_START,),
    "classifier_dense": (DENSE_COLUMNS,),
    "classifier_knots": (KNOTS,),
    "classifier_mean": (DENSE_COLUMNS,),
    "classifier_scale": (DENSE_COLUMNS,),
    "classifier_least": (DENSE_COLUMNS,),
    "classifier_most": (DENSE_COLUMNS,),
    "classifier_quantiles": (LEVELS + 1,),
}


def _checked(tensors: Mapping[str, NDArray[Any]], name: str) -> NDArray[Any]:
    array = tensors.get(name)
    if array is None or array.shape != _SHAPES[name]:
        raise ValueError(f"{name} must have shape {_SHAPES[name]}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds numbers that are not finite")
    return array


def _number(described: Mapping[str, Any], name: str) -> float:
    value = described.get(name)
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"the classifier's {name} must be a finite number")
    return float(value)


def _groups(described: Mapping[str, Any]) -> frozenset[str]:
    names = described.get("groups")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in cast("list[Any]", names)):
        raise ValueError("the classifier's groups must be names")
    return frozenset(cast("list[str]", names))


def farther(novelty: float | Floats, outside: float | Floats) -> Any:
    """Novelty by words, raised by half of what it lacks where a dense column is a whole width outside."""
    return novelty + (1.0 - novelty) * 0.5 * outside


def _expit(x: float) -> float:
    small = math.exp(-abs(x))
    return (1.0 if x >= 0 else small) / (1.0 + small)
