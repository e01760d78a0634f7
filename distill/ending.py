"""How a job ends that does not end well: nothing half done stays behind, and the row says why."""

import asyncio
import contextlib
import shutil
from pathlib import Path

import msgspec
import structlog

from distill import disk
from distill.context import JobContext
from distill.job import drop_scratch
from ledger import releases
from ledger.jobs import Job

__all__ = ("cancel", "fail")

log = structlog.get_logger(__name__)


class _Output(msgspec.Struct):
    """The part of ``train.json`` that says where the student is written to."""

    output: str


async def fail(context: JobContext, job: Job, why: str) -> None:
    """End the job as failed."""
    why = disk.cause(why, context.home)
    log.error("job_failed", job=job.id, error=why)
    await _clear(context, job, why)
    await context.enter(job, "failed", error=why)


async def cancel(context: JobContext, job: Job) -> None:
    """End the job as cancelled."""
    await _clear(context, job, "cancelled")
    await context.enter(job, "cancelled")


async def _clear(context: JobContext, job: Job, why: str) -> None:
    # the files first: a ledger on the same full disk needs their room
    await asyncio.to_thread(drop_scratch, context.folder(job))
    await asyncio.to_thread(_drop_half_release, context.folder(job))
    for release in await asyncio.to_thread(releases.served, context.store):
        if release.job_id == job.id and release.state == "candidate":
            await asyncio.to_thread(releases.reject, context.store, release.id, job.id, why)


def _drop_half_release(folder: Path) -> None:
    """The manifest is the last that is written into a release's folder: without it, it is half a release."""
    with contextlib.suppress(FileNotFoundError):
        release = Path(msgspec.json.decode((folder / "train.json").read_bytes(), type=_Output).output).parent
        if not (release / "manifest.json").exists():
            shutil.rmtree(release, ignore_errors=True)
