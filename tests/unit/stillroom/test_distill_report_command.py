"""``distill report`` as a shell sees it."""

import json
from pathlib import Path

import pytest

from distill.dataset import Manifest
from distill.gate import judge
from distill.gate_settings import GateSettings
from distill.report import Evaluation, report_of, summary
from distill.settings import DistillSettings
from ledger import jobs, releases
from ledger.releases import Release
from router.calibration import Prices
from router.features import RequestView
from router.train import LabelledRequest, train_router
from tests.unit.distill.measured import PARITY, TOKEN, measured, rows


@pytest.fixture
def folder(ledger, tmp_path, monkeypatch) -> Path:
    """Of a release that its gate rejected, by a job that is named by the release."""
    monkeypatch.setenv("COLUMNS", "400")
    made = tmp_path / "r1"
    made.mkdir()
    router = train_router(
        [LabelledRequest(RequestView((("user", f"x {n}"),)), (TOKEN,), n % 3 > 0) for n in range(60)],
        0.5, 0.05, Prices(1, 10),
    )  # fmt: skip
    candidate = measured(rows(160, 200), fit=None)
    settings = DistillSettings(gate=GateSettings(max_kl=0.5))
    manifest = Manifest(1, 30, 10, {}, 0.9, {}, "hash")
    evaluation = Evaluation(judge(settings, candidate, None, PARITY), candidate, None, {}, manifest)
    report = report_of(evaluation, summary(evaluation, router), {"id": "r1"})
    (made / "report.json").write_text(json.dumps(report))
    releases.add(ledger, Release("r1", "rejected", 1, None, None, None, str(made), "hash", {}))
    return made


def test_the_checks_are_a_table_and_the_rejected_candidate_says_where_its_page_is(stillroom, folder):
    status, out, err = stillroom("distill", "report", "r1")
    assert (status, err) == (0, "")
    assert "NO     divergence" in out and "not measured" in out
    assert "yes    agreement_floor" in out
    assert f"the gate rejects it by 1 of 7 checks; page: {folder}/report.html" in out


def test_the_json_is_the_report_without_what_was_said(stillroom, folder):
    found = json.loads(stillroom("distill", "report", "r1", "--json")[1])
    assert found["verdict"] == "rejected"
    assert [check["name"] for check in found["checks"] if not check["passed"]] == ["divergence"]
    assert "answers" not in found


def test_the_page_is_written_where_it_is_wanted(stillroom, folder, tmp_path):
    page = tmp_path / "page.html"
    assert f"page: {page}" in stillroom("distill", "report", "r1", "--html", str(page))[1]
    assert "Evaluation of r1" in page.read_text()


def test_what_has_no_report_is_one_line(stillroom, ledger, folder):
    job = jobs.create(ledger, "manual", "test", {})
    status, _, err = stillroom("distill", "report", job.id)
    assert (status, err) == (1, f"stillroom: job {job.id} is queued and has no release yet: nothing to report\n")
    status, _, err = stillroom("distill", "report", "nobody")
    assert status == 1 and "there is no job 'nobody'" in err
    (folder / "report.json").unlink()
    status, _, err = stillroom("distill", "report", "r1")
    assert status == 1 and "not evaluated yet, or its files are gone" in err
    (folder / "report.json").write_text('{"checks": []}')
    status, _, err = stillroom("distill", "report", "r1", "--html", "x.html")
    assert (status, err) == (1, "stillroom: the report of r1 is of an older version, which has no page\n")
