"""``/ops/releases/{id}``: one release, and the report of its evaluation under a policy of its own."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from litestar import Request, Response, get

from dashboards import job_words, release_words, words
from dashboards.site import HEADERS, READ, page
from ledger import canaries, datasets, jobs
from ledger import releases as ledger_releases
from ledger.artifact_store import local_part
from ledger.artifacts import ArtifactError
from ledger.canaries import STARTABLE, Canary
from ledger.datasets import Dataset
from ledger.jobs import FINAL_STATES, Job, JobError
from ledger.release_history import Saved, saved_by_release, trials_of
from ledger.releases import PRUNED, Release, ReleaseError
from ledger.store import Store

__all__ = ("release", "release_report")

REPORT: Final = "report.html"
REPORT_HEADERS: Final = HEADERS | {
    # it holds its own style and pictures, and nothing runs in it
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; sandbox"
}
MOST_PARENTS: Final = 20


@dataclass(frozen=True, slots=True)
class Found:
    """What the page reads."""

    release: Release
    parents: list[Release]
    """The nearest first."""
    job: Job | None
    dataset: Dataset | None
    saved: Saved | None
    trials: list[Canary]
    live: Release | None
    tried: Canary | None


@get("/ops/releases/{release_id:str}", opt=READ)
async def release(request: Request[Any, Any, Any], release_id: str) -> Response[bytes]:
    """The page."""
    try:
        found = await asyncio.to_thread(_read, request.app.state.store, release_id)
    except ReleaseError:
        return _missing(request, f"There is no release {release_id}.", "/ops/releases")
    return page(request, "release.html", f"Release {release_id}", **_context(found))


@get("/ops/releases/{release_id:str}/report", opt=READ)
async def release_report(request: Request[Any, Any, Any], release_id: str) -> Response[bytes]:
    """The report that the job wrote, once its hash is the one in the ledger. It holds nothing of what was said."""
    state, back = request.app.state, f"/ops/releases/{release_id}"
    try:
        content = await asyncio.to_thread(_report, state.store, release_id, state.release_cache)
    except ReleaseError:
        return _missing(request, f"There is no release {release_id}.", "/ops/releases")
    except (ArtifactError, OSError) as error:
        return _missing(request, f"Its report cannot be read here: {error}.", back)
    return Response(content, media_type="text/html", headers=REPORT_HEADERS)


def _missing(request: Request[Any, Any, Any], why: str, back: str) -> Response[bytes]:
    return page(request, "missing.html", "Not found", 404, missing=why, back=back)


def _report(store: Store, release_id: str, cache: Path) -> bytes:
    found = ledger_releases.get(store, release_id)
    if PRUNED in found.summary:
        raise ArtifactError("its files were deleted, since it is old")
    return local_part(found, REPORT, cache).read_bytes()


def _read(store: Store, release_id: str) -> Found:
    found = ledger_releases.get(store, release_id)
    return Found(
        release=found,
        parents=_parents(store, found),
        job=_job(store, found.job_id),
        dataset=datasets.get(store, found.dataset_id) if found.dataset_id else None,
        saved=saved_by_release(store, release_id).get(release_id),
        trials=trials_of(store, release_id),
        live=ledger_releases.live(store),
        tried=canaries.current(store),
    )


def _parents(store: Store, of: Release) -> list[Release]:
    known = {each.id: each for each in ledger_releases.list_releases(store)}
    found: list[Release] = []
    parent = known.get(of.parent_id or "")
    while parent is not None and len(found) < MOST_PARENTS and parent not in found:
        found.append(parent)
        parent = known.get(parent.parent_id or "")
    return found


def _job(store: Store, job_id: str | None) -> Job | None:
    try:
        return jobs.get(store, job_id) if job_id else None
    except JobError:
        return None


def _context(found: Found) -> dict[str, Any]:
    shown, job = found.release, found.job
    waits_for_job = shown.state == "candidate" and job is not None and job.state not in FINAL_STATES
    is_pruned = PRUNED in shown.summary
    is_open = found.tried is not None and found.tried.release_id == shown.id
    return {
        "release": shown,
        "state": job_words.RELEASE_STATES.get(shown.state, shown.state),
        "is_pruned": is_pruned,
        "waits_for_job": waits_for_job,
        "can_promote": shown.state not in ("live", "rejected", "canary") and not (is_pruned or waits_for_job),
        "can_try": shown.state in STARTABLE
        and found.live is not None
        and not (found.tried or is_pruned or waits_for_job),
        "is_tried": is_open,
        "promotion": release_words.promotion(shown, found.live),
        "figures": _figures(found),
        "parents": found.parents,
        "job": job,
        "dataset": found.dataset,
        "data": _data(found.dataset),
        "checks": job_words.check_rows(shown.summary.get("checks", [])),
        "trials": [_trial(each) for each in found.trials],
    }


def _trial(canary: Canary) -> dict[str, Any]:
    return {
        "caption": f"Trial of {words.when(canary.started_at)}",
        "figures": release_words.trial(canary),
        "rules": release_words.rules(canary.figures),
    }


def _figures(found: Found) -> list[dict[str, str]]:
    shown, saved = found.release, found.saved
    spent = (
        f"{words.money(saved.cost_nano)} spent, {words.money(saved.baseline_nano)} on the teacher alone"
        if saved
        else ""
    )
    return [
        {"name": "State", "value": job_words.RELEASE_STATES.get(shown.state, shown.state), "note": _pinned(shown)},
        {"name": "Made", "value": words.when(shown.created_at), "note": f"content {shown.content_hash[:12]}"},
        {"name": "Live since", "value": words.when(shown.promoted_at), "note": "the last time that it went live"},
        {"name": "Student's agreement", "value": words.percent(shown.summary.get("student_agreement")),
         "note": release_words.agreement(shown)},
        {"name": "Requests", "value": words.count(saved.requests if saved else 0), "note": "that it decided on"},
        {"name": "Saved", "value": words.money(saved.saved_nano if saved else None),
         "note": f"{release_words.saved(saved)}; {spent}" if saved else "it decided on no request yet"},
    ]  # fmt: skip


def _pinned(shown: Release) -> str:
    if PRUNED in shown.summary:
        return "its files were deleted, since it is old: it cannot go live"
    return "pinned: its files are kept for good" if shown.pinned else "not pinned: its files go when it is old"


def _data(dataset: Dataset | None) -> list[list[str]]:
    """How many rows there were, and how many were dropped for what."""
    if dataset is None:
        return []
    about = dataset.manifest
    rows = [["trained on", words.count(about.get("train"))], ["held out", words.count(about.get("held_out"))]]
    dropped: dict[str, int] = about.get("dropped") or {}
    return rows + [[f"dropped: {why.replace('_', ' ')}", words.count(n)] for why, n in sorted(dropped.items())]
