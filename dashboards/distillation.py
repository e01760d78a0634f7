"""``/ops/distillation``: what a job would find and cost, starting one, the jobs there are, and what starts them."""

import asyncio
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from litestar import Request, Response, get
from sqlalchemy.exc import SQLAlchemyError

from dashboards import job_plan, words
from dashboards.job_words import JOB_STATES
from dashboards.site import READ, csv_answer, fragment, page
from ledger import canaries, job_history, jobs
from ledger.canaries import Canary
from ledger.dataset_preview import preview
from ledger.distilling import Distilling, Schedule
from ledger.job_settings import JobSettings
from ledger.jobs import Job, JobError
from ledger.store import Store, now_ms

__all__ = ("dataset_preview", "distillation")

JOBS_A_PAGE: Final = 25
MOST_IN_CSV: Final = 10_000
ASKED: Final = ("since", "tags", "max_examples")
"""What of a job's settings the form for a preview asks for."""
COLUMNS: Final = ("job", "state", "trigger", "actor", "created", "last change", "release", "cause")


@dataclass(frozen=True, slots=True)
class Found:
    """What the page reads."""

    jobs: list[Job]
    more: bool
    schedule: Schedule
    canary: Canary | None
    newest: Job | None


@get("/ops/distillation", opt=READ)
async def distillation(request: Request[Any, Any, Any]) -> Response[bytes]:
    """The page; ``state`` and ``before`` say which jobs. With ``counted`` the preview is a part of it at once."""
    query, store = request.query_params, request.app.state.store
    known: Distilling = request.app.state.distilling
    state = query.get("state") if query.get("state") in JOB_STATES else None
    if query.get("format") == "csv":
        rows = await asyncio.to_thread(job_history.jobs_page, store, MOST_IN_CSV, None, state)
        return csv_answer(COLUMNS, [_plain(job) for job in rows], "stillroom-jobs.csv")
    try:
        found = await asyncio.to_thread(_read, store, known, query.get("before") or None, state)
    except JobError as error:
        return page(request, "missing.html", "No such job", 404, missing=str(error), back="/ops/distillation")
    counted = await _counted(request) if "counted" in query else None
    return page(request, "distillation.html", "Distillation", preview=counted, **_context(found, query, state))


@get("/ops/distillation/preview", opt=READ)
async def dataset_preview(request: Request[Any, Any, Any]) -> Response[bytes]:
    """What a job would find, and the form that starts it."""
    return fragment(request, "dataset_preview.html", preview=await _counted(request))


async def _counted(request: Request[Any, Any, Any]) -> dict[str, Any]:
    """For the template: ``problem`` in words, or the figures."""
    known: Distilling = request.app.state.distilling
    store = request.app.state.store
    try:
        asked = _asked(request.query_params)
        found = await asyncio.to_thread(preview, store, known, asked, now_ms())
        unfinished = await asyncio.to_thread(job_plan.unfinished, store)
    except ValueError as error:
        return {"problem": f"Such a job cannot be made: {error}"}
    except SQLAlchemyError:
        return {"problem": "The ledger could not be read. Is its database there? Try again."}
    return job_plan.shown(found, known, asked) | {
        "problem": "",
        "unfinished": unfinished,
        "body": msgspec.json.encode(asked).decode(),
        "once": secrets.token_hex(16),
    }


def _asked(query: Mapping[str, Any]) -> JobSettings:
    """Raises `ValueError` (``msgspec.ValidationError`` is one) for what no job takes."""
    given: dict[str, Any] = {name: query[name].strip() for name in ASKED if query.get(name, "").strip()}
    if "tags" in given:
        given["tags"] = [tag.strip() for tag in given["tags"].split(",") if tag.strip()]
    return msgspec.convert(given, JobSettings, strict=False)


def _read(store: Store, known: Distilling, before: str | None, state: str | None) -> Found:
    rows = job_history.jobs_page(store, JOBS_A_PAGE + 1, before, state)
    return Found(
        jobs=rows[:JOBS_A_PAGE],
        more=len(rows) > JOBS_A_PAGE,
        schedule=known.schedule(store, now_ms()),
        canary=canaries.current(store),
        newest=jobs.newest(store),
    )


def _context(found: Found, query: Mapping[str, Any], state: str | None) -> dict[str, Any]:
    return {
        "asked": {name: query.get(name, "") for name in ASKED},
        "jobs": [(job, JOB_STATES.get(job.state, job.state)) for job in found.jobs],
        "states": list(JOB_STATES.items()),
        "state": state,
        "before": query.get("before"),
        "next": found.jobs[-1].id if found.more else None,
        "canary": found.canary,
        "failed": found.newest if found.newest and found.newest.state == "failed" else None,
        "settings": job_plan.settings(found.schedule),
        "triggers": job_plan.triggers(found.schedule),
        "holds": job_plan.holds(found.schedule),
    }


def _plain(job: Job) -> list[Any]:
    times = (words.when(job.created_at), words.when(job.updated_at))
    return [job.id, job.state, job.trigger, job.actor, *times, job.release_id, job.error]
