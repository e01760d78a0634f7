"""The step after a job's gate: the release goes live, or is tried first."""

import asyncio

from distill.context import JobContext
from ledger import canaries, releases
from ledger.canaries import CanaryOpen
from ledger.jobs import Job

__all__ = ("go_live",)


async def go_live(context: JobContext, job: Job, release_id: str) -> str:
    """Try a release that passed its gate beside the champion, or make it live where the settings try none or there is
    no champion. While another one is tried, the job waits; the canary's watch takes it up.

    Returns the job's state. Raises `JobError` when another worker holds the job.
    """
    trial, store, actor = context.distill.canary.trial, context.store, f"gate:{job.id}"
    if trial is None or await asyncio.to_thread(releases.live, store) is None:
        await asyncio.to_thread(releases.promote, store, release_id, actor)
        await context.enter(job, "live")
        return "live"
    try:
        await asyncio.to_thread(canaries.start, store, release_id, trial, actor, context.owner)
    except CanaryOpen as error:
        context.on_progress("waiting", {"text": str(error)})
        await context.enter(job, "awaiting_approval")
        return "awaiting_approval"
    context.on_progress("state", {"state": "canary"})
    return "canary"
