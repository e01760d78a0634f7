"""A job's progress on its way into the store: at once for who watches here, in the background for the rest."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any, Final

import structlog
from sqlalchemy.exc import SQLAlchemyError

from ledger import jobs
from ledger.jobs import JobError
from ledger.store import Store, now_ms

__all__ = ("Recorder",)

WRITE_S: Final = 0.5
MOST: Final = 5_000
"""Events that wait for a store that is away; then the oldest are given up."""

log = structlog.get_logger(__name__)

Event = tuple[int, str, dict[str, Any]]


class Recorder:
    """Takes events from any thread without waiting: a store that hangs must not keep a worker from its lease.

    Once closed it refuses them, which ends a thread that still works for a job that has ended: no task's cancellation
    does.
    """

    def __init__(self, store: Store, job_id: str, watcher: Callable[[str, dict[str, Any]], None]) -> None:
        self._store, self._job_id, self._watcher = store, job_id, watcher
        self._waiting: list[Event] = []
        self._changing = threading.Lock()
        self._writing = asyncio.Lock()
        self._closed = self._is_away = False

    def __call__(self, kind: str, data: dict[str, Any]) -> None:
        """Something happened. States are written where they change. Raises `JobError` when closed."""
        if kind != "state":
            if self._closed:
                raise JobError(f"job {self._job_id} is no longer worked on")
            with self._changing:
                self._waiting.append((now_ms(), kind, data))
        self._watcher(kind, data)

    def close(self) -> None:
        """Take no more."""
        self._closed = True

    async def run(self) -> None:
        """Write what comes, until cancelled."""
        while True:
            await asyncio.sleep(WRITE_S)
            await self.flush()

    async def flush(self) -> None:
        """Write what waits; a store that is away keeps it waiting."""
        async with self._writing:
            await asyncio.to_thread(self._write)

    def _write(self) -> None:
        with self._changing:
            taken, self._waiting = self._waiting, []
        if not taken:
            return
        try:
            jobs.add_events(self._store, self._job_id, taken)
        except SQLAlchemyError as error:
            if not self._is_away:
                log.warning("progress_not_written", job=self._job_id, error=str(error).splitlines()[0])
            self._is_away = True
            with self._changing:
                self._waiting = [*taken, *self._waiting][-MOST:]
        else:
            self._is_away = False
