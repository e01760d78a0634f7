"""Jobs page by page, and what a job's events come to: its stages, newest progress, losses, the end of its log."""

from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from ledger import schema
from ledger.jobs import Job, JobError
from ledger.newest import behind, newest_first
from ledger.store import Store

__all__ = ("MOST_POINTS", "History", "history", "jobs_page")

MOST_POINTS: Final = 400
"""Of a loss curve; of more lines every k-th is taken."""
NOISY: Final = ("training", "dataset_progress", "evaluating", "preparing", "serving")
"""Kinds of which the newest event says all."""
_table: Final = schema.job_events


@dataclass(frozen=True, slots=True)
class History:
    """``stages``: (ms, state), oldest first. ``newest``: of each noisy kind. ``training``: lines of progress, oldest
    first. ``log``: other events, newest first. ``last_id``: the newest's.
    """

    stages: list[tuple[int, str]]
    newest: dict[str, dict[str, Any]]
    training: list[dict[str, Any]]
    log: list[dict[str, Any]]
    last_id: int


def jobs_page(store: Store, limit: int, before: str | None = None, state: str | None = None) -> list[Job]:
    """Jobs, newest first, those behind the one named ``before``, of one state or of all. Raises `JobError`."""
    table = schema.jobs
    statement = sa.select(table).order_by(*newest_first(table)).limit(limit)
    if state is not None:
        statement = statement.where(table.c.state == state)
    with store.read() as connection:
        if before is not None:
            place = behind(connection, table, before)
            if place is None:
                raise JobError(f"there is no job {before!r}")
            statement = statement.where(place)
        return [Job(*row) for row in connection.execute(statement)]


def history(store: Store, job_id: str, lines: int) -> History:
    """What is shown of a job, with ``lines`` of its log at most; as much is read of a long job as of a short one."""
    of_job = _table.c.job_id == job_id
    told = sa.select(_table.c.id, _table.c.at, _table.c.kind, _table.c.data).where(of_job)
    log = told.where(_table.c.kind.not_in(NOISY)).order_by(_table.c.id.desc()).limit(lines)
    stages = sa.select(_table.c.at, _table.c.data).where(of_job, _table.c.kind == "state").order_by(_table.c.id)
    ids = sa.select(sa.func.max(_table.c.id)).where(of_job, _table.c.kind.in_(NOISY)).group_by(_table.c.kind)
    last = sa.select(sa.func.max(_table.c.id)).where(of_job)
    with store.read() as connection:
        last_id = connection.execute(last).scalar() or 0
        newest = connection.execute(told.where(_table.c.id.in_(ids))).mappings()
        return History(
            stages=[(at, str(data.get("state"))) for at, data in connection.execute(stages)],
            newest={row["kind"]: {"at": row["at"], **row["data"]} for row in newest},
            training=_training(connection, job_id),
            log=[dict(row) for row in connection.execute(log).mappings()],
            last_id=last_id,
        )


def _training(connection: sa.Connection, job_id: str) -> list[dict[str, Any]]:
    """At most `MOST_POINTS` and one: every k-th line and the last one."""
    number = sa.func.row_number().over(order_by=_table.c.id).label("number")
    lines = (
        sa.select(_table.c.data, number, sa.func.count().over().label("n"))
        .where(_table.c.job_id == job_id, _table.c.kind == "training")
        .subquery()
    )
    step = sa.cast((lines.c.n - 1) / MOST_POINTS, sa.Integer) + 1
    taken = sa.select(lines.c.data).where(
        sa.or_(lines.c.number % step == 0, lines.c.number == 1, lines.c.number == lines.c.n)
    )
    return list(connection.execute(taken.order_by(lines.c.number)).scalars())
