"""The demo's figures: what a phase's numbers are made of, and that the report can be written."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from ledger.records import nano
from ledger.requests import Usage
from stillroom.demo.desk import Request
from stillroom.demo.report import Report, phase_of, show, write
from stillroom.demo.traffic import Reply, messages


def reply(text: str, answer: str, route: str, label: str = "lost", error: str | None = None) -> Reply:
    reason = "confident" if route == "student" else "hard"
    return Reply(Request(text, label, text), answer, route, reason, float(len(text)), error)


REPLIES = [
    reply("a", "lost", "student"),
    reply("bb", "late", "student"),
    reply("ccc", "Lost.", "teacher"),
    reply("dddd", "other", "teacher", label="other"),
    reply("e", "", "", error="refused"),
]
TEACHER = {"a": "lost", "bb": "lost", "ccc": "lost", "dddd": "lost", "e": "lost"}
USAGE = Usage(requests=5, cost_nano=nano(0.03), baseline_nano=nano(0.06))


def test_a_phase_counts_what_clients_saw_and_what_the_ledger_summed():
    phase = phase_of("first", REPLIES, TEACHER, USAGE)
    assert (phase.requests, phase.failed) == (5, 1)
    assert (phase.teacher_share, phase.in_scope_teacher_share, phase.out_of_scope_teacher_share) == (0.5, 1 / 3, 1.0)
    assert (phase.agreement, phase.accuracy, phase.in_scope_accuracy) == (0.5, 0.75, 2 / 3)
    assert phase.teacher_accuracy == 0.75
    assert (phase.cost, phase.baseline_cost, phase.saving) == (0.03, 0.06, 0.5)
    assert (phase.p50_ms, phase.p95_ms) == pytest.approx((2.5, 3.85))
    assert phase.reasons == {"student/confident": 2, "teacher/hard": 2}


def test_a_phase_in_which_everything_failed_is_a_phase_of_failures():
    phase = phase_of("down", [REPLIES[-1]], TEACHER, Usage())
    assert (phase.requests, phase.failed, phase.accuracy, phase.p50_ms, phase.saving) == (1, 1, 0, 0, 0)
    assert phase.accuracy_ci == [0, 1]


def test_the_report_is_written_as_json_and_picture_and_shown_as_a_table(tmp_path: Path):
    pytest.importorskip("matplotlib")
    phases = [phase_of(name, REPLIES, TEACHER, USAGE) for name in ("teacher only", "after round 1")]
    shares = {"zero_shot_accuracy": 0.1, "distilled_accuracy": 0.8, "distilled_agreement": 0.9}
    teacher = {"accuracy": 0.9, "in_scope_accuracy": 0.95}
    report = Report(
        phases=phases, student=shares, teacher=teacher, train={"seconds": 3}, release="r1", rounds=[],
        swaps={"requests": 4, "failed": 0}, seconds=12, machine={"cores": 2}, notes=["a stand-in"],
    )  # fmt: skip
    write(report, tmp_path)
    assert [p["name"] for p in json.loads((tmp_path / "report.json").read_bytes())["phases"]] == [
        "teacher only",
        "after round 1",
    ]
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    console = Console(record=True, width=200)
    show(report, console)
    shown = console.export_text()
    assert "after round 1" in shown
    assert "10.0% zero-shot, 80.0% distilled; the teacher 95.0%" in shown
    assert "a stand-in" in shown


def test_a_request_is_sent_as_the_desks_application_would():
    assert messages("where is it") == [
        {"role": "system", "content": "Sort the request."},
        {"role": "user", "content": "where is it"},
    ]


def test_a_phase_of_shifting_traffic_has_figures_for_old_and_new_intents():
    shifted = [
        replace(each, request=replace(each.request, slice="new" if each.route == "teacher" else "old"))
        for each in REPLIES[:4]
    ]
    slices = phase_of("second", shifted, TEACHER, USAGE).slices
    assert list(slices) == ["old", "new"]
    assert (slices["old"].requests, slices["old"].teacher_share, slices["old"].accuracy) == (2, 0.0, 0.5)
    assert (slices["new"].requests, slices["new"].teacher_share, slices["new"].agreement) == (2, 1.0, 0.5)
    assert phase_of("second", REPLIES, TEACHER, USAGE).slices == {}
