"""Runs open batches in whichever gateway process takes the lease of each, and forgets files whose time is over."""

import asyncio
import contextlib
import math
import time
from dataclasses import dataclass, field
from typing import Final

import structlog
from litestar import Litestar
from litestar.handlers import HTTPRouteHandler
from sqlalchemy.exc import SQLAlchemyError

from gateway.batches.folder import Folder
from gateway.batches.line import ENDPOINTS
from gateway.batches.room import Room
from gateway.batches.work import BatchWork
from ledger import batches, files, leases
from ledger.batches import Batch
from ledger.store import Store, now_ms

__all__ = ("BatchRunner",)

POLL_S: Final = 0.5
LEASE_S: Final = 15.0
SWEEP_S: Final = 600.0
AT_ONCE: Final = 8
"""Batches under way in a process."""
SWEPT: Final = 500
AWAY: Final = (SQLAlchemyError, OSError)

log = structlog.get_logger(__name__)


@dataclass
class BatchRunner:
    """The batches of this process."""

    app: Litestar
    store: Store
    folder: Folder
    room: Room
    owner: str = field(default_factory=leases.new_owner)
    _running: dict[str, asyncio.Task[None]] = field(default_factory=dict[str, asyncio.Task[None]])
    _works: dict[str, BatchWork] = field(default_factory=dict[str, BatchWork])
    _draining_since: float | None = None

    async def run(self) -> None:
        """Until cancelled, after `finish`. A store that is away is asked again."""
        # at its start too: gateways may be started more often than they sweep
        swept = -math.inf
        while True:
            try:
                if not self._drains():
                    await self._take_up()
                if time.monotonic() - swept > SWEEP_S:
                    swept = time.monotonic()
                    await asyncio.to_thread(self._sweep)
            except AWAY as error:
                log.warning("batches_wait", error=str(error).partition("\n")[0])
            await asyncio.sleep(POLL_S)

    async def finish(self) -> None:
        """Begin no more lines, let those that are asked end within what is left of the time to drain, then leave."""
        self._draining_since = self._draining_since or time.monotonic()
        for work in self._works.values():
            work.left = True
        tasks = list(self._running.values())
        if tasks:
            left = self._draining_since + self.room.admission.settings.drain_seconds - time.monotonic()
            await asyncio.wait(tasks, timeout=max(0.0, left))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _drains(self) -> bool:
        if self.app.state.draining and self._draining_since is None:
            self._draining_since = time.monotonic()
            for work in self._works.values():
                work.left = True
        return self._draining_since is not None

    async def _take_up(self) -> None:
        handlers = _handlers(self.app)
        for batch in await asyncio.to_thread(batches.open_batches, self.store, AT_ONCE * 4):
            if batch.id in self._running or len(self._running) >= AT_ONCE:
                continue
            if not self.folder.of(batch.input_file_id).exists():
                await asyncio.to_thread(self._give_up, batch)
            elif await asyncio.to_thread(self._lease, batch):
                work = BatchWork(
                    self.app, self.store, self.folder, self.room, handlers[batch.endpoint], batch,
                    self.room.admission.settings.batches.max_lines,
                )  # fmt: skip
                self._works[batch.id] = work
                self._running[batch.id] = asyncio.create_task(self._run(work))

    async def _run(self, work: BatchWork) -> None:
        batch_id = work.batch.id
        watching = asyncio.create_task(self._watch(work))
        try:
            # as it is now: another process may have gone on with it until its lease was free
            current = await asyncio.to_thread(batches.get, self.store, batch_id)
            if current is not None and current.status in batches.OPEN:
                work.batch, work.completed, work.failed = current, current.completed, current.failed
                self._look(work, current)
                await work.run()
        except AWAY as error:
            self.room.complain(batch_id, error)
        finally:
            watching.cancel()
            del self._running[batch_id], self._works[batch_id]
            with contextlib.suppress(*AWAY):
                await asyncio.to_thread(leases.give_back, self.store, _name(batch_id), self.owner)

    async def _watch(self, work: BatchWork) -> None:
        """Keep the lease, tell how far it is, and hear of its cancellation, until cancelled."""
        batch_id, held_until = work.batch.id, time.monotonic() + LEASE_S
        while not work.left:
            await asyncio.sleep(POLL_S)
            asked = time.monotonic()
            try:
                if held_until - asked < LEASE_S / 2:
                    if not await asyncio.to_thread(self._lease, work.batch):
                        work.left = True
                        return
                    held_until = asked + LEASE_S
                current = await asyncio.to_thread(self._tell, work)
            except AWAY as error:
                self.room.complain(batch_id, error)
                work.left = work.left or time.monotonic() > held_until
                continue
            if current is not None:
                self._look(work, current)

    def _tell(self, work: BatchWork) -> Batch | None:
        current, counts = batches.get(self.store, work.batch.id), {"completed": work.completed, "failed": work.failed}
        if current is not None and (current.completed, current.failed) != tuple(counts.values()):
            batches.change(self.store, work.batch.id, ("in_progress", "cancelling"), **counts)
        return current

    def _look(self, work: BatchWork, current: Batch) -> None:
        if current.cancelling_at is not None:
            work.batch = current
            work.ends_as = "cancelled"
        elif now_ms() > current.expires_at:
            work.ends_as = "expired"

    def _lease(self, batch: Batch) -> bool:
        return leases.take(self.store, _name(batch.id), self.owner, round(LEASE_S * 1000))

    def _give_up(self, batch: Batch) -> None:
        """A batch whose file no gateway has is not left open for ever."""
        now = now_ms()
        if now > batch.expires_at or batch.cancelling_at is not None:
            ended = "cancelled" if batch.cancelling_at is not None else "expired"
            batches.change(self.store, batch.id, batches.OPEN, status=ended, **{f"{ended}_at": now})

    def _sweep(self) -> None:
        for file_id in files.expired(self.store, now_ms(), SWEPT):
            if not batches.holds(self.store, file_id):
                # the bytes first: of a sweep that is cut off in between the next one finds the row
                self.folder.remove(file_id)
                files.delete(self.store, file_id)


def _handlers(app: Litestar) -> dict[str, HTTPRouteHandler]:
    return {
        path: handler
        for route in app.routes
        for handler in getattr(route, "route_handlers", ())
        if isinstance(handler, HTTPRouteHandler) and handler.opt.get("short_way")
        for path in handler.paths
        if path in ENDPOINTS
    }


def _name(batch_id: str) -> str:
    return batch_id[:64]
