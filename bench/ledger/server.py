"""The same ledger on PostgreSQL: moved there, its schema taken down to the first and up again, a recount of its sums.

The server is one of its own in a temporary folder, with the defaults of its version but for what is in `SETTINGS`.
"""

import contextlib
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from alembic import command

from bench.gateway import machine
from bench.ledger.migrating import FIRST, migrate_to
from bench.ledger.recount import differences
from ledger.moving import move
from ledger.requests import count
from ledger.rollups import DAY_MS
from ledger.store import Store, now_ms, open_store, sqlite_url
from tests.postgres_server import PostgresServer, binaries

__all__ = ("Figures", "Spent", "on_postgres", "server")

SETTINGS: Final = ("listen_addresses=", "shared_buffers=1GB", "max_wal_size=4GB")

Figures = dict[str, Any]


@contextlib.contextmanager
def server(*more: str) -> Generator[PostgresServer]:
    """A server with further settings."""
    place = binaries()
    assert place is not None, "PostgreSQL's server programs (initdb, pg_ctl) are not installed"
    running = PostgresServer(place, (*SETTINGS, *more))
    try:
        yield running
    finally:
        running.remove()


def on_postgres(home: Path, _rows: int) -> Figures:
    """Seconds of the clock, and of the processors: this process's and the server's."""
    source = open_store(sqlite_url(home))
    with server() as running, running.database() as url:
        target = open_store(url)
        found: Figures = {"version": _version(target), "rows": count(source)}
        spent = Spent(running)
        found |= spent.on("move", lambda: move(source, target, "bench", lambda *_: None))
        found |= spent.on("down", lambda: migrate_to(target, command.downgrade, FIRST))
        found |= spent.on("up", lambda: migrate_to(target, command.upgrade, "head"))
        today = now_ms() // DAY_MS * DAY_MS
        found["differences"] = len(differences(target, today - 40 * DAY_MS, today - 39 * DAY_MS))
        with target.read() as connection:
            size = connection.exec_driver_sql("SELECT pg_database_size(current_database())").scalar_one()
        target.close()
    return found | {"bytes": size}


@dataclass(frozen=True)
class Spent:
    """What calls take of the clock and of the processors."""

    running: PostgresServer

    def on(self, name: str, call: Callable[[], object]) -> Figures:
        """Of one call."""
        begins, own, servers = time.monotonic(), time.process_time(), self._of_server()
        call()
        own, servers = time.process_time() - own, self._of_server() - servers
        return {f"{name}_seconds": time.monotonic() - begins, f"{name}_cpu": own, f"{name}_server_cpu": servers}

    def _of_server(self) -> float:
        """Of all its processes, those that ended too."""
        return machine.cpu_seconds(machine.tree(self.running.pid))


def _version(store: Store) -> str:
    with store.read() as connection:
        return str(connection.exec_driver_sql("SHOW server_version").scalar_one())
