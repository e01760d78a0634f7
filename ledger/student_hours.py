"""How long student servers have run, by hour and release: what a machine-hour's price is multiplied with."""

import sqlalchemy as sa

from ledger import schema
from ledger.requests import HOUR_MS
from ledger.store import Store, insert_into, now_ms

__all__ = ("add_seconds", "seconds_by_hour")


def add_seconds(store: Store, seconds: dict[str, float]) -> None:
    """Add what the servers of each release have run since this was last told, to the hour that it is now."""
    table, hour = schema.student_hours, now_ms() // HOUR_MS * HOUR_MS
    with store.write(None) as connection:
        for release_id, ran in sorted(seconds.items()):
            insert = insert_into(connection, table).values(hour=hour, release_id=release_id, seconds=ran)
            connection.execute(
                insert.on_conflict_do_update(
                    index_elements=[table.c.hour, table.c.release_id],
                    set_={"seconds": table.c.seconds + insert.excluded.seconds},
                )
            )


def seconds_by_hour(store: Store, since: int = 0) -> dict[int, float]:
    """Seconds that all servers ran together, by hour (ms since the epoch), from the hour of a time (ms) on."""
    table = schema.student_hours
    statement = (
        sa.select(table.c.hour, sa.func.sum(table.c.seconds))
        .where(table.c.hour >= since // HOUR_MS * HOUR_MS)
        .group_by(table.c.hour)
    )
    with store.read() as connection:
        return {int(hour): float(seconds) for hour, seconds in connection.execute(statement)}
