"""Posts the outbox to the receivers of the settings: signed, again until it is taken, by one process at a time.

It runs beside the gateway's other background work, since every installation has a gateway, which can reach the
network and the ledger; a worker may be missing, or at a job for hours. Of several gateways the one with the lease
sends. A receiver has a loop of its own, so that a slow one holds up no other. What is not known to have been taken is
sent again under the same id: at least once, and in order as long as nothing fails.

Signatures and headers are those of Standard Webhooks 1.0 (github.com/standard-webhooks/standard-webhooks,
spec/standard-webhooks.md).
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import httpx
import structlog
from sqlalchemy.exc import SQLAlchemyError

from gateway.webhook_endpoints import Attempted, Endpoint, open_webhook_client, post
from ledger import leases, outbox
from ledger.budget_events import say_crossings
from ledger.outbox import Due
from ledger.spending import SpendReader
from ledger.store import Store, now_ms

__all__ = ("Patience", "WebhookSender")

LEASE: Final = "webhooks"
LEASE_S: Final = 60.0
ATTEMPT_S: Final = 20.0
"""No attempt begins so shortly before the lease runs out."""
BUDGETS_S: Final = 15.0
PRUNE_S: Final = 3_600.0
BATCH: Final = 50
GONE: Final = 410

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long is waited: between half and all of ``first_s * factor**n``, and never above ``most_s``."""

    first_s: float = 10.0
    factor: float = 4.0
    most_s: float = 43_200.0
    keep_trying_ms: int = outbox.KEEP_TRYING_MS
    poll_s: float = 1.0

    def next_at(self, attempted: Attempted, due: Due, now: int) -> int | None:
        """When (ms) to try again what failed; None where it is given up.

        A receiver's ``retry-after`` is kept to, and 410 is its word that it wants nothing more of this.
        """
        if attempted.status == GONE:
            return None
        # the exponent is bounded: a float is not
        pause = min(self.most_s, self.first_s * self.factor ** min(due.attempts, 30))
        pause *= random.uniform(0.5, 1.0)  # noqa: S311 it spreads load, and guards nothing
        at = now + round(1000 * max(pause, min(attempted.retry_after_s, self.most_s)))
        return at if at < due.created_at + self.keep_trying_ms else None


@dataclass
class WebhookSender:
    """Sends as long as it holds the lease. ``endpoints`` is not empty."""

    store: Store
    endpoints: Sequence[Endpoint]
    patience: Patience = Patience()
    owner: str = field(default_factory=leases.new_owner)
    _held_until: float = 0.0
    _said: set[str] = field(default_factory=set[str])

    async def run(self) -> None:
        """Until cancelled; the lease is given back then. A store that is away is asked again."""
        client = open_webhook_client()
        loops = [self._keep(), *(self._deliver(each, client) for each in self.endpoints)]
        try:
            await asyncio.gather(*loops)
        finally:
            await client.aclose()
            with contextlib.suppress(SQLAlchemyError, OSError):
                await asyncio.to_thread(leases.give_back, self.store, LEASE, self.owner)

    # what belongs to no receiver

    async def _keep(self) -> None:
        """The lease, new messages, budgets, and forgetting what is old."""
        reader, budgets_at, prune_at = SpendReader(self.store), 0.0, 0.0
        while True:
            with _store_may_be_away():
                if await self._renew():
                    if time.monotonic() >= budgets_at:
                        await asyncio.to_thread(say_crossings, self.store, reader, now_ms(), self._said)
                        budgets_at = time.monotonic() + BUDGETS_S
                    await asyncio.to_thread(outbox.take_up, self.store, self._wanted_by, now_ms())
                    if time.monotonic() >= prune_at:
                        names = [each.name for each in self.endpoints]
                        await asyncio.to_thread(outbox.prune, self.store, names, now_ms())
                        prune_at = time.monotonic() + PRUNE_S
            await asyncio.sleep(self.patience.poll_s)

    async def _renew(self) -> bool:
        asked = time.monotonic()
        if asked < self._held_until - LEASE_S / 2:
            return True
        take = partial(leases.take, self.store, LEASE, self.owner, round(LEASE_S * 1000))
        if await asyncio.to_thread(take):
            self._held_until = asked + LEASE_S
        return asked < self._held_until

    def _wanted_by(self, kind: str) -> list[str]:
        return [each.name for each in self.endpoints if each.wants(kind)]

    # one receiver

    async def _deliver(self, endpoint: Endpoint, client: httpx.AsyncClient) -> None:
        while True:
            with _store_may_be_away():
                if self._may_send():
                    await self._deliver_due(endpoint, client)
            await asyncio.sleep(self.patience.poll_s)

    async def _deliver_due(self, endpoint: Endpoint, client: httpx.AsyncClient) -> None:
        for each in await asyncio.to_thread(outbox.due, self.store, endpoint.name, now_ms(), BATCH):
            if not self._may_send():
                return
            attempted = await post(client, endpoint, each.message)
            await asyncio.to_thread(self._mark, endpoint, each, attempted)

    def _may_send(self) -> bool:
        return time.monotonic() + ATTEMPT_S < self._held_until

    def _mark(self, endpoint: Endpoint, due: Due, attempted: Attempted) -> None:
        error, again = attempted.error, None
        if error is not None:
            again = self.patience.next_at(attempted, due, now_ms())
            say = log.warning if again is None else log.info
            say(
                "webhook_failed", webhook=endpoint.name, message=due.message.id, kind=due.message.kind, error=error,
                attempts=due.attempts + 1, given_up=again is None,
            )  # fmt: skip
        outbox.mark(self.store, due.id, attempted.status, error, again)


@contextlib.contextmanager
def _store_may_be_away() -> Generator[None]:
    try:
        yield
    except (SQLAlchemyError, OSError) as error:
        log.warning("webhooks_wait", error=str(error).splitlines()[0])
