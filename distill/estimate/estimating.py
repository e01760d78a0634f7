"""From logs to findings: read, learn, count, and say what it means."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from scipy.special import expit, logit

from distill.estimate.columns import FORMS, NOT_KEPT, Columns
from distill.estimate.curve import Aim, Learned, Size, answers_needed, learn
from distill.estimate.findings import Beyond, Findings, FormShare, Point, Verdict
from distill.estimate.inventory import inventory_of, mean_cost
from distill.estimate.money import Costs, money_of, student_costs
from distill.estimate.proxy import answers_of
from distill.estimate.reading import Reading, Sampled, Wanted, read_logs
from distill.estimate.resampling import Draws, Ends, Floats, ends_of, share_ends
from distill.estimate.verdict import verdict_of
from distill.evaluate import agreement_interval
from router.calibration import Prices

__all__ = ("Promise", "Question", "Telling", "estimate")

FURTHER: Final = (2, 4)
"""Times the answers that there are, to which the curve is drawn on."""
POINTS: Final = 3
"""Of the curve's end, by which it is drawn on."""
MOST: Final = 0.9
EDGE: Final = 1e-3
LEAST: Final = 0.01
"""Share of a point by which the curve is drawn on."""


@dataclass(frozen=True, slots=True)
class Promise:
    """The guarantee asked for, and the share of the conversations that it is proved on."""

    target: float
    confidence: float
    holdout: float


@dataclass(frozen=True, slots=True)
class Question:
    """All that is asked."""

    wanted: Wanted
    promise: Promise
    costs: Costs
    requests_per_day: float | None = None


@dataclass(frozen=True, slots=True)
class Telling:
    """Who is told how far it is: bytes read, more of them each time, and runs done of how many."""

    on_bytes: Callable[[int], None]
    on_run: Callable[[int, int], None]


def estimate(paths: Sequence[Path], question: Question, telling: Telling) -> Findings:
    """What the logs let one expect. Raises ``OSError`` for a file that cannot be opened."""
    reading = read_logs(paths, question.wanted, telling.on_bytes)
    aim = _aim(reading, question)
    learned = learn(reading.sample, aim, telling.on_run)
    tested = [reading.sample[row] for row in learned.tested.tolist()] if learned else []
    draws = Draws([each.conversation for each in tested]) if tested else None
    found = Findings(
        inventory=inventory_of(reading, question.requests_per_day),
        target=aim.target,
        confidence=question.promise.confidence,
        answers_needed=answers_needed(aim),
        sample=len(reading.sample),
        tested=len(tested),
        forms=_forms(reading, learned),
        curve=[],
        agreement_ends=None,
        beyond=[],
        answers_for_most=None,
        money=None,
        verdict=Verdict(says="", sentence="", next=[]),
    )
    if learned is not None and draws is not None:
        _add_curve(found, learned, draws)
        rate = found.inventory.requests_per_day
        if rate is not None:
            found.money = money_of(reading.columns, rate, tested, learned, question.costs)
    found.verdict = verdict_of(found)
    return found


def _aim(reading: Reading, question: Question) -> Aim:
    promise, teacher = question.promise, mean_cost(reading.columns)
    student = float(student_costs(reading.sample, question.costs).mean()) if reading.sample else 0.0
    prices = Prices(0.0, 1.0) if teacher is None else Prices(student, teacher)
    return Aim(promise.target, 1.0 - promise.confidence, promise.holdout, prices)


