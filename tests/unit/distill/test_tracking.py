"""A job's end as MLflow is told of it, in a real store of it; and a store that is not there."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import msgspec
import pytest

from distill.context import JobContext
from distill.settings import DistillSettings, TrainingSettings
from distill.tracking import track
from ledger import jobs, releases
from ledger.jobs import Job
from ledger.prices import Price
from ledger.releases import Release
from ledger.store import Store, open_store, sqlite_url
from router.settings import RouterSettings
from serving.settings import StudentSettings

CHECKS = [
    {"name": "agreement", "passed": True, "value": 0.91, "bound": 0.5, "text": "agrees"},
    {"name": "parity", "passed": False, "value": 0.4, "bound": 0.02, "text": "served otherwise than trained"},
    {"name": "golden", "passed": True, "value": None, "bound": 0.0, "text": "not measured"},
]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(sqlite_url(tmp_path))
    yield opened
    opened.close()


def context_of(store: Store, home: Path, uri: str | None) -> JobContext:
    return JobContext(
        store=store,
        home=home,
        distill=DistillSettings(mlflow_uri=uri, training=TrainingSettings(epochs=7)),
        student=StudentSettings(),
        router=RouterSettings(),
        teacher_price=Price(),
        owner="w",
        on_progress=lambda _kind, _data: None,
    )


def ended(store: Store, home: Path, state: str = "rejected", **settings: Any) -> Job:
    """A job with a curve and a release that its gate has judged."""
    job = jobs.create(store, "manual", "ann", settings)
    folder = home / "releases" / "r1"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text('{"id": "r1"}')
    summary = {"held_out": 40, "student_agreement": 0.91, "checks": CHECKS}
    releases.add(store, Release("r1", "candidate", 1, None, "r0", job.id, str(folder), "0" * 64, summary))
    curve = [
        {"step": step, "steps": 3, "loss": 3.0 - step, "tokens_per_second": 50.0, "time": 100.0 + step,
         "validation_loss": None if step < 3 else 0.5}
        for step in (1, 2, 2, 3, 3)
    ]  # fmt: skip
    (home / "jobs" / job.id).mkdir(parents=True)
    lines = b"".join(msgspec.json.encode(line) + b"\n" for line in curve)
    (home / "jobs" / job.id / "progress.jsonl").write_bytes(lines + b'{"step": 4, "lo')
    jobs.claim(store, "w", job.id)
    jobs.set_state(store, job.id, "w", state, release_id="r1", error="parity" if state == "rejected" else None)
    return job


def runs_of(uri: str) -> list[Any]:
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("stillroom")
    return client.search_runs([experiment.experiment_id]) if experiment else []


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


async def test_mlflow_is_told_of_settings_curves_verdict_and_manifest_once(store: Store, tmp_path: Path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    job = ended(store, tmp_path, tags=["support"], note="for the shop")
    context = context_of(store, tmp_path, uri)
    for _ in range(2):
        await track(context, job, "rejected")
    (run,) = runs_of(uri)
    assert (run.info.run_name, run.info.status) == (job.id, "FINISHED")
    params, metrics, tags = run.data.params, run.data.metrics, run.data.tags
    assert (params["distill.training.epochs"], params["distill.data.tags"]) == ("7", "('support',)")
    assert "distill.mlflow_uri" not in params
    assert (tags["stillroom.state"], tags["stillroom.verdict"]) == ("rejected", "rejected")
    assert (tags["stillroom.release"], tags["stillroom.parent"]) == ("r1", "r0")
    assert tags["stillroom.why_not"] == "served otherwise than trained"
    assert (metrics["student_agreement"], metrics["gate.parity.value"], metrics["gate.parity.passed"]) == (
        0.91,
        0.4,
        0,
    )
    assert "gate.golden.value" not in metrics
    client = mlflow.MlflowClient(tracking_uri=uri)
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "validation_loss")] == [(3, 0.5)]
    losses = {(m.step, m.value, m.timestamp) for m in client.get_metric_history(run.info.run_id, "loss")}
    assert losses == {(1, 2.0, 101_000), (2, 1.0, 102_000), (3, 0.0, 103_000)}
    (artifact,) = client.list_artifacts(run.info.run_id)
    assert artifact.path == "manifest.json"
    assert [path.read_text() for path in (tmp_path / "mlflow").rglob("manifest.json")] == ['{"id": "r1"}']
    assert jobs.events(store, job.id)[-1]["kind"] == "state"


@pytest.mark.parametrize(("state", "status"), [("failed", "FAILED"), ("cancelled", "KILLED"), ("live", "FINISHED")])
async def test_how_a_job_ended_is_how_its_run_did(store: Store, tmp_path: Path, state: str, status: str):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    await track(context_of(store, tmp_path, uri), ended(store, tmp_path, state), state)
    assert [run.info.status for run in runs_of(uri)] == [status]


async def test_a_store_that_is_away_is_a_warning_of_the_job_and_nothing_else(store: Store, tmp_path: Path):
    job = ended(store, tmp_path)
    before = jobs.get(store, job.id)
    await track(context_of(store, tmp_path, "http://127.0.0.1:9"), job, "rejected")
    (*_, last) = jobs.events(store, job.id)
    assert last["kind"] == "warning"
    assert last["data"]["text"].startswith("MLflow was not told of this job: ")
    assert jobs.get(store, job.id) == before


async def test_who_names_no_store_or_lost_the_job_tells_nobody(store: Store, tmp_path: Path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    job = ended(store, tmp_path)
    await track(context_of(store, tmp_path, None), job, "rejected")
    await track(context_of(store, tmp_path, uri), job, "lost")
    assert not (tmp_path / "mlflow.db").exists()


async def test_mlflow_that_is_not_installed_is_said(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    job = ended(store, tmp_path)
    await track(context_of(store, tmp_path, "http://127.0.0.1:9"), job, "rejected")
    assert "pip install 'stillroom[mlflow]'" in jobs.events(store, job.id)[-1]["data"]["text"]


def test_a_password_in_the_address_is_refused():
    with pytest.raises(ValueError, match="MLFLOW_TRACKING_USERNAME"):
        DistillSettings(mlflow_uri="https://ann:secret@mlflow.example")
