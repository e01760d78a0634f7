"""A stand-in for the student: the answers that a linear model of the request's words can give.

Kernel ridge regression on the answers as classes. Two requests are as like as their words are, times how like is what
stands around them (system prompts, former answers): by the router's n-grams, folded into fewer columns (feature
hashing with signs: Weinberger et al. 2009, arXiv:0902.2206). It gives only answers that it has seen at least twice,
word for word; it writes nothing. A language model can do all that and more, but nothing here proves that it will.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse import csr_matrix

from distill.estimate.reading import Sampled
from router.comparators import COMPARATORS, Reply, agreed, compare, obvious
from router.corpus import Corpus, corpus_of, surprise_of
from router.features import RequestView
from router.hashing import BUCKETS, PAIR_START

__all__ = ("Answers", "Floats", "Proxy", "answers_of", "fit", "likeness", "right")

WIDTH: Final = 4_096
"""Columns for what the user said."""
AROUND: Final = 512
"""Columns for what stands around it."""
RIDGE: Final = 1.0
PAIRS: Final = 0.5
"""Weight of pairs of words beside the words themselves."""
BLOCK: Final = 512
"""Rows of likenesses at a time, where a second matrix of all of them is not needed."""
ANYWHERE: Final = 0.2
"""Likeness of two requests of the same words with nothing around them in common."""
NOTHING: Final = -1
SEEN: Final = 2
"""An answer that came less often is learned from by nobody."""
MAX_CLASSES: Final = 2_000

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Answers:
    """The answers of the sample: each row's class, shape (n,), and a reply for each class."""

    of: Rows
    replies: list[Reply]


@dataclass(frozen=True, eq=False)
class Proxy:
    """Weights (n, k) of the n requests it learned from for its k classes, of which the last is `NOTHING`: all answers
    that came too seldom.
    """

    weights: Floats
    classes: Rows

    def answers(self, alike: Floats) -> tuple[Rows, NDArray[np.float64]]:
        """The class that each request is given, and by how much it is ahead of the next, in [0, 1].

        ``alike`` (m, n) is how like each request is to each that was learned from.
        """
        scores = alike @ self.weights
        best = scores.argmax(axis=1)
        top = np.take_along_axis(scores, best[:, np.newaxis], axis=1)[:, 0]
        np.put_along_axis(scores, best[:, np.newaxis], 0.0, axis=1)
        ahead = np.clip((top - np.maximum(scores.max(axis=1), 0.0)).astype(np.float64), 0.0, 1.0)
        given = self.classes[best]
        return given, np.where(given == NOTHING, 0.0, ahead)


def answers_of(sample: Sequence[Sampled]) -> Answers:
    """Equal answers are one class: of the same comparator, and equal but for case, blanks and the order of keys."""
    known: dict[tuple[str, str], int] = {}
    replies: list[Reply] = []
    found = np.zeros(len(sample), dtype=np.int64)
    for row, each in enumerate(sample):
        key = (each.comparator, _key(each.reply))
        if key not in known:
            known[key] = len(known)
            replies.append(each.reply)
        found[row] = known[key]
    return Answers(found, replies)


def likeness(sample: Sequence[Sampled], counted: Rows) -> Floats:
    """How like each request is to each other, shape (n, n); words weigh by how rare they are in the ``counted`` rows.

    It is the most memory that an estimate takes, and as large for any log: once for all runs.
    """
    said = _folded(corpus_of([each.view for each in sample]), counted, WIDTH)
    found = said @ said.T
    del said
    around = _folded(corpus_of([RequestView((("user", each.context),)) for each in sample]), counted, AROUND)
    # one with nothing around it is like all others of its kind
    around[~around.any(axis=1)] = AROUND**-0.5
    for at in range(0, len(found), BLOCK):
        found[at : at + BLOCK] *= ANYWHERE + (1.0 - ANYWHERE) * (around[at : at + BLOCK] @ around.T)
    return found


def fit(alike: Floats, classes: Rows) -> Proxy:
    """A proxy of n requests, by how like each is to each (n, n), and the classes (n,) of their answers.

    ``alike`` is used up.
    """
    names, codes, often = np.unique(classes, return_inverse=True, return_counts=True)
    kept = np.sort(np.argsort(-often, kind="stable")[:MAX_CLASSES])
    kept = kept[often[kept] >= SEEN]
    place = np.full(names.size, kept.size)
    place[kept] = np.arange(kept.size)
    wanted = np.zeros((classes.size, kept.size + 1), dtype=np.float32)
    wanted[np.arange(classes.size), place[codes.reshape(-1)]] = 1.0
    alike[np.diag_indices_from(alike)] += RIDGE
    # its transpose is the same matrix, in the order that LAPACK factors in place
    factor = cho_factor(alike.T, overwrite_a=True, check_finite=False)
    weights = np.asarray(cho_solve(factor, wanted, check_finite=False))
    return Proxy(weights, np.append(names[kept], NOTHING))


def right(answers: Answers, given: Rows, sample: Sequence[Sampled], rows: Rows) -> NDArray[np.bool_]:
    """Whether the class that each of the ``rows`` was given agrees with its answer, by its own comparator."""
    found = np.zeros(rows.size, dtype=bool)
    for at, (row, cls) in enumerate(zip(rows.tolist(), given.tolist(), strict=True)):
        found[at] = cls >= 0 and _agree(sample[row], answers.replies[cls])
    return found


def _agree(each: Sampled, given: Reply) -> bool:
    """Free text agrees here only where it is the same: what else does, a model would have to say."""
    if each.comparator in COMPARATORS:
        return agreed(compare(each.comparator, given, each.reply))
    return obvious(given, each.reply) == 1.0


def _key(reply: Reply) -> str:
    said: list[Any] = [" ".join(reply.text.casefold().split()), *reply.tool_calls]
    with contextlib.suppress(msgspec.MsgspecError, UnicodeEncodeError, RecursionError, OverflowError):
        said[0] = msgspec.json.encode(msgspec.json.decode(reply.text), order="sorted").decode()
    return repr(said)


def _folded(corpus: Corpus, counted: Rows, width: int) -> Floats:
    chance = np.random.default_rng(0)
    signs, columns = chance.choice([-1.0, 1.0], BUCKETS), chance.integers(0, width, BUCKETS)
    folding = csr_matrix((signs, (np.arange(BUCKETS), columns)), shape=(BUCKETS, width))
    ngrams = corpus.ngrams(surprise_of(corpus.counts(counted), counted.size))
    words = ngrams.words @ (ngrams.grams @ folding[:PAIR_START])
    found = (words + PAIRS * (ngrams.pairs @ folding[PAIR_START:])).astype(np.float32).toarray()
    norms = np.linalg.norm(found, axis=1, keepdims=True)
    found /= np.where(norms > 0, norms, 1.0)
    return found
