"""Rankings of requests under evaluation: our classifier, and the baselines that papers compare with.

Each is fitted on training rows and ranks the test rows. Where folds are pooled, what ranks is how much likelier
benefit is than it was in the fold's own training rows: the base rate of the training rows is high just where that of
the test rows is low, and pooling the plain probabilities would turn that into an order that no single router has.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.special import logit
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
from sklearn.linear_model import LogisticRegression

from router.classifier_training import fit_classifier
from router.evaluation.metrics import Floats, Outcomes
from router.evaluation.splits import Fold
from router.features import RequestView

__all__ = ("ROUTER", "Cases", "Ranking", "cases_of", "length_ranking", "oracle_ranking", "rank")

ROUTER: Final = "router"
WORD_BITS = 18
SMOOTHED = 1.0
"""Rows at the global mean that are added to each group, so that a group of three does not outrank all others."""


@dataclass(frozen=True, eq=False)
class Cases:
    """What rankings may look at; `counts` holds those of hashed words and word pairs."""

    prompts: list[str]
    views: list[RequestView]
    groups: list[str] | None
    benefit: NDArray[np.bool_]
    counts: csr_matrix
    seed: int


@dataclass(frozen=True, eq=False)
class Ranking:
    """How readily each row is delegated, shape (n,), and P(the weak model will do) where the ranking has one."""

    delegate: Floats
    will_do: Floats | None

    def take(self, rows: NDArray[np.int64]) -> "Ranking":
        """The ranking of some rows."""
        return Ranking(self.delegate[rows], None if self.will_do is None else self.will_do[rows])


def cases_of(prompts: list[str], groups: list[str] | None, outcomes: Outcomes, seed: int) -> Cases:
    """The rows, with their words counted once for all folds."""
    # hashed, so that memory does not grow with the vocabulary
    words = HashingVectorizer(
        ngram_range=(1, 2),
        n_features=1 << WORD_BITS,
        alternate_sign=False,
        norm=None,  # pyright: ignore[reportArgumentType] -- plain counts, as its documentation allows
    )
    counts = csr_matrix(words.transform(prompts), dtype=np.float32)
    views = [
        RequestView(messages=(("user", prompt),), group=group)
        for prompt, group in zip(prompts, groups or [""] * len(prompts), strict=True)
    ]
    return Cases(prompts, views, groups, outcomes.benefit, counts, seed)


def rank(cases: Cases, folds: Sequence[Fold], progress: Callable[[str], None]) -> dict[str, Ranking]:
    """The router's and the fitted baselines' rankings of the folds' test rows, in order of row; NaN elsewhere."""
    return {name: _pooled(cases, folds, name, progress) for name in FITTED}


def length_ranking(cases: Cases, folds: Sequence[Fold]) -> Ranking:
    """By number of characters, in the direction that most training rows support.

    One direction for all folds, so that the pooled order is that of lengths; where folds disagree, this favours the
    baseline.
    """
    lengths = np.array([float(len(prompt)) for prompt in cases.prompts])
    slopes = [_slope(lengths[fold.train], cases.benefit[fold.train]) * fold.train.size for fold in folds]
    return Ranking(lengths if sum(slopes) >= 0 else -lengths, None)


def oracle_ranking(outcomes: Outcomes) -> Ranking:
    """By the gain itself, which no router knows; of equal gains, the one that costs least more comes first."""
    order = np.lexsort((outcomes.strong_cost - outcomes.weak_cost, -outcomes.gain))
    delegate = np.empty(order.size)
    delegate[order] = -np.arange(order.size, dtype=np.float64)
    return Ranking(delegate, None)


def _slope(lengths: Floats, benefit: NDArray[np.bool_]) -> float:
    """Of the benefit against the rank of length, in units of their spread."""
    ranks = np.searchsorted(np.sort(lengths), lengths, side="left").astype(np.float64)
    spread = float(ranks.std() * benefit.std())
    return float(((ranks - ranks.mean()) * (benefit - benefit.mean())).mean() / spread) if spread else 0.0


def _pooled(cases: Cases, folds: Sequence[Fold], name: str, progress: Callable[[str], None]) -> Ranking:
    delegate, will_do = np.full(len(cases.prompts), np.nan), np.full(len(cases.prompts), np.nan)
    for number, fold in enumerate(folds, 1):
        progress(f"{name}: fold {number} of {len(folds)}, {fold.train.size} rows to train on")
        p = np.clip(FITTED[name](cases, fold), 1e-6, 1 - 1e-6)
        rate = (cases.benefit[fold.train].sum() + 1) / (fold.train.size + 2)
        delegate[fold.test] = logit(p) - logit(rate)
        will_do[fold.test] = 1 - p
    return Ranking(delegate, will_do)


def _one_class(benefit: NDArray[np.bool_]) -> bool:
    return bool(benefit.all() or not benefit.any())


def _rate(cases: Cases, fold: Fold) -> Floats:
    rate = (cases.benefit[fold.train].sum() + 1) / (fold.train.size + 2)
    return np.full(fold.test.size, float(rate))


def _router(cases: Cases, fold: Fold) -> Floats:
    """P(benefit) by the classifier that the gateway serves."""
    if _one_class(cases.benefit[fold.train]):
        return _rate(cases, fold)
    classifier = fit_classifier(
        [cases.views[row] for row in fold.train],
        ~cases.benefit[fold.train],
        [cases.groups[row] for row in fold.train] if cases.groups else None,
        seed=cases.seed,
    )
    scores, _ = classifier.assess_many([cases.views[row] for row in fold.test])
    return 1.0 - scores


def _group_mean(cases: Cases, fold: Fold) -> Floats:
    """The share of training rows with benefit in the row's group; of all of them for a group not seen."""
    rates = _rate(cases, fold)
    if cases.groups is None:
        return rates
    groups = np.asarray(cases.groups, dtype=object)
    names, numbers = np.unique(groups[fold.train], return_inverse=True)
    totals = np.bincount(numbers.reshape(-1), weights=cases.benefit[fold.train], minlength=names.size)
    sizes = np.bincount(numbers.reshape(-1), minlength=names.size)
    means = dict(zip(names, (totals + SMOOTHED * rates[0]) / (sizes + SMOOTHED), strict=True)) if rates.size else {}
    return np.array(
        [means.get(group, rate) for group, rate in zip(groups[fold.test], rates, strict=True)], dtype=float
    )


def _tfidf(cases: Cases, fold: Fold) -> Floats:
    """Logistic regression on TF-IDF of the training rows' words and word pairs, both at scikit-learn's defaults."""
    benefit = cases.benefit[fold.train]
    seen = np.flatnonzero(cases.counts[fold.train].getnnz(axis=0))
    if _one_class(benefit) or not seen.size:
        return _rate(cases, fold)
    weigh = TfidfTransformer()
    train = weigh.fit_transform(cases.counts[fold.train][:, seen])
    model = LogisticRegression(solver="liblinear", random_state=cases.seed).fit(train, benefit)
    return model.predict_proba(weigh.transform(cases.counts[fold.test][:, seen]))[:, 1]


FITTED: Final[dict[str, Callable[[Cases, Fold], Floats]]] = {
    ROUTER: _router,
    "group_mean": _group_mean,
    "tfidf": _tfidf,
}
