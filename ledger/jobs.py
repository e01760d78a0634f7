"""Distillation jobs: rows with a lease, so that one worker at a time holds a job and a dead one's is taken over."""

import hashlib
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from ledger import outbox, schema
from ledger.audit import record as audit
from ledger.canary_close import close
from ledger.newest import newest_first
from ledger.store import Store, insert_into, now_ms

__all__ = (
    "ACTIVE_STATES",
    "FINAL_STATES",
    "LEASE_MS",
    "WAITING_STATES",
    "Job",
    "JobError",
    "add_event",
    "add_events",
    "cancel",
    "claim",
    "create",
    "create_once",
    "events",
    "get",
    "heartbeat",
    "list_jobs",
    "newest",
    "set_state",
    "settle",
)

LEASE_MS: Final = 30_000
ID_DIGITS: Final = 16
ACTIVE_STATES: Final = ("queued", "building", "training", "evaluating")
WAITING_STATES: Final = ("awaiting_approval", "canary")
FINAL_STATES: Final = ("live", "rejected", "failed", "cancelled", "rolled_back")
_NEWEST_FIRST: Final = newest_first(schema.jobs)


class JobError(ValueError):
    """A job that does not exist, or a change that its state or its lease does not allow."""


@dataclass(frozen=True, slots=True)
class Job:
    """One re-distillation. Times are milliseconds since the epoch."""

    id: str
    state: str
    trigger: str
    actor: str
    settings: dict[str, Any]
    created_at: int
    updated_at: int
    lease_owner: str | None
    lease_until: int | None
    cancel_requested: bool
    release_id: str | None
    error: str | None
    result: dict[str, Any]


def create(store: Store, trigger: str, actor: str, settings: Mapping[str, Any]) -> Job:
    """Queue a job."""
    return create_once(store, secrets.token_hex(16), trigger, actor, settings)[0]


def create_once(store: Store, name: str, trigger: str, actor: str, settings: Mapping[str, Any]) -> tuple[Job, bool]:
    """Queue a job unless one was queued under this name, by whichever process. Returns it, and whether it is new.

    The job's id is the name's digest, so that the table's own key decides who was first.
    """
    now = now_ms()
    job = Job(
        f"job_{hashlib.sha256(name.encode()).hexdigest()[:ID_DIGITS]}", "queued", trigger, actor, dict(settings), now,
        now, None, None, False, None, None, {},
    )  # fmt: skip
    with store.write() as connection:
        insert = insert_into(connection, schema.jobs).values({f: getattr(job, f) for f in Job.__slots__})
        made_now = insert.on_conflict_do_nothing().returning(schema.jobs.c.id)
        if connection.execute(made_now).first() is None:
            row = connection.execute(sa.select(schema.jobs).where(schema.jobs.c.id == job.id)).one()
            return Job(*row), False
        made = {"state": job.state, "settings": job.settings}
        audit(connection, actor, "job.create", job.id, {"trigger": trigger, "before": None, "after": made})
        outbox.job_changed(connection, job.id)
    return job, True


def get(store: Store, job_id: str) -> Job:
    """One job. Raises `JobError`."""
    with store.read() as connection:
        row = connection.execute(sa.select(schema.jobs).where(schema.jobs.c.id == job_id)).first()
    return _found(row, job_id)


def _found(row: sa.Row[Any] | None, job_id: str) -> Job:
    if row is None:
        raise JobError(f"there is no job {job_id!r}; `stillroom distill list` shows them")
    return Job(*row)


def list_jobs(store: Store, limit: int = 100) -> list[Job]:
    """The newest jobs, newest first."""
    with store.read() as connection:
        rows = connection.execute(sa.select(schema.jobs).order_by(*_NEWEST_FIRST).limit(limit))
        return [Job(*row) for row in rows]


def newest(store: Store) -> Job | None:
    """The job that was made last, or None before the first."""
    return next(iter(list_jobs(store, 1)), None)


def claim(store: Store, owner: str, job_id: str | None = None) -> Job | None:
    """Take the oldest active job whose lease is free or has run out (or the one named), or None."""
    table = schema.jobs
    with store.write(None) as connection:
        # the time at which the lock is held: the store may have made us wait for it longer than a lease
        now = now_ms()
        free = sa.or_(table.c.lease_until.is_(None), table.c.lease_until < now)
        condition = sa.and_(table.c.state.in_(ACTIVE_STATES), free)
        if job_id is not None:
            condition = sa.and_(condition, table.c.id == job_id)
        pick = sa.select(table.c.id).where(condition).order_by(table.c.created_at).limit(1)
        found = connection.execute(pick.with_for_update(skip_locked=True)).scalar()
        if found is None:
            return None
        row = connection.execute(
            sa.update(table)
            .where(table.c.id == found)
            .values(lease_owner=owner, lease_until=now + LEASE_MS, updated_at=now)
            .returning(*table.columns)
        ).one()
    return Job(*row)


