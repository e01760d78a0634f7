"""A ledger with a past: answers, releases with reports and savings, and jobs in every state."""

from pathlib import Path
from typing import Any

from distill.report_page import page
from ledger import canaries, datasets, jobs, releases
from ledger.artifacts import seal
from ledger.canaries import Trial
from ledger.datasets import Dataset
from ledger.records import NANO
from ledger.releases import Release
from ledger.requests import HOUR_MS, insert_records
from ledger.store import Store, now_ms
from tests.unit.ledger.rows import row

CHECKS = [
    {"name": "agreement_floor", "passed": True, "value": 0.91, "bound": 0.5, "text": "the student alone agrees"},
    {"name": "max_kl", "passed": False, "value": None, "bound": 0.2, "text": "could not be measured <b>"},
]
LOOK = {
    "at": 1, "requests": [40, 360], "decision": "go_on", "why": "not shown to hold: agreement",
    "rules": [
        {"name": "agreement", "candidate": 0.95, "champion": 0.97, "low": -0.01, "high": 0.05, "bound": 0.03,
         "n": [20, 30], "broken": False, "holds": False},
        {"name": "errors", "candidate": 0.0, "champion": 0.01, "low": None, "high": None, "bound": 0.01,
         "n": [40, 360], "broken": False, "holds": True},
        {"name": "latency", "candidate": 120.0, "champion": 100.0, "low": 0.8, "high": 1.4, "bound": 1.5,
         "n": [40, 360], "broken": False, "holds": True},
    ],
}  # fmt: skip
MANIFEST = {"train": 60, "held_out": 20, "dropped": {"refusal": 20}}


def training(step: int, **values: Any) -> dict[str, Any]:
    """A line of progress."""
    return {
        "step": step, "steps": 200, "loss": 2.0 / (step + 1), "examples": step, "tokens": 10 * step,
        "seconds": float(step), "tokens_per_second": 900.0, "eta_seconds": 200.0 - step, "time": 0.0,
        "validation_loss": None, **values,
    }  # fmt: skip


def report(release_id: str) -> dict[str, Any]:
    """As little as a report's page is made of."""
    side: dict[str, Any] = {
        "agreement": 0.9, "agreement_ci": [0.85, 0.95], "student_share": 0.7, "refusal_share": 0.0, "cost": None,
        "fit": None, "speed": None, "golden": None, "probes": None, "curve": [[0.0, 1.0], [1.0, 0.9]],
        "latencies_ms": [10.0, 20.0],
    }  # fmt: skip
    return {
        "release": release_id, "parent": None, "job": "job_1", "verdict": "rejected", "held_out": 20,
        "checks": CHECKS, "thresholds": {"feasible": True, "agreement_target": 0.9}, "training": {"steps": 200},
        "dataset": MANIFEST,
        "router": {"whole": {"student_share": 0.7, "agreement": 0.93}}, "candidate": side, "champion": None,
        "slices": [],
    }  # fmt: skip


def a_release(store: Store, folder: Path, name: str, **values: Any) -> Release:
    """A release whose folder holds a report."""
    where = folder / name
    where.mkdir(parents=True)
    (where / "report.html").write_text(page(report(name)))
    summary = {"checks": CHECKS, "student_agreement": 0.9, "student_agreement_ci": [0.85, 0.95], "held_out": 20}
    usual: dict[str, Any] = {"parent_id": None, "job_id": None, "created_at": 1_000, "promoted_at": None}
    usual["state"] = "candidate"
    found = Release(
        id=name,
        folder=str(where),
        content_hash=seal(where, {}),
        summary=summary,
        **(usual | values),
    )
    releases.add(store, found)
    return found


def a_job(store: Store, name: str, state: str, release_id: str | None = None, **values: Any) -> str:
    """A job that came to this state by the usual way."""
    job = jobs.create_once(store, name, "manual", "ann", {"note": "<i>a note</i>", "max_examples": 50})[0]
    jobs.claim(store, "w", job.id)
    for step in ("building", "training", "evaluating"):
        jobs.set_state(store, job.id, "w", step)
        if step == state:
            return job.id
        if step == "building":
            jobs.add_event(store, job.id, "dataset", MANIFEST | {"aligned_share": 1.0})
        if step == "training":
            jobs.add_events(store, job.id, [(now_ms(), "training", training(i)) for i in (1, 50, 100, 200)])
    jobs.set_state(store, job.id, "w", state, release_id=release_id, **values)
    return job.id


def with_a_past(store: Store, folder: Path) -> dict[str, str]:
    """Two releases were live, a third waits for approval, and the jobs that made them. Returns the jobs' ids."""
    now = now_ms()
    insert_records(store, [row(f"t{i}", created_at=now - i * HOUR_MS) for i in range(150)])
    insert_records(store, [row("opted", created_at=now, trainable=False)])
    insert_records(
        store,
        [
            row(f"s{i}", created_at=now - i * HOUR_MS, route="student", reason="confident", content=None,
                release_id="r-live", cost_nano=NANO, baseline_nano=(3 + i % 2) * NANO)
            for i in range(48)
        ],
    )  # fmt: skip
    a_release(store, folder, "r-first", created_at=now - 9_000)
    a_release(store, folder, "r-live", parent_id="r-first", created_at=now - 8_000)
    releases.promote(store, "r-first", "ann")
    releases.promote(store, "r-live", "ann")
    made = {
        "failed": a_job(store, "failed", "failed", error="the disk is full"),
        "live": a_job(store, "live", "live", "r-live"),
        "waiting": a_job(store, "waiting", "awaiting_approval", "r-new"),
    }
    a_release(store, folder, "r-new", parent_id="r-live", job_id=made["waiting"], created_at=now, dataset_id="d-1")
    datasets.add(store, Dataset("d-1", now, made["waiting"], "/d", "0" * 64, MANIFEST), [])
    return made


def on_trial(store: Store, release_id: str = "r-new") -> None:
    """The release is tried, and was looked at once."""
    canary = canaries.start(store, release_id, Trial("canary", 0.25), "ann")
    canaries.set_figures(store, canary, LOOK)
