"""Claims jobs and runs them, one at a time; keeps the lease, obeys cancellation, and writes down how each ended."""

import asyncio
import os
import socket
from collections.abc import Coroutine
from dataclasses import replace
from functools import partial
from typing import Any, Final

import structlog
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from distill import ending
from distill.canary import CanaryWatch
from distill.child import TrainingFailed
from distill.dataset import DatasetError
from distill.drift_watch import DriftWatch
from distill.job import JobContext, JobFailed, run_job
from distill.job_options import as_asked
from distill.labels import Labelling
from distill.lease import hold
from distill.passes import Pass, run_due
from distill.recorder import Recorder
from distill.retention import prune_as_set
from distill.tracking import track
from distill.triggers import Triggers
from ledger import jobs
from ledger.jobs import Job, JobError
from serving.weights import WeightsError

__all__ = ("owner_name", "run_claimed", "run_worker")

POLL_S: Final = 1.0

log = structlog.get_logger(__name__)


def owner_name() -> str:
    """This process, as the holder of a lease."""
    return f"{socket.gethostname()[:60]}:{os.getpid()}"


async def run_worker(context: JobContext, stop: asyncio.Event) -> None:
    """Claim and run jobs until ``stop``, and the passes between; a job under way then is left for the next worker."""
    trial = CanaryWatch(context.store, context.distill.canary, context.router, context.distill.approval == "auto")
    # beside the jobs, which take hours: what is tried is to be taken back at once
    watching = asyncio.create_task(trial.watch())
    try:
        await _work_until(context, stop)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def _work_until(context: JobContext, stop: asyncio.Event) -> None:
    labelling = Labelling(context.store, context.router, context.student, context.teacher, context.embeddings)
    passes = [
        Pass("drift", DriftWatch(context.store, context.router, context.home / "cache" / "releases").run),
        Pass("labels", labelling.run),
        Pass("triggers", Triggers(context.store, context.distill.triggers).run),
        Pass("retention", partial(prune_as_set, context)),
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
    state = await _to_its_end(context, job)
    await track(context, job, state)
    return state


async def _to_its_end(context: JobContext, job: Job) -> str:
    recorder = Recorder(context.store, job.id, context.on_progress)
    context = replace(context, on_progress=recorder, flush=recorder.flush)
    work = asyncio.create_task(_work(context, job))
    lease = asyncio.create_task(hold(context, job))
    recording = asyncio.create_task(recorder.run())
    try:
        await asyncio.wait((work, lease), return_when=asyncio.FIRST_COMPLETED)
        if lease.done() and not work.done():
            recorder.close()
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            if lease.result() == "cancelled":
                await ending.cancel(context, job)
            return lease.result()
        return await work
    except (JobFailed, TrainingFailed, DatasetError, WeightsError) as error:
        await ending.fail(context, job, str(error))
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
        await ending.fail(context, job, f"{type(error).__name__}: {error}")
        return "failed"
    finally:
        recorder.close()
        for task in (work, lease, recording):
            task.cancel()
        await asyncio.gather(work, lease, recording, return_exceptions=True)


async def _work(context: JobContext, job: Job) -> str:
    """The job by the settings, as far as it does not say otherwise itself."""
    return await run_job(replace(context, distill=as_asked(context.distill, job.settings)), job)


async def _until(stop: asyncio.Event, work: Coroutine[Any, Any, Any]) -> None:
    task = asyncio.create_task(work)
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait((task, stopping), return_when=asyncio.FIRST_COMPLETED)
    for pending in (task, stopping):
        pending.cancel()
    outcome, _ = await asyncio.gather(task, stopping, return_exceptions=True)
    if isinstance(outcome, Exception):
        log.error("work_broke_off", error=f"{type(outcome).__name__}: {outcome}")
