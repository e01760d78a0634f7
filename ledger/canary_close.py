"""How an open canary ends: its row, its release, its job and the event of it, in the transaction that decides."""

import sqlalchemy as sa

from ledger import outbox, schema
from ledger.store import now_ms

__all__ = ("EVENT", "close")

EVENT = "canary"
"""The kind of the event that says how one ended."""
JOB_STATES = {"promoted": "live", "rejected": "rejected"}
"""What the job becomes; after any other outcome, `rolled_back`."""


def close(connection: sa.Connection, outcome: str, *, live_id: str | None = None, of: str | None = None) -> bool:
    """End the canary that is open (if it is ``of`` this release, where one is named) with this outcome, or as
    ``promoted`` where it is of the release that is live now.

    The caller has changed the state of a release that went live or was rejected; any other one is `rolled_back` here.
    Returns whether there was one. A job that waited for it ends with it.
    """
    canaries, releases, now = schema.canaries, schema.releases, now_ms()
    row = connection.execute(sa.select(canaries).where(canaries.c.ended_at.is_(None)).with_for_update()).first()
    if row is None or of not in (None, row.release_id):
        return False
    outcome = "promoted" if row.release_id == live_id else outcome
    connection.execute(
        sa.update(canaries)
        .where(canaries.c.release_id == row.release_id, canaries.c.started_at == row.started_at)
        .values(ended_at=now, outcome=outcome)
    )
    connection.execute(
        sa.update(releases)
        .where(releases.c.id == row.release_id, releases.c.state == "canary")
        .values(state="rolled_back")
    )
    why = row.figures.get("why", "")
    _end_job(connection, row.release_id, JOB_STATES.get(outcome, "rolled_back"), why or outcome)
    data = {"outcome": outcome, "mode": row.mode, "champion": row.champion_id, "text": why}
    connection.execute(sa.insert(schema.events).values(at=now, kind=EVENT, subject=row.release_id, data=data))
    outbox.put(connection, f"canary.{outcome}", row.release_id, {"release": row.release_id, **data})
    return True


def _end_job(connection: sa.Connection, release_id: str, state: str, why: str) -> None:
    table, now = schema.jobs, now_ms()
    waiting = sa.and_(table.c.release_id == release_id, table.c.state == "canary")
    error = None if state == "live" else why
    changed = sa.update(table).where(waiting).values(state=state, updated_at=now, error=error).returning(table.c.id)
    for job_id in connection.execute(changed).scalars().all():
        event = {"job_id": job_id, "at": now, "kind": "state", "data": {"state": state}}
        connection.execute(sa.insert(schema.job_events).values(event))
        outbox.job_changed(connection, job_id)
