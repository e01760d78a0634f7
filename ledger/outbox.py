"""What receivers of webhooks are to be told: written in the transaction that changes something, sent later.

A message belongs to no receiver until a sender takes it up and makes a delivery for each that wants it; a delivery is
pending until it was taken, or given up. A message that no sender took up for `KEEP_TRYING_MS` goes to nobody.
"""

import hashlib
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import msgspec
import sqlalchemy as sa

from ledger import schema
from ledger.audit import record as audit
from ledger.rollups import DAY_MS
from ledger.store import Store, insert_into, now_ms

__all__ = (
    "KEEP_TRYING_MS", "KINDS", "STATES", "Delivery", "Due", "Message", "OutboxError", "State", "counts", "deliveries",
    "due", "job_changed", "mark", "prune", "put", "retry", "take_up",
)  # fmt: skip

State: TypeAlias = Literal["pending", "delivered", "failed"]
STATES: Final = ("pending", "delivered", "failed")
KINDS: Final[dict[str, tuple[str, ...]]] = {
    "job": (
        "queued", "building", "training", "evaluating", "awaiting_approval", "canary", "live", "rejected", "failed",
        "cancelled", "rolled_back",
    ),
    "release": ("promoted", "rolled_back", "rejected"),
    "canary": ("started", "promoted", "rolled_back", "stopped", "rejected", "superseded"),
    "drift": ("novelty", "score", "agreement"),
    "trigger": ("started", "held"),
    "budget": ("warning", "exhausted"),
    "alert": (),
}  # fmt: skip
"""Of messages, as in ``job.failed``; an alert's is its event's."""
KEEP_TRYING_MS: Final = 3 * DAY_MS
KEEP_MS: Final = 30 * DAY_MS
"""How long what was sent, or given up, can be looked up."""
AT_ONCE: Final = 200
MAX_ERROR: Final = 300
_message, _delivery = schema.webhook_messages, schema.webhook_deliveries


class OutboxError(ValueError):
    """A delivery that does not exist, or cannot be sent again."""


class Message(msgspec.Struct, frozen=True):
    """``id`` is the same at every attempt; ``at`` is when it happened, in ms since the epoch."""

    id: str
    at: int
    kind: str
    subject: str
    data: dict[str, Any]


class Delivery(msgspec.Struct, frozen=True):
    """A message for one receiver. Times are ms since the epoch; ``due_at``: of the next attempt, while pending."""

    id: int
    message_id: str
    endpoint: str
    kind: str
    subject: str
    at: int
    state: State
    attempts: int
    due_at: int | None
    last_status: int | None
    last_error: str | None
    ended_at: int | None


@dataclass(frozen=True, slots=True)
class Due:
    """A delivery whose time has come."""

    id: int
    attempts: int
    created_at: int
    message: Message


def put(connection: sa.Connection, kind: str, subject: str, data: Mapping[str, Any], once: str | None = None) -> None:
    """Add a message within the caller's transaction; with ``once``, unless one of that name was added before."""
    name = secrets.token_hex(16) if once is None else hashlib.sha256(once.encode()).hexdigest()[:32]
    insert = insert_into(connection, _message).values(
        message_id=f"msg_{name}", at=now_ms(), kind=kind, subject=subject, data=dict(data)
    )
    connection.execute(insert.on_conflict_do_nothing())


def job_changed(connection: sa.Connection, job_id: str) -> None:
    """Say which state a job is in, within the transaction that put it there."""
    job = schema.jobs
    told = (job.c.state, job.c.trigger, job.c.actor, job.c.release_id, job.c.error)
    row = connection.execute(sa.select(*told).where(job.c.id == job_id)).mappings().first()
    if row is not None:
        error = row["error"][:MAX_ERROR] if row["error"] else None
        put(connection, f"job.{row['state']}", job_id, {"job": job_id, **row, "error": error})


def take_up(store: Store, wanted_by: Callable[[str], Iterable[str]], now: int) -> int:
    """Make the deliveries of new messages, for the receivers that want each kind. Returns how many messages."""
    new = sa.select(_message).where(_message.c.taken_at.is_(None)).order_by(_message.c.id).limit(AT_ONCE)
    with store.read() as connection:
        if connection.execute(new.limit(1)).first() is None:
            return 0
    with store.write(None) as connection:
        rows = connection.execute(new.with_for_update(skip_locked=True)).all()
        made = [
            {"message_id": row.message_id, "endpoint": name, "created_at": now, "due_at": now, **_NEW}
            for row in rows
            if row.at > now - KEEP_TRYING_MS
            for name in wanted_by(row.kind)
        ]
        if made:
            connection.execute(insert_into(connection, _delivery).on_conflict_do_nothing(), made)
        ids = [row.id for row in rows]
        connection.execute(sa.update(_message).where(_message.c.id.in_(ids)).values(taken_at=now))
    return len(rows)


_NEW: Final = {"state": "pending", "attempts": 0}


