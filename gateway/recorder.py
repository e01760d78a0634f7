"""Hands finished requests to the ledger: the spool at once, the store in the background."""

import asyncio
import contextlib
from collections.abc import Callable

import structlog
from sqlalchemy.exc import SQLAlchemyError

from gateway.metrics import Metrics
from ledger.ingest import Ingester
from ledger.records import RequestRecord, encode_record
from ledger.spool import SpoolWriter

__all__ = ("Recorder",)

SYNC_S = 0.2
MAX_BACKOFF_S = 10.0

log = structlog.get_logger(__name__)


def _encoded(record: RequestRecord) -> bytes:
    try:
        return encode_record(record)
    except OverflowError:
        # JSON holds integers of any size, the spool's format those of 64 bits: the row matters more than the content
        record.content = None
        return encode_record(record)


class Recorder:
    """Spool, ingestion and metrics of this process."""

    def __init__(
        self,
        spool: SpoolWriter,
        ingester: Ingester,
        metrics: Metrics,
        settle: Callable[[RequestRecord], None] | None = None,
    ) -> None:
        self._spool = spool
        self._ingester = ingester
        self._metrics = metrics
        self._settle = settle
        self.recorded = 0
        """Requests since the process began."""
        self.backlog_bytes = 0
        """Of the spool, that the store has not taken."""

    @property
    def refused(self) -> int:
        """Records that the spool's disk refused since the process began."""
        return self._spool.failures

    def record(self, record: RequestRecord) -> None:
        """Append to the spool before the answer's last byte goes out; a refusing disk never fails the request."""
        if not self._spool.append(_encoded(record)):
            self._metrics.spool_failures.set(self._spool.failures)
        self.recorded += 1
        self._metrics.observe(record)
        if self._settle is not None:
            self._settle(record)

    async def run(self) -> None:
        """Sync the spool and move it into the store, until cancelled. A store that is away is asked again later."""
        pause = SYNC_S
        while True:
            await asyncio.sleep(pause)
            pause = SYNC_S if await self._move() else min(MAX_BACKOFF_S, pause * 2)

    async def finish(self) -> None:
        """The last move at shutdown. What the store does not take stays in the spool for the next process."""
        await asyncio.to_thread(self._spool.close)
        await self._move()

    async def _move(self) -> bool:
        try:
            await asyncio.to_thread(self._spool.sync)
            await asyncio.to_thread(self._ingester.run_once)
        except (SQLAlchemyError, OSError) as error:
            log.warning("ledger_move_failed", error=str(error).splitlines()[0])
            reached = False
        else:
            reached = True
        self._metrics.store_reachable.set(reached)
        with contextlib.suppress(OSError):
            self.backlog_bytes = await asyncio.to_thread(self._ingester.backlog_bytes)
        self._metrics.spool_bytes.set(self.backlog_bytes)
        return reached
