"""A release's folder and its figures."""

import json
import re
from pathlib import Path

import pytest

from distill.dataset import Manifest
from distill.gate import Check, Verdict
from distill.release import new_release_id, write_release
from distill.report import Evaluation
from ledger.artifacts import folder_hash
from router.calibration import Prices
from router.features import RequestView
from router.model import RouterModel
from router.signals import TokenLogprob
from router.train import LabelledRequest, train_router
from tests.unit.distill.measured import measured, rows

CHECK = Check("parity", True, 0.001, 0.02, "served as trained")
MANIFEST = Manifest(1, 30, 10, {"refusal": 2}, 0.9, {"key_1": 30}, "hash")


@pytest.fixture
def router() -> RouterModel:
    rows = [
        LabelledRequest(RequestView((("user", f"parcel {n}"),)), (TokenLogprob(-0.1, (-0.1, -3.0)),), n % 3 > 0)
        for n in range(60)
    ]
    return train_router(rows, 0.5, 0.05, Prices(1, 10))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "student").mkdir()
    (tmp_path / "student" / "config.json").write_text("{}")
    return tmp_path


def evaluation(champion: bool) -> Evaluation:
    worse = measured(rows(5, 10)) if champion else None
    return Evaluation(Verdict([CHECK]), measured(rows(8, 10)), worse, {"seconds": 3.0}, MANIFEST)


def test_a_release_holds_its_router_report_and_manifest(folder: Path, router: RouterModel):
    figures = write_release(folder, router, evaluation(champion=False), {"id": "r1", "parent": None, "job": "job_1"})
    assert RouterModel.load(folder / "router").thresholds == router.thresholds
    manifest = json.loads((folder / "manifest.json").read_bytes())
    assert (manifest["id"], manifest["job"], manifest["dataset"]["content_hash"]) == ("r1", "job_1", "hash")
    assert manifest["parts"]["student"] == folder_hash(folder / "student")
    assert manifest["parts"]["router"] == folder_hash(folder / "router")
    assert manifest["metrics"]["student_agreement"] == 0.8
    assert manifest["code"]["version"]
    report = json.loads((folder / "report.json").read_bytes())
    assert report.pop("answers")[8] == {
        "request_id": "req_8", "student": "late", "teacher": "lost", "agreed": False, "comparator": "exact",
        "latency_ms": 100.0,
    }  # fmt: skip
    assert report.items() >= json.loads(json.dumps(figures)).items()
    assert (folder / "report.html").read_text().startswith("<!doctype html>")


def test_the_figures_are_the_measured_ones(folder: Path, router: RouterModel):
    figures = write_release(folder, router, evaluation(champion=True), {})
    assert (figures["held_out"], figures["student_agreement"], figures["champion_agreement"]) == (10, 0.8, 0.5)
    low, high = figures["student_agreement_ci"]
    assert low < 0.8 < high
    assert figures["checks"] == [
        {"name": "parity", "passed": True, "value": 0.001, "bound": 0.02, "text": "served as trained"}
    ]
    assert figures["training"] == {"seconds": 3.0}
    assert figures["thresholds"]["agreement_target"] == 0.5
    assert figures["router"]["whole"]["student_share"] == router.training.whole.student_share


def test_without_a_champion_no_figure_of_one_is_made_up(folder: Path, router: RouterModel):
    assert "champion_agreement" not in write_release(folder, router, evaluation(champion=False), {})


def test_a_changed_student_changes_the_hash_in_the_manifest(folder: Path, router: RouterModel):
    write_release(folder, router, evaluation(champion=False), {})
    before = json.loads((folder / "manifest.json").read_bytes())["parts"]["student"]
    (folder / "student" / "config.json").write_text("{ }")
    assert folder_hash(folder / "student") != before


def test_release_ids_sort_by_day_and_differ():
    ids = {new_release_id() for _ in range(200)}
    assert len(ids) == 200
    assert all(re.fullmatch(r"r\d{8}-[0-9a-f]{6}", release_id) for release_id in ids)
