"""The running student servers, as `serving` last reported them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from ledger import schema
from ledger.store import Store, insert_into, now_ms

__all__ = (
    "STALE_MS", "SWAPPABLE", "Replica", "forget_lost", "list_replicas", "places", "remove", "report", "taken_over",
)  # fmt: skip

STALE_MS: Final = 15_000
"""A replica whose keeper has not reported it for so long is not counted on."""

LOST_MS: Final = 3_600_000

SWAPPABLE: Final = "swappable"
"""The state of a server that takes the live release's weights while it runs, and keeps requests waiting for them."""


@dataclass(frozen=True, slots=True)
class Replica:
    """One student server. ``state`` is starting, ready, down, draining or `SWAPPABLE`; or keeper, of who reports."""

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
    with store.write(None) as connection:
        insert = insert_into(connection, schema.replicas).values(values)
        connection.execute(insert.on_conflict_do_update(index_elements=["id"], set_=values))


def remove(store: Store, replica_id: str) -> None:
    """Forget a replica that is gone."""
    with store.write() as connection:
        connection.execute(sa.delete(schema.replicas).where(schema.replicas.c.id == replica_id))


def forget_lost(store: Store) -> None:
    """Forget the replicas of machines that went without a word, long ago."""
    with store.write(None) as connection:
        lost = schema.replicas.c.heartbeat_at < now_ms() - LOST_MS
        connection.execute(sa.delete(schema.replicas).where(lost))


def list_replicas(store: Store, stale_ms: int = STALE_MS) -> list[Replica]:
    """The replicas whose keeper lives."""
    with store.read() as connection:
        rows = connection.execute(
            sa.select(schema.replicas).where(schema.replicas.c.heartbeat_at >= now_ms() - stale_ms)
        )
        return [Replica(*row) for row in rows]


def places(found: Sequence[Replica], release_id: str, live: bool) -> tuple[tuple[str, ...], str | None]:
    """Where a release's students are asked, and as which model (None: the settings').

    Where the live one has none that is ready, those count that are about to take its weights: they keep it waiting.
    """
    ready = [each for each in found if each.release_id == release_id and each.state == "ready"]
    if live and not ready:
        ready = [each for each in found if each.state == SWAPPABLE]
    return tuple(each.url for each in ready), ready[0].model if ready else None


def taken_over(found: Sequence[Replica], live_id: str, before_id: str) -> bool:
    """Whether the live release does the work of the one before it by now: with half as many students on all machines,
    since the rest join it. Gateways and fleets go by this alike.
    """
    new, old = (len(places(found, each, live=each == live_id)[0]) for each in (live_id, before_id))
    return 2 * new >= old
