"""A job in MLflow, where the settings name a store of it: settings, curves, verdict, and the release's manifest.

It is told once a job has come to its end for the worker. Whatever goes wrong there is an event of the job, and never
its failure. What anybody said is not told.
"""

import asyncio
import contextlib
import importlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, cast

import msgspec
import structlog
from sqlalchemy.exc import SQLAlchemyError

from distill.context import JobContext, JobFailed
from distill.job_options import as_asked
from ledger import jobs, releases
from ledger.artifacts import MANIFEST
from ledger.jobs import Job
from ledger.releases import Release, ReleaseError
from ledger.store import now_ms

__all__ = ("track",)

EXPERIMENT: Final = "stillroom"
AT_ONCE: Final = 100
"""Parameters or metrics of one call; a server takes no more parameters."""
ENDED: Final[dict[str, str | None]] = {"failed": "FAILED", "cancelled": "KILLED", "lost": None}
"""MLflow's word for how a job ended; of a job that another worker goes on with that one will tell."""
ENVIRONMENT: Final = {
    # its own are minutes, in which this worker would take no job
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}

log = structlog.get_logger(__name__)


class _Line(msgspec.Struct):
    """What is told of a line of ``progress.jsonl``."""

    step: int
    loss: float
    tokens_per_second: float
    time: float
    validation_loss: float | None = None


async def track(context: JobContext, job: Job, state: str) -> None:
    """Tell MLflow of a job that ended in this state, if the settings name one."""
    status = ENDED.get(state, "FINISHED")
    if context.distill.mlflow_uri is None or status is None:
        return
    try:
        await asyncio.to_thread(_tell, context, context.distill.mlflow_uri, job.id, status)
    except SQLAlchemyError as error:
        log.warning("mlflow_not_told", job=job.id, error=str(error).splitlines()[0])


def _tell(context: JobContext, uri: str, job_id: str, status: str) -> None:
    why = "it is not installed: pip install 'stillroom[mlflow]'"
    with contextlib.suppress(ModuleNotFoundError):
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        # by name: an extra that is not installed where types are checked
        mlflow: Any = importlib.import_module("mlflow")
        try:
            _log(mlflow.MlflowClient(tracking_uri=uri), context, jobs.get(context.store, job_id), status)
        except (mlflow.MlflowException, OSError, SQLAlchemyError) as error:
            why = " ".join(str(error).split())
        else:
            return
    log.warning("mlflow_not_told", job=job_id, error=why)
    told = {"text": f"MLflow was not told of this job: {why}"}
    jobs.add_event(context.store, job_id, "warning", told)
    context.on_progress("warning", told)


def _log(client: Any, context: JobContext, job: Job, status: str) -> None:
    release = _release(context, job)
    run = _run(client, context, job)
    for name, value in _tags(job, release).items():
        client.set_tag(run, name, value)
    entities: Any = importlib.import_module("mlflow.entities")
    for some in _some([entities.Param(*each) for each in _parameters(context, job)]):
        client.log_batch(run, params=some)
    for some in _some([entities.Metric(*each) for each in _metrics(context.folder(job), release)]):
        client.log_batch(run, metrics=some)
    if release is not None and (Path(release.folder) / MANIFEST).exists():
        client.log_artifact(run, str(Path(release.folder) / MANIFEST))
    client.set_terminated(run, status, end_time=job.updated_at)


def _run(client: Any, context: JobContext, job: Job) -> str:
    """The id of the job's run, the one that there is where this is told again."""
    found = client.get_experiment_by_name(EXPERIMENT)
    # a database has no place for files, and would have them wherever this process was started
    is_database = str(context.distill.mlflow_uri).startswith("sqlite:")
    files = (context.home / "mlflow").as_uri() if is_database else None
    experiment = found.experiment_id if found is not None else client.create_experiment(EXPERIMENT, files)
    runs = client.search_runs([experiment], f"tags.`stillroom.job` = '{job.id}'", max_results=1)
    if runs:
        return str(runs[0].info.run_id)
    made = client.create_run(experiment, job.created_at, {"stillroom.job": job.id}, run_name=job.id)
    return str(made.info.run_id)


def _release(context: JobContext, job: Job) -> Release | None:
    with contextlib.suppress(ReleaseError):
        return releases.get(context.store, job.release_id) if job.release_id else None
    return None


def _tags(job: Job, release: Release | None) -> dict[str, str]:
    checks: list[dict[str, Any]] = release.summary.get("checks", []) if release else []
    verdict = ("passed" if all(check["passed"] for check in checks) else "rejected") if checks else None
    tags = {
        "state": job.state,
        "trigger": job.trigger,
        "error": job.error,
        "note": job.settings.get("note"),
        "release": release.id if release else None,
        "parent": release.parent_id if release else None,
        "verdict": verdict,
        "why_not": "; ".join(check["text"] for check in checks if not check["passed"]) or None,
    }
    return {f"stillroom.{name}": str(value)[:5_000] for name, value in tags.items() if value}


def _parameters(context: JobContext, job: Job) -> Iterator[tuple[str, str]]:
    """The settings of the job, by their names in the file."""
    settings = context.distill
    with contextlib.suppress(JobFailed):
        settings = as_asked(settings, job.settings)
    yield from _flat("distill", msgspec.to_builtins(settings))
    yield "student.weights", context.student.weights


def _flat(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, each in cast("dict[str, Any]", value).items():
            yield from _flat(f"{name}.{key}", each)
    elif value is not None and name != "distill.mlflow_uri":
        yield name, str(value)[:500]


def _metrics(folder: Path, release: Release | None) -> Iterator[tuple[str, float, int, int]]:
    """Name, value, time (ms) and step."""
    validated = None
    for line in _lines(folder / "progress.jsonl"):
        at = round(line.time * 1000)
        if line.validation_loss is not None and line.validation_loss != validated:
            validated = line.validation_loss
            yield "validation_loss", validated, at, line.step
        else:
            yield "loss", line.loss, at, line.step
            yield "tokens_per_second", line.tokens_per_second, at, line.step
    now = now_ms()
    for name, value in _figures(release):
        yield name, float(value), now, 0


def _lines(path: Path) -> list[_Line]:
    if not path.exists():
        return []
    whole, _, _ = path.read_bytes().rpartition(b"\n")
    return [msgspec.json.decode(line, type=_Line) for line in whole.splitlines()]


def _figures(release: Release | None) -> Iterator[tuple[str, float]]:
    """What was measured of the release, and of each of the gate's rules its number, bound, and whether it holds."""
    summary = release.summary if release else {}
    for name in ("held_out", "student_agreement", "champion_agreement"):
        if name in summary:
            yield name, summary[name]
    for check in summary.get("checks", []):
        values = {"value": check["value"], "bound": check["bound"], "passed": check["passed"]}
        yield from ((f"gate.{check['name']}.{what}", each) for what, each in values.items() if each is not None)


def _some(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (values[start : start + AT_ONCE] for start in range(0, len(values), AT_ONCE))
