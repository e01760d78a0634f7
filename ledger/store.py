"""Opening the SQL store: SQLite in WAL mode, or PostgreSQL by URL; migrations run on opening."""

import contextlib
import sqlite3
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DisconnectionError, OperationalError, SQLAlchemyError

from ledger.server_store import Queue, server_engine, wait_turn

__all__ = ("NewerSchema", "Store", "insert_into", "insert_of", "now_ms", "open_store", "sqlite_url")

BUSY_TIMEOUT_S = 30
LOCKED_PAUSE_S = 0.05
READING: Final[dict[str, dict[str, Any]]] = {
    "sqlite": {},
    "postgresql": {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True},
}


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


class NewerSchema(SQLAlchemyError):
    """A newer version has upgraded the store, which this one cannot read."""


@dataclass(frozen=True, slots=True)
class Store:
    """The store's engine. `read` and `write` are the only ways in."""

    engine: sa.Engine
    on_change: Callable[[], None] | None = None
    """Called when a change of the state of things is committed, for who wants to know at once."""

    @contextlib.contextmanager
    def read(self) -> Generator[sa.Connection]:
        """A connection in a read transaction: all that is read in it is of one moment."""
        with self.engine.connect().execution_options(**READING[self.engine.dialect.name]) as connection:
            yield connection

    @contextlib.contextmanager
    def write(self, queue: Queue | None = "state") -> Generator[sa.Connection]:
        """A connection in a write transaction, committed at the end and rolled back on an error.

        Writers of one queue come one after another, so that what they read stays true until they commit. SQLite has
        one queue for all; on PostgreSQL ``None`` is for those that lock the rows they decide by.
        """
        with self.engine.connect().execution_options(stillroom_write=True) as connection, connection.begin():
            if queue is not None and connection.dialect.name == "postgresql":
                wait_turn(connection, queue)
            yield connection
        if queue == "state" and self.on_change is not None:
            self.on_change()

    def close(self) -> None:
        """Close the pooled connections."""
        self.engine.dispose()


def insert_into(connection: sa.Connection, table: sa.Table) -> Any:
    """An insert of the database's own kind, which can say what to do about a conflict."""
    return insert_of(connection.dialect, table)


def insert_of(dialect: sa.Dialect, table: sa.Table) -> Any:
    """The same without a connection."""
    return (sqlite if dialect.name == "sqlite" else postgresql).insert(table)


def sqlite_url(home: Path) -> str:
    """The default store: ``ledger.sqlite`` in the home folder."""
    return sa.URL.create("sqlite", database=str(home / "ledger.sqlite")).render_as_string()


def open_store(url: str, on_change: Callable[[], None] | None = None) -> Store:
    """Open the store and bring its schema up to date.

    Raises ``sqlalchemy.exc.SQLAlchemyError`` when the database cannot be reached, and `NewerSchema`, which is one.
    """
    parsed = sa.make_url(url)
    engine = _sqlite_engine(parsed) if parsed.get_backend_name() == "sqlite" else server_engine(parsed)
    store = Store(engine, on_change)
    _migrate(store)
    return store


def _sqlite_engine(url: sa.URL) -> sa.Engine:
    if url.database in (None, "", ":memory:"):
        raise ArgumentError(f"{url} names no file, as in sqlite:////var/lib/stillroom/ledger.sqlite")
    path = Path(url.database).absolute()
    # made here and never again: a process whose database was deleted is to fail, not to go on in an empty one
    _use_wal(sa.create_engine(url, poolclass=sa.NullPool))

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(
            f"{path.as_uri()}?mode=rw",
            timeout=BUSY_TIMEOUT_S,
            check_same_thread=False,
            isolation_level=None,
            uri=True,
        )

    engine = sa.create_engine(url, creator=connect)
    _prepare_sqlite(engine, path)
    return engine


def _use_wal(engine: sa.Engine) -> None:
    """Unlike for a statement, SQLite does not wait where another process holds the lock that this takes."""
    ends = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            with engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        except OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > ends:
                raise
        else:
            return
        time.sleep(LOCKED_PAUSE_S)


def _prepare_sqlite(engine: sa.Engine, path: Path) -> None:
    def file_id() -> tuple[int, int] | None:
        with contextlib.suppress(FileNotFoundError):
            found = path.stat()
            return found.st_dev, found.st_ino
        return None

    def configure(connection: Any, record: Any) -> None:
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        record.info["file"] = file_id()

    def still_there(_connection: Any, record: Any, _proxy: Any) -> None:
        # in WAL mode SQLite goes on writing into a file that was deleted or replaced, and what it writes is lost
        if record.info["file"] != file_id():
            raise DisconnectionError(f"{path} was deleted or replaced")

    def begin(connection: sa.Connection) -> None:
        write = connection.get_execution_options().get("stillroom_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    event.listen(engine, "connect", configure)
    event.listen(engine, "checkout", still_there)
    event.listen(engine, "begin", begin)


def _migrate(store: Store) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    # those that start together come one after another, however long the first one takes
    with store.write("migration") as connection:
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise NewerSchema(
                f"a newer Stillroom has upgraded it, run that one or restore a backup: {error}"
            ) from error
