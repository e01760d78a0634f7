"""Evaluates the router on a table: every split, every baseline, intervals, and one sentence of verdict."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from router.calibration_error import calibration_error
from router.evaluation.bootstrap import Resampled, interval, resample
from router.evaluation.duplicates import near_duplicates
from router.evaluation.metrics import Blocks, Floats, Outcomes, aiq, apgr, benefit_auc, blocks, cpt, curve
from router.evaluation.rankings import ROUTER, Cases, Ranking, cases_of, length_ranking, oracle_ranking, rank
from router.evaluation.reading import TableError
from router.evaluation.splits import Fold, in_domain, out_of_domain, transfer
from router.evaluation.table import PromptTable

__all__ = ("Plan", "evaluate_table", "verdict")

BASELINES: Final = ("random", "length", "group_mean", "tfidf", "oracle")
SHARES: Final = np.linspace(0.0, 1.0, 41)
DIGITS = 4
FEWEST = 20
"""Rows, below which no number would mean anything."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How to evaluate: the number of folds, and the seed of splits, fits and resamples."""

    folds: int = 5
    seed: int = 0


@dataclass(frozen=True, eq=False)
class _Tested:
    """Rows that were tested in some split, with every ranking of them."""

    outcomes: Outcomes
    clusters: np.ndarray[Any, np.dtype[np.int64]]
    rankings: dict[str, Ranking]


def evaluate_table(
    table: PromptTable, train: PromptTable | None, plan: Plan, progress: Callable[[str], None]
) -> dict[str, Any]:
    """The evaluation as JSON-able data; the keys `n`, `router`, `baselines` and `margin_over_length_ci` are those of
    the headline split: `transfer` with a table to train on, else `out_of_domain` where there are groups, else
    `in_domain`. A share, and so `cpt50`, lies in 0..1. Raises TableError for a table too small to split.
    """
    if min(len(table.prompts), len(train.prompts) if train else FEWEST) < FEWEST:
        raise TableError(f"only {len(table.prompts)} complete rows to test on; at least {FEWEST} are needed")
    notes = [
        *table.notes,
        *_warnings(table.outcomes),
        *(f"to train on: {note}" for note in (train.notes if train else ())),
    ]
    for note in notes:
        progress(note)
    if train is None:
        found = _cross_validated(table, plan, progress)
    else:
        found = {"transfer": _transferred(table, train, plan, progress)}
    headline = next(name for name in ("transfer", "out_of_domain", "in_domain") if name in found)
    return {
        **found[headline],
        "split": headline,
        "verdict": verdict(found[headline], headline),
        "weak": table.weak,
        "strong": table.strong,
        "priced": table.priced,
        "dropped": sum(table.dropped.values()),
        "dropped_for": table.dropped,
        "notes": notes,
        "splits": {"in_domain": None, "out_of_domain": None, **found},
    }


def verdict(split: Mapping[str, Any], name: str) -> str:
    """One sentence: whether the router beats prompt length there, with the margin's interval."""
    where = {"transfer": "on the other table", "out_of_domain": "out of domain", "in_domain": "in domain"}[name]
    low, high = split["margin_over_length_ci"]
    if low is None:
        return f"beats prompt length {where}: cannot be told, since the strong model is no better than the weak one"
    answer = "yes" if low > 0 else "no"
    margin = f"{split['margin_over_length']:+.3f} [{low:+.3f}, {high:+.3f}]"
    return f"beats prompt length {where}: {answer}, APGR margin {margin}"


def _cross_validated(table: PromptTable, plan: Plan, progress: Callable[[str], None]) -> dict[str, dict[str, Any]]:
    progress(f"looking for near-duplicates in {len(table.prompts)} prompts")
    clusters = near_duplicates(table.prompts)
    cases = cases_of(table.prompts, table.groups, table.outcomes, plan.seed)
    try:
        splits = {"in_domain": in_domain(clusters, plan.folds, plan.seed)}
        if table.groups:
            splits["out_of_domain"] = out_of_domain(table.groups, clusters, plan.folds, plan.seed)
    except ValueError as error:
        raise TableError(f"{error}; all prompts here are near-duplicates of each other") from error
    return {
        name: _measured(_tested(cases, table.outcomes, clusters, folds, _under(name, progress)), plan)
        for name, folds in splits.items()
    }


