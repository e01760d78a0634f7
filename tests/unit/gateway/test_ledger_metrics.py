"""What the slow pass shows of the ledger."""

import asyncio
from pathlib import Path

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from gateway.budgets import Budgets
from gateway.elsewhere import Elsewhere
from gateway.ledger_metrics import LedgerMetrics
from gateway.live import Live, Snapshot
from ledger import events, jobs, keys, labels, outbox
from ledger.spending import SpendReader
from ledger.store import now_ms, open_store, sqlite_url
from serving.settings import StudentSettings


def made(home: Path) -> tuple[LedgerMetrics, CollectorRegistry, Live]:
    store = open_store(sqlite_url(home))
    budgets, registry = Budgets(SpendReader(store)), CollectorRegistry()
    live = Live(store, Elsewhere(StudentSettings()), budgets, home / "cache")
    return LedgerMetrics(store, live, budgets, registry), registry, live


def read(metrics: LedgerMetrics) -> None:
    now = now_ms()
    asyncio.run(metrics._read(now, now + 1))


def label(request_id: str, source: str, agreement: float) -> labels.Label:
    return labels.Label(
        request_id=request_id, source=source, created_at=now_ms(), release_id=None, comparator="exact",
        agreement=agreement, propensity=1.0,
    )  # fmt: skip


def test_each_label_and_event_is_counted_once_however_often_it_is_read(tmp_path: Path):
    metrics, registry, _ = made(tmp_path)
    labels.add(metrics._store, [label("a", "explore", 1.0), label("b", "explore", 0.5), label("c", "new", 1.0)])
    events.add(metrics._store, "drift", "rel-1", {})
    events.add(metrics._store, "a kind nobody knew", "rel-1", {})
    for _ in range(3):
        read(metrics)
    assert registry.get_sample_value("stillroom_labels_total", {"source": "explore"}) == 2
    assert registry.get_sample_value("stillroom_labels_agreed_total", {"source": "explore"}) == 1.5
    assert registry.get_sample_value("stillroom_labels_total", {"source": "other"}) == 1
    assert registry.get_sample_value("stillroom_events_total", {"kind": "drift"}) == 1
    assert registry.get_sample_value("stillroom_events_total", {"kind": "other"}) == 1


def test_jobs_are_shown_by_state_the_empty_states_too(tmp_path: Path):
    metrics, registry, _ = made(tmp_path)
    jobs.create(metrics._store, "api", "test", {})
    read(metrics)
    assert registry.get_sample_value("stillroom_jobs", {"state": "queued"}) == 1
    assert registry.get_sample_value("stillroom_jobs", {"state": "failed"}) == 0


def test_deliveries_that_failed_and_are_tried_again_are_told_from_new_ones_and_lost_ones(tmp_path: Path):
    metrics, registry, _ = made(tmp_path)
    with metrics._store.write() as connection:
        outbox.put(connection, "job.failed", "job_1", {})
    outbox.take_up(metrics._store, lambda _: ["one", "two", "three", "four"], now_ms())
    ids = [outbox.due(metrics._store, name, now_ms(), 1)[0].id for name in ("two", "three", "four")]
    outbox.mark(metrics._store, ids[0], 500, "refused", now_ms() + 60_000)
    outbox.mark(metrics._store, ids[1], 410, "gone")
    outbox.mark(metrics._store, ids[2], 200, None)
    read(metrics)
    shown = {
        state: registry.get_sample_value("stillroom_webhook_deliveries", {"state": state})
        for state in ("pending", "retrying", "delivered", "failed", "other")
    }
    assert shown == {"pending": 1, "retrying": 1, "delivered": 1, "failed": 1, "other": 0}


def test_a_used_up_budget_is_shown_without_its_key_and_once_while_the_key_is_rotated(tmp_path: Path):
    metrics, registry, live = made(tmp_path)
    key, _ = keys.create(metrics._store, "app", ["inference"], "test")
    policy = msgspec.structs.replace(key.policy, budget_day=0.5)
    bound = keys.Key(key.id, "app", key.last4, key.scopes, key.created_at, None, None, policy)
    live.snapshot = Snapshot(None, {"old": bound, "new": bound})
    metrics._show_budgets(now_ms())
    assert registry.get_sample_value("stillroom_budget_left_least_ratio") == 1
    metrics._budgets.reserve(key.id, 400_000_000)
    metrics._show_budgets(now_ms())
    assert registry.get_sample_value("stillroom_budget_left_least_ratio") == pytest.approx(0.2)
    metrics._budgets.reserve(key.id, 200_000_000)
    metrics._show_budgets(now_ms())
    assert registry.get_sample_value("stillroom_keys_over_budget") == 1
