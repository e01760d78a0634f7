"""``/ops/jobs/{id}``: one job while it runs and after, with its gate's report, and what can be done about it."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from litestar import Request, Response, get

from dashboards import job_words, words
from dashboards.site import READ, fragment, page
from ledger import job_history, jobs, releases
from ledger.canaries import Trial
from ledger.job_history import History
from ledger.jobs import FINAL_STATES, Job, JobError
from ledger.releases import Release, ReleaseError
from ledger.store import Store, now_ms

__all__ = ("job", "job_part")

LOG_LINES: Final = 100
LOSSES_SHOWN: Final = 8
PROGRESS: Final = {
    "building": ("dataset_progress",),
    "training": ("training", "preparing"),
    "evaluating": ("evaluating", "serving"),
}
"""The events that tell how far a stage is, the better ones first."""
DONE: Final = {"training": ("step", "steps")}
"""Where an event has what is done and of how many, if not in ``done`` and ``of``."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the page shows of a job."""

    job: Job
    history: History
    release: Release | None
    has_champion: bool


@get("/ops/jobs/{job_id:str}", opt=READ)
async def job(request: Request[Any, Any, Any], job_id: str) -> Response[bytes]:
    """The page. While the job is not over its part is read anew with each of the job's events."""
    seen = await asyncio.to_thread(_read, request.app.state.store, job_id)
    if seen is None:
        missing = f"There is no job {job_id}."
        return page(request, "missing.html", "No such job", 404, missing=missing, back="/ops/distillation")
    context = _context(seen, request.app.state.trial)
    return page(request, "job.html", f"Job {job_id}", kinds=" ".join(job_words.KINDS), **context)


@get("/ops/jobs/{job_id:str}/part", opt=READ)
async def job_part(request: Request[Any, Any, Any], job_id: str) -> Response[bytes]:
    """What changes of the page while the job runs."""
    seen = await asyncio.to_thread(_read, request.app.state.store, job_id)
    if seen is None:
        return Response(b"", status_code=404)
    return fragment(request, "job_part.html", **_context(seen, request.app.state.trial))


def _read(store: Store, job_id: str) -> Seen | None:
    try:
        found = jobs.get(store, job_id)
    except JobError:
        return None
    release = None
    if found.release_id is not None:
        try:
            release = releases.get(store, found.release_id)
        except ReleaseError:
            release = None
    return Seen(found, job_history.history(store, job_id, LOG_LINES), release, releases.live(store) is not None)


def _context(seen: Seen, trial: Trial | None) -> dict[str, Any]:
    found, told = seen.job, seen.history
    return {
        "job": found,
        "state": job_words.JOB_STATES.get(found.state, found.state),
        "is_over": found.state in FINAL_STATES,
        "stages": job_words.stages(found, told.stages),
        "facts": _facts(found),
        "progress": _progress(found, told),
        "chart": _chart(told.training),
        "losses": _losses(told.training),
        "log": [(line["at"], job_words.event(line["kind"], line["data"])) for line in told.log],
        "log_is_cut": len(told.log) == LOG_LINES,
        "last_id": told.last_id,
        "checks": _checks(seen),
        "release": seen.release,
        "approval": job_words.approval(found, trial, seen.has_champion),
        "now": now_ms(),
    }


def _facts(found: Job) -> list[dict[str, str]]:
    asked = {name: value for name, value in found.settings.items() if name != "note"}
    said = ", ".join(f"{name} {_short(value)}" for name, value in asked.items())
    return [
        {"name": "Started by", "value": found.trigger, "note": found.actor},
        {"name": "Created", "value": words.when(found.created_at), "note": ""},
        {"name": "Last change", "value": words.when(found.updated_at), "note": ""},
        {"name": "Asked for", "value": said or "as the settings say", "note": str(found.settings.get("note", ""))},
    ]


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _progress(found: Job, told: History) -> dict[str, Any] | None:
    """The newest event of the stage that the job is in: what is done, of how much, and how long it will take."""
    known = [(told.newest[kind], kind) for kind in PROGRESS.get(found.state, ()) if kind in told.newest]
    if not known:
        return None
    data, kind = max(known, key=lambda each: each[0]["at"])
    done, of = (data.get(name) for name in DONE.get(kind, ("done", "of")))
    return {
        "said": job_words.event(kind, {name: value for name, value in data.items() if name != "at"}),
        "done": done,
        "of": of or None,
        "left": words.duration(data["eta_seconds"]) if "eta_seconds" in data else None,
        "at": data["at"],
    }


def _chart(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    if len(lines) < 2:
        return None
    series: list[dict[str, Any]] = [{"name": "loss", "values": [line.get("loss") for line in lines]}]
    validation = [line.get("validation_loss") for line in lines]
    if any(value is not None for value in validation):
        series.append({"name": "validation loss", "values": validation, "joined": True})
    return {"x": [line.get("step") for line in lines], "x_name": "step", "series": series}


def _losses(lines: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The curve as a table: a few steps, evenly apart, and the last one."""
    step = max(1, len(lines) // LOSSES_SHOWN)
    shown = [*lines[:-1:step], *lines[-1:]]
    return [[words.count(line.get("step")), _loss(line, "loss"), _loss(line, "validation_loss")] for line in shown]


def _loss(line: Mapping[str, Any], name: str) -> str:
    value = line.get(name)
    return words.NOTHING if value is None else f"{value:.4f}"


def _checks(seen: Seen) -> list[list[str]]:
    """Of the release's summary, or, before it has one, of the job's events."""
    checks: list[Mapping[str, Any]] = seen.release.summary.get("checks", []) if seen.release else []
    if not checks:
        checks = [line["data"] for line in reversed(seen.history.log) if line["kind"] == "check"]
    return job_words.check_rows(checks)
