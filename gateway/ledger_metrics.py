"""Metrics of what lies in the ledger. A slow pass reads them, so that a scrape never asks the store anything.

Each gateway process shows the same store: take the largest over processes, not the sum.
"""

import asyncio
from typing import Final

import structlog
from prometheus_client import CollectorRegistry
from sqlalchemy.exc import SQLAlchemyError

from gateway.budgets import Budgets
from gateway.live import Live
from gateway.metric_list import counter, gauge
from ledger.gauges import Counts, counts
from ledger.jobs import ACTIVE_STATES, FINAL_STATES, WAITING_STATES
from ledger.keys import Key
from ledger.records import nano
from ledger.store import Store, now_ms

__all__ = ("LedgerMetrics",)

READ_S: Final = 15.0
LATE_MS: Final = 5_000
"""A row may be committed so long after its time; the window of a reading ends so long before now."""
HEARTBEAT_MS: Final = 30_000
JOB_STATES: Final = (*ACTIVE_STATES, *WAITING_STATES, *FINAL_STATES)
REPLICA_STATES: Final = ("starting", "ready", "down", "draining")
DELIVERY_STATES: Final = ("pending", "retrying", "delivered", "failed")
SOURCES: Final = ("explore", "shadow", "escalated", "feedback")
EVENT_KINDS: Final = ("canary", "drift", "trigger")
OTHER: Final = "other"

log = structlog.get_logger(__name__)


class _Shown:
    """The metrics themselves, every label value there from the start."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.labels = counter(registry, "stillroom_labels", ("source",))
        self.agreed = counter(registry, "stillroom_labels_agreed", ("source",))
        self.events = counter(registry, "stillroom_events", ("kind",))
        self.jobs = gauge(registry, "stillroom_jobs", ("state",))
        self.replicas = gauge(registry, "stillroom_replicas", ("state",))
        self.deliveries = gauge(registry, "stillroom_webhook_deliveries", ("state",))
        self.over = gauge(registry, "stillroom_keys_over_budget")
        self.left = gauge(registry, "stillroom_budget_left_least_ratio")
        self.read_at = gauge(registry, "stillroom_ledger_read_timestamp_seconds")
        self.left.set(1)
        for source in (*SOURCES, OTHER):
            self.labels.labels(source)
            self.agreed.labels(source)
        for kind in (*EVENT_KINDS, OTHER):
            self.events.labels(kind)


class LedgerMetrics:
    """Reads the store and the budgets every `READ_S` seconds."""

    def __init__(self, store: Store, live: Live, budgets: Budgets, registry: CollectorRegistry) -> None:
        self._store, self._live, self._budgets = store, live, budgets
        self._shown = _Shown(registry)
        self._since = now_ms() - LATE_MS

    async def run(self) -> None:
        """Until cancelled. While the store is away the last figures stay, what came meanwhile is counted after."""
        while True:
            self._show_budgets(now_ms())
            now = now_ms()
            try:
                await self._read(now, now - LATE_MS)
            except (SQLAlchemyError, OSError) as error:
                log.warning("ledger_metrics_unread", error=str(error).splitlines()[0])
            await asyncio.sleep(READ_S)

    async def _read(self, now: int, until: int) -> None:
        found = await asyncio.to_thread(counts, self._store, self._since, until, now - HEARTBEAT_MS)
        self._since = max(self._since, until)
        self._show(found)
        self._shown.read_at.set(now / 1000)

    def _show(self, found: Counts) -> None:
        for shown, states, by in (
            (self._shown.jobs, JOB_STATES, found.jobs),
            (self._shown.replicas, REPLICA_STATES, found.replicas),
            (self._shown.deliveries, DELIVERY_STATES, found.deliveries),
        ):
            for state in states:
                shown.labels(state).set(by.get(state, 0))
            shown.labels(OTHER).set(sum(n for state, n in by.items() if state not in states))
        for source, (count, agreed) in found.labels.items():
            name = source if source in SOURCES else OTHER
            self._shown.labels.labels(name).inc(count)
            self._shown.agreed.labels(name).inc(agreed)
        for kind, count in found.events.items():
            self._shown.events.labels(kind if kind in EVENT_KINDS else OTHER).inc(count)

    def _show_budgets(self, now: int) -> None:
        # while a key is rotated both its secrets are in the snapshot
        keys = {key.id: key for key in self._live.snapshot.keys.values() if key.policy.has_budget}
        left = [self._left(key, now) for key in keys.values()]
        self._shown.over.set(sum(share <= 0 for share in left))
        self._shown.left.set(max(0.0, min(left, default=1.0)))

    def _left(self, key: Key, now: int) -> float:
        """The least share that is left of the key's budgets; a budget of nothing is used up."""
        used, budgets = self._budgets.used(key.id, now), (key.policy.budget_day, key.policy.budget_month)
        pairs = [(spent, nano(budget)) for spent, budget in zip(used, budgets, strict=True) if budget is not None]
        return min((1 - spent / budget if budget else 0.0 for spent, budget in pairs), default=1.0)