def heartbeat(store: Store, job_id: str, owner: str) -> Job:
    """Renew the lease. Raises `JobError` when another worker holds it: stop working on the job then."""
    table = schema.jobs
    with store.write(None) as connection:
        row = connection.execute(
            sa.update(table)
            .where(table.c.id == job_id, table.c.lease_owner == owner)
            .values(lease_until=now_ms() + LEASE_MS)
            .returning(*table.columns)
        ).first()
    if row is None:
        raise JobError(f"job {job_id} is held by another worker")
    return Job(*row)


def set_state(store: Store, job_id: str, owner: str, state: str, **values: Any) -> None:
    """Move a job that this owner holds to a state, with other columns; a final state frees the lease.

    Raises `JobError` when another worker holds it.
    """
    if state not in ACTIVE_STATES:
        values |= {"lease_owner": None, "lease_until": None}
    table = schema.jobs
    with store.write() as connection:
        done = connection.execute(
            sa.update(table)
            .where(table.c.id == job_id, table.c.lease_owner == owner)
            .values(state=state, updated_at=now_ms(), **values)
        )
        if not done.rowcount:
            raise JobError(f"job {job_id} is held by another worker")
        _state_event(connection, job_id, state)


def settle(store: Store, job_id: str, state: str) -> None:
    """Move a waiting job to its end (approved, rejected, rolled back) without a lease.

    Raises `JobError` for a job that does not wait.
    """
    with store.write() as connection:
        end_waiting(connection, job_id, state)


def end_waiting(connection: sa.Connection, job_id: str, state: str, error: str | None = None) -> None:
    """`settle`, within the caller's transaction; ``error`` says why, where it does not end well."""
    table = schema.jobs
    done = connection.execute(
        sa.update(table)
        .where(table.c.id == job_id, table.c.state.in_(WAITING_STATES))
        .values(state=state, updated_at=now_ms(), error=error)
    )
    if not done.rowcount:
        raise JobError(f"job {job_id} does not wait for a decision")
    _state_event(connection, job_id, state)


def cancel(store: Store, job_id: str, actor: str) -> Job:
    """Ask for a job to stop: one that no worker holds ends at once and its candidate is rejected, a running one
    ends when its worker sees it (seconds).

    Raises `JobError` for a job that has ended.
    """
    table, now = schema.jobs, now_ms()
    with store.write() as connection:
        # read in the transaction that writes: a worker may take or end the job meanwhile
        row = connection.execute(sa.select(table).where(table.c.id == job_id).with_for_update()).first()
        job = _found(row, job_id)
        if job.state in FINAL_STATES:
            raise JobError(f"job {job_id} has ended already ({job.state})")
        values: dict[str, Any] = {"cancel_requested": True, "updated_at": now}
        if job.lease_until is None or job.lease_until <= now:
            values |= {"state": "cancelled", "lease_owner": None, "lease_until": None}
            connection.execute(
                sa.update(schema.releases)
                .where(schema.releases.c.id == job.release_id, schema.releases.c.state == "candidate")
                .values(state="rejected")
            )
            if job.state == "canary" and job.release_id is not None:
                close(connection, "stopped", of=job.release_id)
        changed = connection.execute(
            sa.update(table).where(table.c.id == job_id).values(values).returning(*table.columns)
        ).one()
        if changed.state != job.state:
            _state_event(connection, job_id, changed.state)
        before = {"state": job.state, "cancel_requested": job.cancel_requested}
        after = {"state": changed.state, "cancel_requested": True}
        audit(connection, actor, "job.cancel", job_id, {"before": before, "after": after})
    return Job(*changed)


def add_event(store: Store, job_id: str, kind: str, data: Mapping[str, Any]) -> None:
    """Add to a job's history: progress, a log line, a verdict."""
    with store.write() as connection:
        _event(connection, job_id, kind, data)


def add_events(store: Store, job_id: str, happened: Iterable[tuple[int, str, Mapping[str, Any]]]) -> None:
    """Add several to a job's history, each with the time (ms) at which it happened, in one transaction."""
    rows = [{"job_id": job_id, "at": at, "kind": kind, "data": dict(data)} for at, kind, data in happened]
    with store.write() as connection:
        connection.execute(sa.insert(schema.job_events), rows)


def events(store: Store, job_id: str, after: int = 0, limit: int | None = None) -> list[dict[str, Any]]:
    """A job's events with an id above ``after``, oldest first, ``limit`` of them at most."""
    table = schema.job_events
    statement = sa.select(table).where(table.c.job_id == job_id, table.c.id > after).order_by(table.c.id)
    with store.read() as connection:
        return [dict(row) for row in connection.execute(statement.limit(limit)).mappings()]


def _state_event(connection: sa.Connection, job_id: str, state: str) -> None:
    """Of a job that is in this state now: in its history, and for who is told of it."""
    _event(connection, job_id, "state", {"state": state})
    outbox.job_changed(connection, job_id)


def _event(connection: sa.Connection, job_id: str, kind: str, data: Mapping[str, Any]) -> None:
    connection.execute(sa.insert(schema.job_events).values(job_id=job_id, at=now_ms(), kind=kind, data=dict(data)))
