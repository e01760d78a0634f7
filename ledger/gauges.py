"""What the gateway's slow metrics show of the store: counts of small tables, and what came in a window of time."""

from dataclasses import dataclass

import sqlalchemy as sa

from ledger import schema
from ledger.store import Store

__all__ = ("Counts", "counts")


@dataclass(frozen=True, slots=True)
class Counts:
    """``jobs``, ``replicas`` and ``deliveries`` of webhooks by state as they stand; of the window ``labels`` (number,
    summed agreement) by source and ``events`` by kind.
    """

    jobs: dict[str, int]
    replicas: dict[str, int]
    deliveries: dict[str, int]
    labels: dict[str, tuple[int, float]]
    events: dict[str, int]


def counts(store: Store, since: int, until: int, alive_since: int) -> Counts:
    """Of labels and events from ``since`` until before ``until`` (ms). Replicas count whose heartbeat is not older
    than ``alive_since`` (ms). Raises the store's error.
    """
    with store.read() as connection:
        return Counts(
            jobs=_by(connection, schema.jobs.c.state, sa.true()),
            replicas=_by(connection, schema.replicas.c.state, schema.replicas.c.heartbeat_at >= alive_since),
            deliveries=_deliveries(connection),
            labels=_labels(connection, since, until),
            events=_by(connection, schema.events.c.kind, _within(schema.events.c.at, since, until)),
        )


def _within(column: sa.Column[int], since: int, until: int) -> sa.ColumnElement[bool]:
    return sa.and_(column >= since, column < until)


def _deliveries(connection: sa.Connection) -> dict[str, int]:
    """What waits for its first attempt is told from what failed and is tried again."""
    table = schema.webhook_deliveries
    failed_before = sa.and_(table.c.state == "pending", table.c.attempts > 0)
    found = _by(connection, table.c.state, sa.true())
    retrying = _by(connection, table.c.state, failed_before).get("pending", 0)
    return found | {"pending": found.get("pending", 0) - retrying, "retrying": retrying}


def _by(connection: sa.Connection, column: sa.Column[str], where: sa.ColumnElement[bool]) -> dict[str, int]:
    rows = connection.execute(sa.select(column, sa.func.count()).where(where).group_by(column))
    return {value: count for value, count in rows}  # noqa: C416 rows are no pairs to the type checker


def _labels(connection: sa.Connection, since: int, until: int) -> dict[str, tuple[int, float]]:
    table = schema.labels
    statement = (
        sa.select(table.c.source, sa.func.count(), sa.func.sum(table.c.agreement))
        .where(_within(table.c.created_at, since, until))
        .group_by(table.c.source)
    )
    return {source: (count, float(agreed)) for source, count, agreed in connection.execute(statement)}
