"""Trains a request classifier; needs SciPy and scikit-learn, so only the trainer's process loads it.

How far to trust words is a question of how far the traffic to come is from the traffic that was labelled. So the
n-gram part is chosen on two kinds of held-out requests at once: some left out at random, and whole groups of like
requests left out. The second kind is novel to the model that judges it, so the same choice also finds how fast the
part must fade with novelty.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit
from threadpoolctl import threadpool_limits

from router.classifier import DENSE_COLUMNS, KNOTS, LEVELS, NOVELTIES, Classifier, Scaling, farther
from router.corpus import Corpus, corpus_of, surprise_of
from router.features import RequestView
from router.folds import clusters, grouped_folds, groups_of, random_folds
from router.hashing import BUCKETS, PAIR_START
from router.logistic import Fit, Problem, fit_logistic, fit_ridge, platt
from router.mixing import NGRAM_STRENGTHS, HeldOut, Mix, best_mix, calibrated, joined

__all__ = ("MIN_PER_CLASS", "cross_fitted", "fit_classifier")

FOLDS: Final = 5
CHOICE_FOLDS, FEW_FOLDS, FEW_ROWS = 4, 3, 1_000
CHOICE_TOLERANCE: Final = 1e-5
MIN_PER_CLASS: Final = 10
"""Below it nothing is fitted to the rows but the base rate."""
DENSE_STRENGTH: Final = 2.0
"""Strong, so that columns that go together share what they say: that holds best on requests unlike any seen."""
LEAST_IN_GROUP, MOST_GROUPS = 10, 1_000
"""A group with fewer rows is not known; more groups than this are ids."""
CHOICE_ROWS: Final = 6_000
"""Strengths are chosen on at most so many rows; the weights are fitted to all."""
LEAST_SPREAD: Final = 1e-3
"""A column with less of a standard deviation, in training, is taken to be the same everywhere."""
LEAST_SURPRISE: Final = 0.1
"""Below it an n-gram is in nearly every request, and its former weight is not carried over."""

Floats = NDArray[np.float64]
Labels = NDArray[np.bool_]
Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    corpus: Corpus
    agreed: Labels
    groups: NDArray[np.int64]
    named: NDArray[np.str_]
    """What each request says it belongs to."""

    def take(self, rows: Rows) -> "_Rows":
        return _Rows(self.corpus.take(rows), self.agreed[rows], self.groups[rows], self.named[rows])


@dataclass(frozen=True, slots=True, eq=False)
class _Parts:
    """The two parts fitted to some rows at given strengths, in the scale of the fit, and what they stand on."""

    scaling: Scaling
    surprise: Floats
    dense: Fit
    ngrams: Fit


def fit_classifier(
    views: Sequence[RequestView],
    agreed: Labels,
    groups: Sequence[str] | None = None,
    seed: int = 0,
    warm: Classifier | None = None,
) -> Classifier:
    """A classifier from requests and whether the student's answer to each did, shape (n,); deterministic.

    `groups` names what each request belongs to (a subject, a customer, a template); without it, clusters of like
    requests stand in. `warm`, a former classifier, is the prior mean of the weights, and its counts of n-grams are
    added to. With fewer than 10 rows of either label, only the base rate and the novelty are learned, or `warm` is
    returned as it is. Raises ValueError for views, labels and groups of different lengths.
    """
    with threadpool_limits(1):  # the sums are short: a second thread costs more than it brings
        return _fit(_rows(views, agreed, groups, seed), seed, warm)


def cross_fitted(
    views: Sequence[RequestView], agreed: Labels, groups: Sequence[str] | None = None, seed: int = 0
) -> tuple[Floats, Floats]:
    """Scores and novelties (n,) of every request, from classifiers that have not seen its fold.

    With `groups`, no group is split between folds. Every choice is made anew without each fold.
    """
    rows = _rows(views, agreed, groups, seed)
    folds = random_folds(rows.agreed, FOLDS, seed) if groups is None else grouped_folds(rows.groups, FOLDS)
    everything = np.arange(rows.agreed.size)
    scores, novelties = np.zeros(rows.agreed.size), np.zeros(rows.agreed.size)
    with threadpool_limits(1):
        for inside, outside in folds or [(everything, everything)]:
            fitted = _fit(rows.take(inside), seed, None)
            scores[outside], novelties[outside] = _assessed(fitted, rows.take(outside))
    return scores, novelties


def _assessed(fitted: Classifier, rows: _Rows) -> tuple[Floats, Floats]:
    """`Classifier.assess_many` of rows."""
    corpus = rows.corpus
    surprise = fitted.surprise.astype(np.float64)
    columns = fitted.scaling.columns(corpus.dense)
    by_words = np.interp(corpus.surprises(surprise), fitted.quantiles, NOVELTIES)
    novelty = farther(by_words, fitted.scaling.outside(columns))
    if fitted.groups:
        novelty[(rows.named != "") & ~np.isin(rows.named, list(fitted.groups))] = 1.0
    said = corpus.ngrams(surprise) @ fitted.grams.astype(np.float64)
    dense = fitted.scaling.standard(columns) @ fitted.dense
    part = np.clip(said + fitted.lean, -fitted.limit, fitted.limit) * (1.0 - novelty) ** fitted.fading
    return expit(fitted.bias + dense + part), novelty


def _rows(views: Sequence[RequestView], agreed: Labels, groups: Sequence[str] | None, seed: int) -> _Rows:
    if len(views) != len(agreed) or (groups is not None and len(groups) != len(agreed)):
        raise ValueError("requests, labels and groups must be as many")
    corpus = corpus_of(views)
    found = clusters(corpus, seed) if groups is None else groups_of(groups)
    return _Rows(
        corpus, np.asarray(agreed, dtype=bool), found, np.array([view.group for view in views], dtype=np.str_)
    )


def _fit(rows: _Rows, seed: int, warm: Classifier | None) -> Classifier:
    size = rows.agreed.size
    quantiles = _quantiles(rows.corpus, np.arange(size), seed)
    if min(int(rows.agreed.sum()), int((~rows.agreed).sum())) < MIN_PER_CLASS:
        return warm or _base_rate(rows, quantiles)
    sample = np.sort(np.random.default_rng(seed).permutation(size)[:CHOICE_ROWS])
    mix = _chosen(rows.take(sample), seed, warm)
    parts = _Stage(rows, np.arange(size), warm).fit([mix.strength])[0]
    return Classifier(
        parts.scaling,
        parts.dense.weights * mix.dense,
        mix.offset + mix.dense * parts.dense.bias,
        (parts.ngrams.weights * mix.ngrams).astype(np.float32),
        parts.surprise.astype(np.float32),
        quantiles,
        parts.ngrams.bias * mix.ngrams,
        mix.limit * mix.ngrams,
        mix.fading,
        size + (warm.rows if warm else 0.0),
        _known_groups(rows.named) | (warm.groups if warm else frozenset()),
    )


def _known_groups(named: NDArray[np.str_]) -> frozenset[str]:
    """Those with rows enough; none where there are so many that the names must be ids."""
    names, counts = np.unique(named[named != ""], return_counts=True)
    known = names[counts >= LEAST_IN_GROUP]
    return frozenset(known.tolist()) if known.size <= MOST_GROUPS else frozenset()


class _Stage:
    """Fits the parts on some of the rows."""

    def __init__(self, rows: _Rows, inside: Rows, warm: Classifier | None) -> None:
        corpus, counted = rows.corpus, rows.corpus.counts(inside)
        self.inside, self.agreed = inside, rows.agreed[inside]
        self.scaling = _scaling(corpus.dense[inside], warm)
        self.surprise = _surprise(counted, inside.size, warm)
        self.prior = _prior(self.surprise, warm)
        columns = self.scaling.columns(corpus.dense)
        self.columns, self.outside = self.scaling.standard(columns), self.scaling.outside(columns)
        self.ngrams, self.kept = corpus.ngrams(self.surprise).compact()

    def _dense(self) -> Fit:
        """The dense part: shrunk in direction, and then scaled back to what its margins are worth."""
        columns = self.columns[self.inside]
        fit = fit_ridge(columns, self.agreed, DENSE_STRENGTH, self.prior.dense)
        slope, offset = platt(columns @ fit.weights + fit.bias, self.agreed)
        return Fit(slope * fit.weights, slope * fit.bias + offset)

    def fit(self, strengths: Sequence[float], tolerance: float = 1e-7) -> list[_Parts]:
        """The parts at each strength of the n-grams, from strong to weak."""
        dense = self._dense()
        offset = self.columns[self.inside] @ dense.weights + dense.bias
        problem = Problem(self.ngrams.take(self.inside), self.agreed, offset)
        prior = self.prior.ngrams[self.kept]
        start, found = Fit(prior, 0.0), list[_Parts]()
        for strength in strengths:
            start = fit_logistic(problem, strength, prior, start, tolerance)
            weights = self.prior.ngrams.copy()
            weights[self.kept] = start.weights
            found.append(_Parts(self.scaling, self.surprise, dense, Fit(weights, start.bias)))
        return found


@dataclass(frozen=True, slots=True, eq=False)
class _Prior:
    dense: Floats
    ngrams: Floats


def _prior(surprise: Floats, warm: Classifier | None) -> _Prior:
    """The former weights, for n-grams that now weigh `surprise`; zeros without a former classifier."""
    if warm is None:
        return _Prior(np.zeros(DENSE_COLUMNS), np.zeros(BUCKETS))
    ngrams = warm.grams.astype(np.float64)
    ratio = np.where(surprise > LEAST_SURPRISE, warm.surprise / np.maximum(surprise, LEAST_SURPRISE), 0.0)
    ngrams[:PAIR_START] *= ratio
    return _Prior(warm.dense, ngrams)


def _surprise(counted: Floats, rows: int, warm: Classifier | None) -> Floats:
    if warm is None:
        return surprise_of(counted, rows)
    former = (warm.rows + 1.0) * np.exp(-warm.surprise.astype(np.float64)) - 1.0
    return surprise_of(counted + np.maximum(former, 0.0), rows + warm.rows)


def _chosen(rows: _Rows, seed: int, warm: Classifier | None) -> Mix:
    """How the parts are put together."""
    count = FEW_FOLDS if rows.agreed.size < FEW_ROWS else CHOICE_FOLDS
    schemes = [random_folds(rows.agreed, count, seed), grouped_folds(rows.groups, count)]
    stages = [[(_Stage(rows, inside, warm), outside) for inside, outside in folds] for folds in schemes if folds]
    held_out = [[_held_out(rows, stage, outside, seed) for stage, outside in folds] for folds in stages]
    every = [joined(found) for found in held_out]
    return calibrated(rows.agreed, every[0], best_mix(rows.agreed, every))


def _held_out(rows: _Rows, stage: _Stage, outside: Rows, seed: int) -> HeldOut:
    parts = stage.fit(NGRAM_STRENGTHS, CHOICE_TOLERANCE)
    dense = stage.columns[outside] @ parts[0].dense.weights + parts[0].dense.bias
    ngrams = stage.ngrams.take(outside)
    said = np.column_stack([ngrams @ each.ngrams.weights[stage.kept] + each.ngrams.bias for each in parts])
    quantiles = _quantiles(rows.corpus, stage.inside, seed)
    novelty = np.interp(rows.corpus.surprises(stage.surprise)[outside], quantiles, NOVELTIES)
    return HeldOut(outside, dense, said, farther(novelty, stage.outside[outside]))


def _quantiles(corpus: Corpus, inside: Rows, seed: int) -> Floats:
    """The `LEVELS` quantiles of the surprise of rows left out of the counting, and that of unknown words."""
    rng = np.random.default_rng(seed)
    fold = rng.integers(0, FOLDS, size=inside.size)
    unknown = float(np.log(inside.size + 1.0))
    surprises = np.full(inside.size, unknown)
    for out in range(FOLDS):
        counted = inside[fold != out]
        surprise = surprise_of(corpus.counts(counted), counted.size)
        surprises[fold == out] = corpus.surprises(surprise)[inside[fold == out]]
    levels = np.quantile(surprises, np.linspace(0.0, 0.99, LEVELS)) if inside.size else np.zeros(LEVELS)
    rising = np.append(levels, max(unknown, float(levels[-1])))
    return np.asarray(rising + np.arange(LEVELS + 1) * 1e-9, dtype=np.float64)  # np.interp wants them to rise


def _scaling(dense: Floats, warm: Classifier | None = None) -> Scaling:
    """Bends of the length, and each column's mean, spread and range; with a former classifier, its own with the range
    of both, since its weights are tied to them.
    """
    if warm:
        former, columns = warm.scaling, warm.scaling.columns(dense)
        least, most = np.minimum(former.least, columns.min(axis=0)), np.maximum(former.most, columns.max(axis=0))
        return replace(former, least=least, most=most)
    knots = np.asarray(np.quantile(dense[:, 0], np.linspace(0.2, 0.8, KNOTS)), dtype=np.float64)
    columns = np.hstack((dense, np.maximum(dense[:, :1] - knots, 0.0)))
    spread = columns.std(axis=0)
    scale = np.where(spread > LEAST_SPREAD, spread, 1.0)
    return Scaling(knots, columns.mean(axis=0), scale, columns.min(axis=0), columns.max(axis=0))


def _base_rate(rows: _Rows, quantiles: Floats) -> Classifier:
    size = rows.agreed.size
    dense = rows.corpus.dense if size else np.zeros((1, rows.corpus.dense.shape[1]))
    surprise = surprise_of(rows.corpus.counts(np.arange(size)), size).astype(np.float32)
    bias = float(logit((int(rows.agreed.sum()) + 1) / (size + 2)))
    grams = np.zeros(BUCKETS, dtype=np.float32)
    return Classifier(
        _scaling(dense), np.zeros(DENSE_COLUMNS), bias, grams, surprise, quantiles, 0.0, 0.0, 1.0, float(size)
    )
