"""A release's ``report.json``: the verdict with every number it stands on, slices, curve, times and answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from distill.dataset import Manifest
from distill.evaluate import Replayed, agreement_interval
from distill.measures import refusal_share
from distill.slices import slices_of
from distill.verdict import Measured, Verdict
from router.model import RouterModel

__all__ = ("Evaluation", "report_of", "summary")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was measured of a candidate, and of the champion beside it."""

    verdict: Verdict
    candidate: Measured
    champion: Measured | None
    training: dict[str, Any]
    dataset: Manifest


def summary(evaluation: Evaluation, router: RouterModel) -> dict[str, Any]:
    """The figures that pages and tables show of a release."""
    agreement, low, high = agreement_interval(evaluation.candidate.agreed)
    figures: dict[str, Any] = {
        "held_out": len(evaluation.candidate.rows),
        "student_agreement": agreement,
        "student_agreement_ci": [low, high],
        "thresholds": msgspec.to_builtins(router.thresholds),
        "router": msgspec.to_builtins(router.training),
        "training": evaluation.training,
        "checks": msgspec.to_builtins(evaluation.verdict.checks),
    }
    if evaluation.champion is not None:
        figures["champion_agreement"] = agreement_interval(evaluation.champion.agreed)[0]
    return figures


def report_of(evaluation: Evaluation, figures: Mapping[str, Any], lineage: Mapping[str, Any]) -> dict[str, Any]:
    """The whole report: plain values, as JSON has them. ``answers`` hold what was said; nothing else does."""
    candidate, champion = evaluation.candidate, evaluation.champion
    return dict(figures) | {
        "release": lineage.get("id"),
        "parent": lineage.get("parent"),
        "job": lineage.get("job"),
        "verdict": "passed" if evaluation.verdict.passed else "rejected",
        "dataset": msgspec.to_builtins(evaluation.dataset),
        "candidate": _side(candidate),
        "champion": _side(champion) if champion else None,
        "slices": msgspec.to_builtins(slices_of(candidate.rows, champion.rows if champion else None)),
        "answers": [_answer(row) for row in candidate.rows],
    }


def _side(measured: Measured) -> dict[str, Any]:
    """The figures of one student."""
    agreement, low, high = agreement_interval(measured.agreed)
    return {
        "agreement": agreement,
        "agreement_ci": [low, high],
        "student_share": measured.thresholds.student_share,
        "refusal_share": refusal_share(measured.rows),
        "cost": msgspec.to_builtins(measured.cost),
        "fit": msgspec.to_builtins(measured.fit),
        "speed": msgspec.to_builtins(measured.speed),
        "golden": msgspec.to_builtins(measured.golden),
        "probes": msgspec.to_builtins(measured.probes),
        "curve": [[round(share, 4), round(agreement, 4)] for share, agreement in measured.curve],
        "latencies_ms": [round(row.latency_ms, 1) for row in measured.rows if row.tokens],
    }


def _answer(row: Replayed) -> dict[str, Any]:
    return {
        "request_id": row.request.id,
        "student": row.answer,
        "teacher": row.request.answer,
        "agreed": row.agreed,
        "comparator": row.comparator,
        "latency_ms": round(row.latency_ms, 1),
    }
