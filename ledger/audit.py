"""Who changed what: one row per change, written in the same transaction as the change."""

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from ledger import schema
from ledger.store import Store, now_ms

__all__ = ("entries", "record")


def record(connection: sa.Connection, actor: str, action: str, subject: str, detail: Mapping[str, Any]) -> None:
    """Add an entry within the caller's transaction."""
    connection.execute(
        sa.insert(schema.audit).values(at=now_ms(), actor=actor, action=action, subject=subject, detail=dict(detail))
    )


def entries(store: Store, limit: int = 100) -> list[dict[str, Any]]:
    """The newest entries, newest first."""
    statement = sa.select(schema.audit).order_by(schema.audit.c.id.desc()).limit(limit)
    with store.read() as connection:
        return [dict(row) for row in connection.execute(statement).mappings()]
