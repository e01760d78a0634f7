"""Keeping responses: at hand at once, in the store a moment later.

No answer waits for the store. What is not saved yet is held in memory, bounded in bytes: while the store is away the
oldest are let go, and counted.
"""

import asyncio
from collections import OrderedDict
from typing import Any, Final

import structlog
from sqlalchemy.exc import SQLAlchemyError

from gateway.errors import Unavailable
from gateway.metric_list import counter
from gateway.metrics import Metrics
from ledger import responses
from ledger.responses import StoredResponse
from ledger.store import Store

__all__ = ("ResponseKeeper",)

MAX_UNSAVED_BYTES: Final = 64 * 1024 * 1024
BATCH: Final = 64
ANOTHER_PROCESS_S: Final = 0.25
"""How long a response that another gateway process has just answered may take to be in the store."""
FIRST_PAUSE_S: Final = 0.1
MAX_PAUSE_S: Final = 5.0
AWAY: Final = "Responses cannot be looked up now: the ledger is not reached."

log = structlog.get_logger(__name__)


class ResponseKeeper:
    """The responses of this process that are not in the store yet, and the way to all others."""

    def __init__(self, store: Store, metrics: Metrics) -> None:
        self._store = store
        self._unsaved: OrderedDict[str, StoredResponse] = OrderedDict()
        self._unsaved_bytes = 0
        self._some = asyncio.Event()
        self._writing = asyncio.Lock()
        self._lost = counter(metrics.registry, "stillroom_responses_lost")
        self._failures = counter(metrics.registry, "stillroom_response_save_failures")

    def keep(self, response: StoredResponse) -> None:
        """Hold a response, and have it saved. Never waits, never fails."""
        self._unsaved[response.id] = response
        self._unsaved_bytes += len(response.body)
        while self._unsaved_bytes > MAX_UNSAVED_BYTES:
            self._forget(next(iter(self._unsaved)))
            self._lost.inc()
        self._some.set()

    async def get(self, response_id: str) -> StoredResponse | None:
        """A response by its id, whoever's it is. Raises `Unavailable` while the store is away."""
        for pause in (0.0, ANOTHER_PROCESS_S):
            await asyncio.sleep(pause)
            held = self._unsaved.get(response_id)
            found = held or await self._ask(responses.get, response_id)
            if found is not None:
                return found
        return None

    async def delete(self, response_id: str) -> None:
        """Delete a response from wherever it is. Raises `Unavailable` while the store is away."""
        self._forget(response_id)
        # one that is being written now is deleted after that
        async with self._writing:
            await self._ask(responses.delete, response_id)

    async def run(self) -> None:
        """Save what is held, until cancelled. A store that is away is asked again later."""
        pause = FIRST_PAUSE_S
        while True:
            await self._some.wait()
            if await self._save():
                pause = FIRST_PAUSE_S
            else:
                await asyncio.sleep(pause)
                pause = min(MAX_PAUSE_S, pause * 2)

    async def finish(self) -> None:
        """Save what is still held, at shutdown."""
        while self._unsaved and await self._save():
            pass
        self._lost.inc(len(self._unsaved))

    async def _save(self) -> bool:
        async with self._writing:
            batch = list(self._unsaved.values())[:BATCH]
            if batch:
                try:
                    await asyncio.to_thread(responses.save, self._store, batch)
                except (SQLAlchemyError, OSError) as error:
                    self._failures.inc()
                    log.warning("responses_not_saved", waiting=len(self._unsaved), error=_first_line(error))
                    return False
            for response in batch:
                self._forget(response.id)
            if not self._unsaved:
                self._some.clear()
        return True

    def _forget(self, response_id: str) -> None:
        response = self._unsaved.pop(response_id, None)
        if response is not None:
            self._unsaved_bytes -= len(response.body)

    async def _ask(self, question: Any, response_id: str) -> Any:
        try:
            return await asyncio.to_thread(question, self._store, response_id)
        except (SQLAlchemyError, OSError) as error:
            log.warning("responses_unreachable", error=_first_line(error))
            raise Unavailable(AWAY, headers={"retry-after": "1"}) from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
