"""A person's word on a job that waits for it: its release goes live, or never does."""

import sqlalchemy as sa

from ledger import canaries, jobs, outbox, releases, schema
from ledger.audit import record as audit
from ledger.canaries import Trial
from ledger.jobs import Job, JobError
from ledger.store import Store

__all__ = ("approve", "reject")


def approve(store: Store, job_id: str, actor: str, trial: Trial | None = None) -> Job:
    """Make the release of a job that awaits approval live, or try it first where there is a champion to compare with.

    Raises `JobError` for a job that does not wait, and `ReleaseError` for a release that was rejected meanwhile
    or while another one is tried.
    """
    job = jobs.get(store, job_id)
    if job.state != "awaiting_approval" or job.release_id is None:
        raise JobError(f"job {job_id} is {job.state}, it does not await approval")
    if trial is not None and releases.live(store) is not None:
        canaries.start(store, job.release_id, trial, actor)
        with store.write() as connection:
            _note(connection, actor, "job.approve", job, {"state": "canary"})
        return jobs.get(store, job_id)
    # in this order: broken off between the two, it is approved again and the release is live already
    releases.promote(store, job.release_id, actor)
    with store.write() as connection:
        jobs.end_waiting(connection, job_id, "live")
        _note(connection, actor, "job.approve", job, {"state": "live"})
    return jobs.get(store, job_id)


def reject(store: Store, job_id: str, actor: str, why: str) -> Job:
    """End a job that awaits approval, and its candidate with it; ``why`` becomes the job's error.

    Raises `JobError` for a job that does not wait, or whose release is live by now.
    """
    table, release = schema.jobs, schema.releases
    with store.write() as connection:
        waiting = sa.and_(table.c.id == job_id, table.c.state == "awaiting_approval")
        row = connection.execute(sa.select(table.c.release_id).where(waiting).with_for_update()).first()
        if row is not None:
            done = connection.execute(
                sa.update(release)
                .where(release.c.id == row.release_id, release.c.state == "candidate")
                .values(state="rejected")
            )
            if not done.rowcount:
                raise JobError(
                    f"the release of job {job_id} is no candidate any more; `stillroom distill list` has it"
                )
            jobs.end_waiting(connection, job_id, "rejected", why)
            change = {"before": {"state": "awaiting_approval"}, "after": {"state": "rejected"}}
            audit(connection, actor, "job.reject", job_id, {"why": why, "release": row.release_id, **change})
            data = {"release": row.release_id, "by": actor, "why": why}
            outbox.put(connection, "release.rejected", row.release_id, data)
    job = jobs.get(store, job_id)
    if row is None:
        raise JobError(f"job {job_id} is {job.state}, it does not await approval")
    return job


def _note(connection: sa.Connection, actor: str, action: str, job: Job, after: dict[str, str]) -> None:
    change = {"before": {"state": job.state}, "after": after}
    audit(connection, actor, action, job.id, {"release": job.release_id, **change})
