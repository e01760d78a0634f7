"""Claims jobs and runs them, one at a time; keeps the lease, obeys cancellation, and writes down how each ended."""

import asyncio
import os
import socket
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, Final

import structlog
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from distill.child import TrainingFailed
from distill.dataset import DatasetError
from distill.drift_watch import DriftWatch
from distill.job import JobContext, JobFailed, drop_scratch, run_job
from distill.labels import Labelling
from distill.passes import Pass, run_due
from ledger import jobs, releases
from ledger.jobs import Job, JobError
from ledger.store import Store
from serving.weights import WeightsError

__all__ = ("owner_name", "run_claimed", "run_worker")

POLL_S: Final = 1.0
HEARTBEAT_S: Final = 3.0

log = structlog.get_logger(__name__)


def owner_name() -> str:
    """This process, as the holder of a lease."""
    return f"{socket.gethostname()[:60]}:{os.getpid()}"


async def run_worker(context: JobContext, stop: asyncio.Event) -> None:
    """Claim and run jobs until ``stop``, and the passes between; a job under way then is left for the next worker."""
    labelling = Labelling(context.store, context.router, context.student, context.teacher, context.embeddings)
    passes = [
        Pass("drift", DriftWatch(context.store, context.router).run),
        Pass("labels", labelling.run),
    ]
    while not stop.is_set():
        try:
            job = await asyncio.to_thread(jobs.claim, context.store, context.owner)
        except SQLAlchemyError as error:
            log.warning("worker_store_unreachable", error=str(error).splitlines()[0])
            job = None
        if job is not None:
            await _until(stop, run_claimed(context, job))
        await _until(stop, run_due(passes))
        try:
            await asyncio.wait_for(stop.wait(), POLL_S)
        except TimeoutError:
            continue


async def run_claimed(context: JobContext, job: Job) -> str:
    """Run a job that was claimed for ``context.owner`` and record how it ended. Returns its state."""
    context = replace(context, on_progress=_recorded(context.store, job, context.on_progress))
    work = asyncio.create_task(run_job(context, job))
    watch = asyncio.create_task(_watch(context, job))
    try:
        await asyncio.wait((work, watch), return_when=asyncio.FIRST_COMPLETED)
        if watch.done() and not work.done():
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            return await _ended_early(context, job, watch)
        return await work
    except (JobFailed, TrainingFailed, DatasetError, WeightsError) as error:
        await _fail(context, job, str(error))
        return "failed"
    except JobError:
        return "lost"
    except OperationalError as error:
        # the store is away, not the job at fault: it is claimed again when its lease has run out
        log.warning("job_interrupted", job=job.id, error=str(error).splitlines()[0])
        return "lost"
    except Exception as error:
        # the outermost seam: a job that ends in no state would be claimed and tried again for ever
        log.exception("job_fault", job=job.id)
        await _fail(context, job, f"{type(error).__name__}: {error}")
        return "failed"
    finally:
        for task in (work, watch):
            task.cancel()
        await asyncio.gather(work, watch, return_exceptions=True)


async def _watch(context: JobContext, job: Job) -> str:
    """Renew the lease; return ``cancelled`` or ``lost`` when the job is to be stopped."""
    while True:
        await asyncio.sleep(HEARTBEAT_S)
        try:
            current = await asyncio.to_thread(jobs.heartbeat, context.store, job.id, context.owner)
        except JobError:
            return "lost"
        except SQLAlchemyError as error:
            # the lease outlives a few missed renewals; another worker takes over only when it has run out
            log.warning("heartbeat_failed", job=job.id, error=str(error).splitlines()[0])
            continue
        if current.cancel_requested:
            return "cancelled"


async def _ended_early(context: JobContext, job: Job, watch: "asyncio.Task[str]") -> str:
    outcome = await watch
    if outcome == "cancelled":
        await _drop_candidate(context, job, "cancelled")
        await context.enter(job, "cancelled")
        await asyncio.to_thread(drop_scratch, context.folder(job))
    return outcome


async def _fail(context: JobContext, job: Job, why: str) -> None:
    log.error("job_failed", job=job.id, error=why)
    await _drop_candidate(context, job, why)
    await context.enter(job, "failed", error=why)
    await asyncio.to_thread(drop_scratch, context.folder(job))


async def _drop_candidate(context: JobContext, job: Job, why: str) -> None:
    for release in await asyncio.to_thread(releases.served, context.store):
        if release.job_id == job.id and release.state == "candidate":
            await asyncio.to_thread(releases.reject, context.store, release.id, job.id, why)


def _recorded(
    store: Store, job: Job, on_progress: Callable[[str, dict[str, Any]], None]
) -> Callable[[str, dict[str, Any]], None]:
    """Progress goes to whoever watches here, and into the job's events (states are written there already)."""

    def both(kind: str, data: dict[str, Any]) -> None:
        on_progress(kind, data)
        if kind != "state":
            jobs.add_event(store, job.id, kind, data)

    return both


async def _until(stop: asyncio.Event, work: Coroutine[Any, Any, Any]) -> None:
    task = asyncio.create_task(work)
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait((task, stopping), return_when=asyncio.FIRST_COMPLETED)
    for pending in (task, stopping):
        pending.cancel()
    outcome, _ = await asyncio.gather(task, stopping, return_exceptions=True)
    if isinstance(outcome, Exception):
        log.error("work_broke_off", error=f"{type(outcome).__name__}: {outcome}")
