"""Who changed what: one row per change, written in the same transaction as the change.

``detail`` of a change has what was ``before`` and what is ``after``, as far as that can be said without a secret, a
secret's hash or what a user said.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import sqlalchemy as sa

from ledger import schema
from ledger.store import Store, now_ms

__all__ = ("Entry", "Filters", "actions", "entries", "entries_page", "record")

_table = schema.audit


class Entry(msgspec.Struct, frozen=True):
    """One row; ``at`` is in ms since the epoch. ``actor`` is a key's id, or who ran a command or a process."""

    id: int
    at: int
    actor: str
    action: str
    subject: str
    detail: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Filters:
    """Which entries; None takes all. Times are ms since the epoch: from ``since`` up to, and without, ``until``."""

    actor: str | None = None
    action: str | None = None
    """A whole one (``key.rotate``), or what it begins with up to a dot (``key``)."""
    subject: str | None = None
    since: int | None = None
    until: int | None = None


def record(connection: sa.Connection, actor: str, action: str, subject: str, detail: Mapping[str, Any]) -> None:
    """Add an entry within the caller's transaction."""
    connection.execute(
        sa.insert(_table).values(at=now_ms(), actor=actor, action=action, subject=subject, detail=dict(detail))
    )


def entries(store: Store, limit: int = 100) -> list[dict[str, Any]]:
    """The newest entries, newest first."""
    statement = sa.select(_table).order_by(_table.c.id.desc()).limit(limit)
    with store.read() as connection:
        return [dict(row) for row in connection.execute(statement).mappings()]


def entries_page(store: Store, filters: Filters, limit: int, after: int | None = None) -> list[Entry]:
    """Entries that the filters take, newest first, those behind the id ``after``."""
    statement = sa.select(_table).where(*_conditions(filters)).order_by(_table.c.id.desc()).limit(limit)
    if after is not None:
        statement = statement.where(_table.c.id < after)
    with store.read() as connection:
        return [Entry(*row) for row in connection.execute(statement)]


def actions(store: Store) -> list[str]:
    """Every action that there is an entry of, by name."""
    with store.read() as connection:
        return sorted(connection.execute(sa.select(_table.c.action).distinct()).scalars())


def _conditions(filters: Filters) -> list[sa.ColumnElement[bool]]:
    found: list[sa.ColumnElement[bool]] = []
    if filters.actor is not None:
        found.append(_table.c.actor == filters.actor)
    if filters.action is not None:
        begins = _table.c.action.startswith(f"{filters.action}.", autoescape=True)
        found.append(sa.or_(_table.c.action == filters.action, begins))
    if filters.subject is not None:
        found.append(_table.c.subject == filters.subject)
    if filters.since is not None:
        found.append(_table.c.at >= filters.since)
    if filters.until is not None:
        found.append(_table.c.at < filters.until)
    return found
