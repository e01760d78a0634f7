"""What a worker brings to a job."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.settings import DistillSettings
from distill.upstreams import Upstream
from ledger import jobs
from ledger.jobs import Job
from ledger.prices import Price
from ledger.store import Store
from router.settings import RouterSettings
from serving.settings import StudentSettings

__all__ = ("JobContext", "JobFailed", "Progress")

Progress = Callable[[str, dict[str, Any]], None]


class JobFailed(Exception):
    """The job cannot go on; the message is its cause."""


@dataclass(frozen=True)
class JobContext:
    """What a worker brings to a job."""

    store: Store
    home: Path
    distill: DistillSettings
    student: StudentSettings
    router: RouterSettings
    teacher_price: Price
    owner: str
    on_progress: Progress
    teacher: Upstream | None = None
    """Who judges answers, where the settings name a judge."""
    embeddings: Upstream | None = None
    terms_allow_training: bool = True
    """Whether the teacher's answers may be trained on, as the settings say."""
    flush: Callable[[], Awaitable[None]] | None = None
    """Writes down what happened so far, so that it stands before the next state."""

    def folder(self, job: Job) -> Path:
        """The job's working folder."""
        return self.home / "jobs" / job.id

    async def enter(self, job: Job, state: str, **values: Any) -> None:
        """Move the job on. Raises `JobError` when another worker holds it."""
        if self.flush is not None:
            await self.flush()
        await asyncio.to_thread(lambda: jobs.set_state(self.store, job.id, self.owner, state, **values))
        self.on_progress("state", {"state": state})
