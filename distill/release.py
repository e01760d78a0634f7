"""A release's folder: ``student/``, ``router/``, ``report.json`` and ``manifest.json``, whole before it goes live."""

import importlib.metadata
import secrets
import time
from pathlib import Path
from typing import Any

import msgspec

from distill.dataset import Manifest as DatasetManifest
from distill.evaluate import Replayed, agreement_interval
from distill.gate import Verdict
from ledger.artifacts import folder_hash
from router.model import RouterModel

__all__ = ("Evaluation", "new_release_id", "summary", "write_release")


class Evaluation(msgspec.Struct, frozen=True):
    """What was measured of a candidate."""

    verdict: Verdict
    candidate: list[Any]
    champion: list[Any] | None
    training: dict[str, Any]
    dataset: DatasetManifest


def new_release_id() -> str:
    """A name that sorts by day and is unique: ``r20261124-3fa2c1``."""
    return f"r{time.strftime('%Y%m%d', time.gmtime())}-{secrets.token_hex(3)}"


def summary(evaluation: Evaluation, router: RouterModel) -> dict[str, Any]:
    """The figures that pages and tables show of a release."""
    agreement, low, high = agreement_interval([row.agreed for row in evaluation.candidate])
    thresholds = msgspec.to_builtins(router.thresholds)
    figures: dict[str, Any] = {
        "held_out": len(evaluation.candidate),
        "student_agreement": agreement,
        "student_agreement_ci": [low, high],
        "thresholds": thresholds,
        "router": msgspec.to_builtins(router.training),
        "training": evaluation.training,
        "checks": msgspec.to_builtins(evaluation.verdict.checks),
    }
    if evaluation.champion is not None:
        figures["champion_agreement"] = agreement_interval([row.agreed for row in evaluation.champion])[0]
    return figures


def write_release(
    folder: Path, router: RouterModel, evaluation: Evaluation, lineage: dict[str, Any]
) -> dict[str, Any]:
    """Write the router, the report and the manifest beside the trained student. Returns the summary."""
    router.save(folder / "router")
    figures = summary(evaluation, router)
    report = figures | {"answers": [_answer(row) for row in evaluation.candidate]}
    (folder / "report.json").write_bytes(msgspec.json.format(msgspec.json.encode(report)))
    manifest = lineage | {
        "dataset": msgspec.to_builtins(evaluation.dataset),
        "student_hash": folder_hash(folder / "student"),
        "router_hash": folder_hash(folder / "router"),
        "code_version": importlib.metadata.version("stillroom"),
    }
    (folder / "manifest.json").write_bytes(msgspec.json.format(msgspec.json.encode(manifest)))
    return figures


def _answer(row: Replayed) -> dict[str, Any]:
    return {
        "request_id": row.request.id,
        "student": row.answer,
        "teacher": row.request.answer,
        "agreed": row.agreed,
        "latency_ms": round(row.latency_ms, 1),
    }
