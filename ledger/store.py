"""Opening the SQL store: SQLite in WAL mode, or PostgreSQL by URL; migrations run on opening."""

import contextlib
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy import event

__all__ = ("Store", "now_ms", "open_store", "sqlite_url")

BUSY_TIMEOUT_S = 30


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class Store:
    """The store's engine. `read` and `write` are the only ways in: on SQLite a write takes the lock when it begins,
    so that two writers queue instead of failing halfway.
    """

    engine: sa.Engine

    @contextlib.contextmanager
    def read(self) -> Generator[sa.Connection]:
        """A connection in a read transaction."""
        with self.engine.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def write(self) -> Generator[sa.Connection]:
        """A connection in a write transaction, committed at the end and rolled back on an error."""
        with self.engine.connect().execution_options(stillroom_write=True) as connection, connection.begin():
            yield connection

    def close(self) -> None:
        """Close the pooled connections."""
        self.engine.dispose()


def sqlite_url(home: Path) -> str:
    """The default store: ``ledger.sqlite`` in the home folder."""
    return f"sqlite:///{home / 'ledger.sqlite'}"


def open_store(url: str) -> Store:
    """Open the store and bring its schema up to date.

    Raises ``sqlalchemy.exc.SQLAlchemyError`` when the database cannot be reached.
    """
    engine = sa.create_engine(url, **_pool_options(url))
    if engine.dialect.name == "sqlite":
        _prepare_sqlite(engine)
    store = Store(engine)
    _migrate(store)
    return store


def _pool_options(url: str) -> dict[str, Any]:
    if url.startswith("sqlite"):
        return {"connect_args": {"timeout": BUSY_TIMEOUT_S, "check_same_thread": False}}
    return {"pool_pre_ping": True}


def _prepare_sqlite(engine: sa.Engine) -> None:
    def configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")

    def begin(connection: sa.Connection) -> None:
        write = connection.get_execution_options().get("stillroom_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    event.listen(engine, "connect", configure)
    event.listen(engine, "begin", begin)


def _migrate(store: Store) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with store.write() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