def due(store: Store, endpoint: str, now: int, limit: int) -> list[Due]:
    """A receiver's pending deliveries whose time has come, oldest first."""
    statement = (
        sa.select(_delivery.c.id, _delivery.c.attempts, _delivery.c.created_at, *_MESSAGE)
        .join(_message, _message.c.message_id == _delivery.c.message_id)
        .where(_delivery.c.endpoint == endpoint, _delivery.c.state == "pending", _delivery.c.due_at <= now)
        .order_by(_delivery.c.id)
        .limit(limit)
    )
    with store.read() as connection:
        return [Due(*row[:3], Message(*row[3:])) for row in connection.execute(statement)]


_MESSAGE: Final = (_message.c.message_id, _message.c.at, _message.c.kind, _message.c.subject, _message.c.data)


def mark(store: Store, delivery_id: int, status: int | None, error: str | None, due_at: int | None = None) -> None:
    """Note an attempt: delivered without an error; else due again at a time (ms), or given up where that is None."""
    now = now_ms()
    state = "pending" if due_at is not None else "failed" if error else "delivered"
    values: dict[str, Any] = {
        "state": state,
        "attempts": _delivery.c.attempts + 1,
        "last_status": status,
        "last_error": error[:MAX_ERROR] if error else None,
        "due_at": due_at,
        "ended_at": None if state == "pending" else now,
    }
    with store.write(None) as connection:
        waits = sa.and_(_delivery.c.id == delivery_id, _delivery.c.state == "pending")
        connection.execute(sa.update(_delivery).where(waits).values(values))


def retry(store: Store, actor: str, delivery_id: int | None = None, endpoint: str | None = None) -> int:
    """Have a delivery sent again at once, under the same message id; or all that failed, of one receiver or of all.

    Its attempts are counted anew. Returns how many. Raises `OutboxError` for one that does not exist.
    """
    now = now_ms()
    again = sa.update(_delivery).values(state="pending", attempts=0, created_at=now, due_at=now, ended_at=None)
    if delivery_id is not None:
        again = again.where(_delivery.c.id == delivery_id)
    else:
        again = again.where(_delivery.c.state == "failed")
    if endpoint is not None:
        again = again.where(_delivery.c.endpoint == endpoint)
    with store.write() as connection:
        done = connection.execute(again).rowcount
        if done:
            subject = endpoint or "all" if delivery_id is None else f"delivery:{delivery_id}"
            audit(connection, actor, "webhook.retry", subject, {"deliveries": done})
    if delivery_id is not None and not done:
        raise OutboxError(f"there is no delivery {delivery_id}; `stillroom webhooks deliveries` shows them")
    return done


def deliveries(
    store: Store, limit: int, before: int | None = None, endpoint: str | None = None, state: str | None = None
) -> list[Delivery]:
    """Deliveries, newest first, those behind the one of the id ``before``."""
    statement = (
        sa.select(
            _delivery.c.id, _message.c.message_id, _delivery.c.endpoint, _message.c.kind, _message.c.subject,
            _message.c.at, _delivery.c.state, _delivery.c.attempts, _delivery.c.due_at, _delivery.c.last_status,
            _delivery.c.last_error, _delivery.c.ended_at,
        )
        .join(_message, _message.c.message_id == _delivery.c.message_id)
        .order_by(_delivery.c.id.desc())
        .limit(limit)
    )  # fmt: skip
    for column, value in ((_delivery.c.endpoint, endpoint), (_delivery.c.state, state)):
        if value is not None:
            statement = statement.where(column == value)
    if before is not None:
        statement = statement.where(_delivery.c.id < before)
    with store.read() as connection:
        return [Delivery(*row) for row in connection.execute(statement)]


def counts(store: Store) -> dict[tuple[str, str], int]:
    """How many deliveries each receiver has in each state."""
    statement = sa.select(_delivery.c.endpoint, _delivery.c.state, sa.func.count()).group_by(
        _delivery.c.endpoint, _delivery.c.state
    )
    with store.read() as connection:
        return {(endpoint, state): n for endpoint, state, n in connection.execute(statement)}


def prune(store: Store, names: Sequence[str], now: int) -> None:
    """Give up what waits for a receiver that the settings do not name any more, and forget what is old."""
    orphan = sa.and_(_delivery.c.state == "pending", _delivery.c.endpoint.not_in(names))
    late = sa.and_(orphan, _delivery.c.created_at < now - KEEP_TRYING_MS)
    values = {"state": "failed", "last_error": "no such webhook in the settings", "due_at": None, "ended_at": now}
    with store.write() as connection:
        connection.execute(sa.update(_delivery).where(late).values(values))
        connection.execute(
            sa.delete(_delivery).where(_delivery.c.state != "pending", _delivery.c.ended_at < now - KEEP_MS)
        )
        is_kept = sa.exists().where(_delivery.c.message_id == _message.c.message_id)
        connection.execute(sa.delete(_message).where(_message.c.at < now - KEEP_MS, ~is_kept))
