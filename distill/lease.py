"""Keeps a job's lease while it is worked on, and says when the work has to stop."""

import asyncio
import time
from typing import Final

import structlog
from sqlalchemy.exc import SQLAlchemyError

from distill.context import JobContext
from ledger import jobs
from ledger.jobs import LEASE_MS, Job, JobError
from ledger.store import now_ms

__all__ = ("hold",)

HEARTBEAT_S: Final = 3.0
HELD_S: Final = 0.8 * LEASE_MS / 1000
"""After so long without a renewal the work stops: before the lease runs out, and another worker may begin."""

log = structlog.get_logger(__name__)


async def hold(context: JobContext, job: Job) -> str:
    """Renew the lease; return ``cancelled`` or ``lost`` when the job is to be stopped.

    It is lost when another worker has it, or when it could not be renewed for `HELD_S`, whether the store refuses,
    is away or does not answer.
    """
    renewed = time.monotonic() - max(0, now_ms() + LEASE_MS - (job.lease_until or 0)) / 1000
    while True:
        await asyncio.sleep(HEARTBEAT_S)
        asked = time.monotonic()
        try:
            beat = asyncio.to_thread(jobs.heartbeat, context.store, job.id, context.owner)
            current = await asyncio.wait_for(beat, max(0.0, renewed + HELD_S - asked))
        except JobError:
            return "lost"
        except TimeoutError:
            log.warning("lease_lost", job=job.id, error=f"it could not be renewed for {HELD_S:.0f} s")
            return "lost"
        except SQLAlchemyError as error:
            log.warning("heartbeat_failed", job=job.id, error=str(error).splitlines()[0])
            continue
        if current.cancel_requested:
            return "cancelled"
        renewed = asked
