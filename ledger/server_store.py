"""What PostgreSQL needs that SQLite does not: an engine whose waits are bounded, and queues of writers."""

from typing import Final, Literal, TypeAlias

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError

__all__ = ("Queue", "server_engine", "wait_turn")

Queue: TypeAlias = Literal["state", "rows", "migration"]
"""Of what changes the state of things, of batches of records, of migrations."""
LOCKS: Final[dict[Queue, int]] = {"state": 0x571_0001, "rows": 0x571_0002, "migration": 0x571_0003}
"""Numbers of advisory locks, of this database."""
CONNECT: Final = {
    "connect_timeout": 5,
    # a server that is gone without a word is noticed within half a minute
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
    # and so is a client by the server, whose locks others wait for
    "options": "-c lock_timeout=30s -c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3",
    "application_name": "stillroom",
}
"""What the URL does not say."""
STUCK: Final = "60s"
"""A writer that does nothing for so long is ended, so that those behind it get on."""


def server_engine(url: sa.URL) -> sa.Engine:
    """An engine for a server's database. Raises ``ArgumentError`` for another kind, and without its driver."""
    said = {name: value for name, value in CONNECT.items() if name not in url.query}
    try:
        engine = sa.create_engine(url, pool_pre_ping=True, connect_args=said)
    except ModuleNotFoundError as error:
        package = "'stillroom[postgres]'" if error.name == "psycopg" else error.name
        raise ArgumentError(
            f"the driver of {url.render_as_string()} is not installed: pip install {package}"
        ) from error
    if engine.dialect.name != "postgresql":
        raise ArgumentError(f"{url.render_as_string()}: the ledger is kept in SQLite or in PostgreSQL")
    return engine


def wait_turn(connection: sa.Connection, queue: Queue) -> None:
    """Wait until no other transaction is in this queue; the place is held to the end of this one."""
    if queue == "migration":
        connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
    place = sa.func.pg_advisory_xact_lock(LOCKS[queue])
    stuck = "0" if queue == "migration" else STUCK
    connection.execute(sa.select(place, sa.func.set_config("idle_in_transaction_session_timeout", stuck, sa.true())))
