"""Events of the loop that triggers and people read: drift, and what else asks for a look."""

from typing import Any

import msgspec
import sqlalchemy as sa

from ledger import outbox, schema
from ledger.store import Store, now_ms

__all__ = ("Event", "add", "newest")


class Event(msgspec.Struct, frozen=True):
    """``subject`` is what it is about: a release's id for drift."""

    id: int
    at: int
    kind: str
    subject: str
    data: dict[str, Any]


def add(store: Store, kind: str, subject: str, data: dict[str, Any]) -> None:
    """Note an event that happens now."""
    row = {"at": now_ms(), "kind": kind, "subject": subject, "data": data}
    with store.write() as connection:
        connection.execute(sa.insert(schema.events), [row])
        outbox.put(connection, f"alert.{kind}", subject, {"subject": subject, **data})


def newest(
    store: Store, limit: int = 100, kind: str | None = None, after: int | None = None, subject: str | None = None
) -> list[Event]:
    """The newest events, of one kind or subject or of all, newest first; those behind the id ``after``."""
    table = schema.events
    statement = sa.select(table).order_by(table.c.id.desc()).limit(limit)
    if kind is not None:
        statement = statement.where(table.c.kind == kind)
    if after is not None:
        statement = statement.where(table.c.id < after)
    if subject is not None:
        statement = statement.where(table.c.subject == subject)
    with store.read() as connection:
        return [Event(**row) for row in connection.execute(statement).mappings()]