def _add_curve(found: Findings, learned: Learned, draws: Draws) -> None:
    found.curve = [_point(size, draws) for size in learned.sizes]
    last = learned.sizes[-1]
    wrong = np.sort((last.moved & ~last.right).sum(axis=1))[len(last.moved) // 2]
    agreed = [True] * (last.moved.shape[1] - int(wrong)) + [False] * int(wrong)
    found.agreement_ends = agreement_interval(agreed)[1:]
    found.beyond = _beyond(learned, draws)
    enough = [point.answers for point in found.curve if point.moved >= MOST * found.curve[-1].moved > 0]
    found.answers_for_most = enough[0] if enough else None


def _point(size: Size, draws: Draws) -> Point:
    return Point(
        answers=size.answers,
        alone=float(size.right.mean()),
        moved=float(size.moved.mean()),
        ends=ends_of(draws.mean(size.moved.astype(np.float64))),
        where_moved=float(size.right[size.moved].mean()) if size.moved.any() else None,
        agreement=float((~size.moved | size.right).mean()),
    )


def _beyond(learned: Learned, draws: Draws) -> list[Beyond]:
    """The share, of what a student can take, goes on along a logistic curve of the logarithm of the answers, which
    fits what was measured (docs/estimate.md); or it gains nothing any more.
    """
    ends = [size for size in learned.sizes if size.moved.mean() >= LEAST][-POINTS:]
    most = float(learned.supported.mean())
    if len(ends) < POINTS:
        return []
    odds = logit(np.minimum([size.moved.mean() / most for size in ends], 1.0 - EDGE))
    at = np.log([size.answers for size in ends])
    slope = max(float((at - at.mean()) @ odds / np.square(at - at.mean()).sum()), 0.0)
    shares = draws.mean(ends[-1].moved.astype(np.float64))
    level = logit(np.clip(shares / most, EDGE, 1.0 - EDGE))
    low = ends_of(shares)[0]

    def high(answers: int) -> float:
        values: Floats = most * expit(level + slope * (np.log(answers) - at[-1]))
        return max(ends_of(values)[1], low)

    numbers = [factor * ends[-1].answers for factor in FURTHER]
    return [Beyond(answers=n, ends=(low, high(n))) for n in numbers]


def _forms(reading: Reading, learned: Learned | None) -> list[FormShare]:
    """Of each form that there is."""
    columns, sample = reading.columns, reading.sample
    counts, costs = _by_form(columns)
    again = _seen_again(sample)
    found: list[FormShare] = []
    for at, form in enumerate(FORMS):
        if not counts[at]:
            continue
        rows = [row for row, each in enumerate(sample) if each.form == form]
        tested, moved, ends = _moved(sample, learned, form)
        found.append(
            FormShare(
                form=form,
                share=float(counts[at] / counts.sum()),
                cost_share=float(costs[at] / costs.sum()) if costs.sum() else None,
                seen_before=float(again[rows].mean()) if rows and form != NOT_KEPT else 0.0,
                tested=tested,
                moved=moved,
                ends=ends,
            )
        )
    return found


def _by_form(columns: Columns) -> tuple[Floats, Floats]:
    form = columns.of("form")
    counts = np.bincount(form, minlength=len(FORMS)).astype(np.float64)
    costs = np.bincount(form, weights=np.maximum(columns.of("cost"), 0), minlength=len(FORMS))
    return counts, costs.astype(np.float64)


def _seen_again(sample: Sequence[Sampled]) -> Floats:
    classes = answers_of(sample).of
    often = np.bincount(classes) if classes.size else classes
    return (often[classes] > 1).astype(np.float64) if classes.size else np.zeros(0)


def _moved(sample: Sequence[Sampled], learned: Learned | None, form: str) -> tuple[int, float, Ends]:
    """How many were tested, and which share of them the proxy may answer."""
    if learned is None:
        return 0, 0.0, (0.0, 1.0)
    mine = np.array([sample[row].form == form for row in learned.tested.tolist()], dtype=bool)
    if not mine.any():
        return 0, 0.0, (0.0, 1.0)
    moved = learned.sizes[-1].moved[:, mine].astype(np.float64)
    draws = Draws([sample[row].conversation for row in learned.tested[mine].tolist()])
    return int(mine.sum()), float(moved.mean()), share_ends(moved, draws)
