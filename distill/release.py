"""A release's folder: ``student/``, ``router/``, the report and ``manifest.json``, whole before it goes live."""

import secrets
import time
from pathlib import Path
from typing import Any, Final

import msgspec

from distill.lineage import code_version, student_facts
from distill.report import Evaluation, report_of, summary
from distill.report_page import page
from ledger.artifacts import seal
from router.model import RouterModel

__all__ = ("new_release_id", "write_release")

METRICS: Final = ("held_out", "student_agreement", "student_agreement_ci", "champion_agreement", "training")
"""The figures that the manifest quotes; all are in the report."""


def new_release_id() -> str:
    """A name that sorts by day and is unique: ``r20261124-3fa2c1``."""
    return f"r{time.strftime('%Y%m%d', time.gmtime())}-{secrets.token_hex(3)}"


def write_release(
    folder: Path, router: RouterModel, evaluation: Evaluation, lineage: dict[str, Any]
) -> dict[str, Any]:
    """Write the router, the report and the manifest beside the trained student. Returns the summary."""
    router.save(folder / "router")
    figures = summary(evaluation, router)
    # what cannot be written as JSON, infinity say, is null in the file: the page is drawn from what is in it
    written = msgspec.json.encode(report_of(evaluation, figures, lineage))
    (folder / "report.json").write_bytes(msgspec.json.format(written))
    (folder / "report.html").write_text(page(msgspec.json.decode(written)))
    facts = lineage | {
        "dataset": msgspec.to_builtins(evaluation.dataset),
        "code": code_version(),
        "hashes": student_facts(folder / "student"),
        "metrics": {name: figures[name] for name in METRICS if name in figures},
    }
    seal(folder, facts)
    return figures
