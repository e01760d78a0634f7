"""The running student servers, as `serving` last reported them."""

from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from ledger import schema
from ledger.store import Store, now_ms

__all__ = ("STALE_MS", "Replica", "list_replicas", "remove", "report")

STALE_MS: Final = 15_000
"""A replica whose keeper has not reported it for so long is not counted on."""


@dataclass(frozen=True, slots=True)
class Replica:
    """One student server. ``state`` is starting, ready, down or draining."""

    id: str
    release_id: str
    url: str
    state: str
    heartbeat_at: int
    detail: str = ""
    model: str | None = None
    """The name it answers to; None for the one in the settings."""


def report(store: Store, replica: Replica) -> None:
    """Insert or refresh a replica's row; the heartbeat is set to now."""
    values = {f: getattr(replica, f) for f in Replica.__slots__} | {"heartbeat_at": now_ms()}
    with store.write() as connection:
        updated = connection.execute(
            sa.update(schema.replicas).where(schema.replicas.c.id == replica.id).values(values)
        )
        if not updated.rowcount:
            connection.execute(sa.insert(schema.replicas).values(values))


def remove(store: Store, replica_id: str) -> None:
    """Forget a replica that is gone."""
    with store.write() as connection:
        connection.execute(sa.delete(schema.replicas).where(schema.replicas.c.id == replica_id))


def list_replicas(store: Store, stale_ms: int = STALE_MS) -> list[Replica]:
    """The replicas whose keeper lives."""
    with store.read() as connection:
        rows = connection.execute(
            sa.select(schema.replicas).where(schema.replicas.c.heartbeat_at >= now_ms() - stale_ms)
        )
        return [Replica(*row) for row in rows]
