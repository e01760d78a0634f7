"""What the triggers of jobs ask of the ledger."""

from typing import Any, Final

import sqlalchemy as sa

from ledger import outbox, schema
from ledger.jobs import ACTIVE_STATES, WAITING_STATES, Job
from ledger.records import NANO
from ledger.requests import usage_by
from ledger.store import Store, now_ms

__all__ = ("drifts_since", "last_dataset_at", "new_answers", "note_once", "paid_since", "routed_hourly",
           "trained_seconds", "unfinished")  # fmt: skip

KIND: Final = "trigger"
ESCALATED: Final = ("hard", "low_confidence")
ROUTED: Final = ("confident", *ESCALATED)
"""Reasons of the requests whose route was the router's choice; those that a budget moved say nothing of it."""


def unfinished(store: Store) -> Job | None:
    """The oldest job that runs, or waits for its turn or for a decision."""
    table = schema.jobs
    statement = sa.select(table).where(table.c.state.in_(ACTIVE_STATES + WAITING_STATES)).order_by(table.c.created_at)
    with store.read() as connection:
        row = connection.execute(statement.limit(1)).first()
    return Job(*row) if row else None


def last_dataset_at(store: Store) -> int:
    """When a job last had built its dataset (ms), 0 before the first."""
    table = schema.job_events
    with store.read() as connection:
        return connection.execute(sa.select(sa.func.max(table.c.at)).where(table.c.kind == "dataset")).scalar() or 0


def new_answers(store: Store, since: int, most: int) -> int:
    """Whole answers of the teacher from after a time (ms) that may be trained on, counted up to ``most``."""
    table, contents = schema.requests, schema.contents
    some = (
        sa.select(table.c.id)
        .join(contents, contents.c.request_id == table.c.id)
        .where(
            table.c.route == "teacher",
            table.c.created_at > since,
            table.c.trainable,
            table.c.status < 400,
            table.c.finish_reason == "stop",
        )
        .limit(most)
        .subquery()
    )
    with store.read() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(some)).scalar_one()


def drifts_since(store: Store, release_id: str, since: int) -> list[str]:
    """The kinds of drift that were noticed of a release after a time (ms), oldest first."""
    table = schema.events
    statement = (
        sa.select(table.c.data)
        .where(table.c.kind == "drift", table.c.subject == release_id, table.c.at > since)
        .order_by(table.c.id)
    )
    with store.read() as connection:
        return [str(data.get("drift")) for data in connection.execute(statement).scalars()]


def routed_hourly(store: Store, release_id: str, since: int, until: int) -> list[tuple[int, int]]:
    """``(escalated, routed)`` requests of a release in each hour with traffic that began in [since, until), in ms."""
    table = schema.usage_hourly
    escalated = sa.case((table.c.reason.in_(ESCALATED), table.c.requests), else_=0)
    statement = (
        sa.select(sa.func.sum(escalated), sa.func.sum(table.c.requests))
        .where(
            table.c.hour >= since,
            table.c.hour < until,
            table.c.release_id == release_id,
            table.c.reason.in_(ROUTED),
        )
        .group_by(table.c.hour)
        .order_by(table.c.hour)
    )
    with store.read() as connection:
        return [(int(part), int(whole)) for part, whole in connection.execute(statement)]


def trained_seconds(store: Store, since: int) -> float:
    """Seconds that the jobs have trained for which did so after a time (ms); each counts whole."""
    table = schema.job_events
    newest = (
        sa.select(sa.func.max(table.c.id))
        .where(table.c.kind == "training", table.c.at >= since)
        .group_by(table.c.job_id)
    )
    with store.read() as connection:
        rows = connection.execute(sa.select(table.c.data).where(table.c.id.in_(newest))).scalars()
        return sum(float(data.get("seconds", 0.0)) for data in rows)


def paid_since(store: Store, reasons: tuple[str, ...], since: int) -> float:
    """What the calls with these reasons have cost since a time (ms), in currency units."""
    usage = usage_by(store, ["reason"], since)
    return sum(usage[reason,].cost_nano for reason in reasons if (reason,) in usage) / NANO


def note_once(store: Store, name: str, data: dict[str, Any], since: int) -> bool:
    """Note an event of a trigger, unless one with its ``why`` was noted after a time (ms). Returns whether."""
    table = schema.events
    said = sa.select(table.c.data).where(table.c.kind == KIND, table.c.subject == name, table.c.at > since)
    with store.write() as connection:
        if any(each.get("why") == data["why"] for each in connection.execute(said).scalars()):
            return False
        connection.execute(sa.insert(table).values(at=now_ms(), kind=KIND, subject=name, data=data))
        outbox.put(connection, f"trigger.{data['decision']}", name, {"trigger": name, **data})
    return True
