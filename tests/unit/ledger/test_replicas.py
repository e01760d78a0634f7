"""Replicas: the last report counts, and one whose keeper is silent is not counted on."""

import sqlalchemy as sa

from ledger import replicas, schema
from ledger.replicas import LOST_MS, STALE_MS, Replica
from ledger.store import now_ms


def test_a_report_replaces_the_one_before_and_its_time_is_the_ledgers(store):
    replicas.report(store, Replica("host:r1", "r1", "http://127.0.0.1:9001/v1", "starting", 0))
    replicas.report(store, Replica("host:r1", "r1", "http://127.0.0.1:9001/v1", "ready", 0, "warm"))
    (found,) = replicas.list_replicas(store)
    assert (found.state, found.detail) == ("ready", "warm")
    assert now_ms() - 5_000 < found.heartbeat_at <= now_ms()


def test_a_replica_whose_keeper_is_silent_is_dropped_from_the_list_until_it_reports(store):
    silent = Replica("a", "r1", "http://a", "ready", 0)
    replicas.report(store, silent)
    replicas.report(store, Replica("b", "r1", "http://b", "ready", 0))
    with store.write() as connection:
        connection.execute(
            sa.update(schema.replicas).where(schema.replicas.c.id == "a").values(heartbeat_at=now_ms() - STALE_MS - 1)
        )
    assert [found.id for found in replicas.list_replicas(store)] == ["b"]
    replicas.report(store, silent)
    assert {found.id for found in replicas.list_replicas(store)} == {"a", "b"}


def test_a_removed_replica_is_gone_and_removing_it_twice_is_no_error(store):
    replicas.report(store, Replica("a", "r1", "http://a", "ready", 0))
    replicas.remove(store, "a")
    replicas.remove(store, "a")
    assert replicas.list_replicas(store) == []


def test_rows_of_a_machine_that_went_long_ago_are_forgotten_and_those_of_a_slow_one_are_not(store):
    for name, age in (("lost", LOST_MS + 1_000), ("slow", STALE_MS + 1_000), ("here", 0)):
        replicas.report(store, Replica(name, "r1", "http://a", "ready", 0))
        with store.write() as connection:
            row = sa.update(schema.replicas).where(schema.replicas.c.id == name)
            connection.execute(row.values(heartbeat_at=now_ms() - age))
    replicas.forget_lost(store)
    assert {found.id for found in replicas.list_replicas(store, stale_ms=2 * LOST_MS)} == {"slow", "here"}