def _transferred(
    table: PromptTable, train: PromptTable, plan: Plan, progress: Callable[[str], None]
) -> dict[str, Any]:
    prompts = [*train.prompts, *table.prompts]
    groups = [*train.groups, *table.groups] if train.groups and table.groups else None
    outcomes = train.outcomes.followed_by(table.outcomes)
    progress(f"looking for near-duplicates in {len(prompts)} prompts")
    clusters = near_duplicates(prompts)
    folds = transfer(len(train.prompts), clusters)
    if folds[0].train.size < FEWEST:
        raise TableError("nearly all rows to train on are near-duplicates of rows to test on")
    cases = cases_of(prompts, groups, outcomes, plan.seed)
    tested = _tested(cases, outcomes, clusters, folds, _under("transfer", progress))
    return {**_measured(tested, plan), "n_train": int(folds[0].train.size)}


def _under(name: str, progress: Callable[[str], None]) -> Callable[[str], None]:
    return lambda said: progress(f"{name}: {said}")


def _tested(
    cases: Cases,
    outcomes: Outcomes,
    clusters: np.ndarray[Any, np.dtype[np.int64]],
    folds: Sequence[Fold],
    progress: Callable[[str], None],
) -> _Tested:
    rankings = {
        **rank(cases, folds, progress),
        "random": Ranking(np.zeros(len(cases.prompts)), None),
        "length": length_ranking(cases, folds),
        "oracle": oracle_ranking(outcomes),
    }
    rows = np.sort(np.concatenate([fold.test for fold in folds]))
    return _Tested(
        outcomes.take(rows),
        np.unique(clusters[rows], return_inverse=True)[1].reshape(-1),
        {name: ranking.take(rows) for name, ranking in rankings.items()},
    )


def _measured(tested: _Tested, plan: Plan) -> dict[str, Any]:
    outcomes = tested.outcomes
    ordered = {name: blocks(ranking.delegate) for name, ranking in tested.rankings.items()}
    drawn = resample(ordered, outcomes, tested.clusters, SHARES, plan.seed)
    rows = {name: _row(ordered[name], tested.rankings[name], outcomes, drawn.apgr[name]) for name in tested.rankings}
    margins = drawn.apgr[ROUTER] - drawn.apgr["length"]
    point = float(apgr(ordered[ROUTER], outcomes.gain) - apgr(ordered["length"], outcomes.gain))
    return {
        "n": int(outcomes.weak.size),
        "clusters": int(tested.clusters.max()) + 1,
        "benefit_rate": _plain(float(outcomes.benefit.mean())),
        ROUTER: rows.pop(ROUTER),
        "baselines": {**{name: rows[name] for name in BASELINES}, **_single_models(outcomes)},
        "margin_over_length": _plain(point),
        "margin_over_length_ci": _plain(interval(margins)),
        "curve": _curves(ordered, outcomes, drawn),
    }


def _row(ranking: Blocks, said: Ranking, outcomes: Outcomes, resampled: Floats) -> dict[str, Any]:
    gain = outcomes.gain
    error = None if said.will_do is None else calibration_error(said.will_do, ~outcomes.benefit)
    return {
        "apgr": _plain(float(apgr(ranking, gain))),
        "apgr_ci": _plain(interval(resampled)),
        "cpt50": _plain(cpt(ranking, gain, 0.5)),
        "cpt80": _plain(cpt(ranking, gain, 0.8)),
        "auc": _plain(benefit_auc(ranking, outcomes.benefit)),
        "ece": _plain(error),
        "aiq": _plain(aiq(curve(ranking, outcomes))),
    }


def _single_models(outcomes: Outcomes) -> dict[str, dict[str, Any]]:
    return {
        "always_weak": {"quality": _plain(float(outcomes.weak.mean())), "cost": float(outcomes.weak_cost.mean())},
        "always_strong": {
            "quality": _plain(float(outcomes.strong.mean())),
            "cost": float(outcomes.strong_cost.mean()),
        },
    }


def _curves(ordered: Mapping[str, Blocks], outcomes: Outcomes, drawn: Resampled) -> dict[str, Any]:
    low, high = interval(drawn.quality, axis=0)
    curves = {name: curve(ranking, outcomes).at(SHARES) for name, ranking in ordered.items()}
    return {
        "share": SHARES.tolist(),
        "router_ci": {"low": _plain(low), "high": _plain(high)},
        **{name: {"quality": _plain(quality), "cost": cost.tolist()} for name, (quality, cost) in curves.items()},
    }


def _warnings(outcomes: Outcomes) -> list[str]:
    said: list[str] = []
    if outcomes.gain.mean() <= 0:
        said.append("the strong model is not better than the weak one: APGR and CPT have no meaning here")
    if outcomes.benefit.all() or not outcomes.benefit.any():
        said.append("delegating helps on all prompts or on none: there is nothing to tell apart")
    return said


def _plain(value: float | Floats | None) -> Any:
    """For JSON: rounded, and null for what is not defined."""
    if value is None:
        return None
    if isinstance(value, np.ndarray):
        return [_plain(float(item)) for item in value]
    return round(value, DIGITS) if np.isfinite(value) else None
