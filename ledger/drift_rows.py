"""What the watch for drift reads: the newest scores of a release, its labels in order, and what was raised before."""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple, TypeAlias

import sqlalchemy as sa

from ledger import outbox, schema
from ledger.observed import DECIDED
from ledger.store import Store, now_ms

__all__ = (
    "KIND",
    "LabelKey",
    "Labelled",
    "Scored",
    "alarms",
    "labels_after",
    "raise_once",
    "scored_after",
    "student_share",
)

KIND: Final = "drift"
DRAWN: Final = "explore"
"""The source of labels of students' answers that were drawn with a known probability; people's feedback is not."""

MOST_DECIDED: Final = 20_000
"""Requests that a share is taken of, the newest."""

LabelKey: TypeAlias = tuple[int, str, str]
"""Of a label: created_at, request_id, source."""


class Scored(NamedTuple):
    """What the router said of one request; ``created_at`` in ms."""

    created_at: int
    score: float
    novelty: float | None


class Labelled(NamedTuple):
    """A label of an answer that the student gave; ``created_at`` in ms."""

    created_at: int
    request_id: str
    source: str
    agreement: float
    propensity: float


def scored_after(store: Store, release_id: str, after: int, until: int, limit: int) -> list[Scored]:
    """The newest requests that a release's router scored in (after, until], oldest first, at most ``limit``.

    Those that were asked again in the background are not among them.
    """
    table = schema.requests
    statement = (
        sa.select(table.c.created_at, table.c.score, table.c.novelty)
        .where(
            table.c.created_at > after,
            table.c.created_at <= until,
            table.c.release_id == release_id,
            table.c.score.is_not(None),
            table.c.reason != "explore",
        )
        .order_by(table.c.created_at.desc())
        .limit(limit)
    )
    with store.read() as connection:
        return [Scored(*row) for row in connection.execute(statement)][::-1]


def labels_after(
    store: Store, release_id: str, after: LabelKey, until: int, batch: int = 1_000
) -> Iterator[Labelled]:
    """Labels of a release's confident answers, from the one after this key up to a time, oldest first.

    They hang on the student's row, or on the teacher's that was asked beside it. Reads in bounded memory.
    """
    while True:
        with store.read() as connection:
            rows = [Labelled(*row) for row in connection.execute(_labels(release_id, after, until).limit(batch))]
        yield from rows
        if len(rows) < batch:
            return
        after = rows[-1][:3]


def student_share(store: Store, release_id: str, since: int, least: int) -> float | None:
    """The student's share of what a release's router decided on since a time (ms); None of fewer than ``least``."""
    table = schema.requests
    decided = (
        sa.select(table.c.route)
        .where(table.c.created_at > since, table.c.release_id == release_id, table.c.reason.in_(DECIDED))
        .order_by(table.c.created_at.desc())
        .limit(MOST_DECIDED)
        .subquery()
    )
    student = sa.func.sum(sa.case((decided.c.route == "student", 1), else_=0))
    with store.read() as connection:
        count, answered = connection.execute(sa.select(sa.func.count(), student).select_from(decided)).one()
    return int(answered) / count if count >= max(least, 1) else None


def _labels(release_id: str, after: LabelKey, until: int) -> sa.Select[Any, Any, Any, Any, Any]:
    label, request = schema.labels, schema.requests
    key = (label.c.created_at, label.c.request_id, label.c.source)
    is_students = sa.or_(
        sa.and_(request.c.route == "student", request.c.reason == "confident"),
        sa.and_(request.c.route == "teacher", request.c.reason == "explore"),
    )
    return (
        sa.select(*key, label.c.agreement, label.c.propensity)
        .join(request, request.c.id == label.c.request_id)
        .where(
            # beside the exact one below, for the index
            label.c.created_at.between(after[0], until),
            sa.tuple_(*key) > after,
            label.c.release_id == release_id,
            label.c.source == DRAWN,
            is_students,
        )
        .order_by(*key)
    )


def alarms(store: Store, release_id: str) -> dict[str, int]:
    """When each kind of drift of a release was raised last; ms."""
    with store.read() as connection:
        return _alarms(connection, release_id, 0)


def raise_once(store: Store, release_id: str, data: dict[str, Any], quiet_ms: int) -> bool:
    """Note an event of drift, ``data["drift"]`` its kind, unless one of it was noted so recently. Returns whether."""
    now = now_ms()
    with store.write() as connection:
        # two workers that find it at once wait for each other here
        row = sa.select(schema.releases.c.id).where(schema.releases.c.id == release_id).with_for_update()
        connection.execute(row)
        if data["drift"] in _alarms(connection, release_id, now - quiet_ms):
            return False
        event = {"at": now, "kind": KIND, "subject": release_id, "data": data}
        connection.execute(sa.insert(schema.events).values(event))
        outbox.put(connection, f"drift.{data['drift']}", release_id, {"release": release_id, **data})
    return True


def _alarms(connection: sa.Connection, release_id: str, since: int) -> dict[str, int]:
    table = schema.events
    statement = (
        sa.select(table.c.at, table.c.data)
        .where(table.c.at > since, table.c.kind == KIND, table.c.subject == release_id)
        .order_by(table.c.at)
    )
    return {data["drift"]: at for at, data in connection.execute(statement)}
