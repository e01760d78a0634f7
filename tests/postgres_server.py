"""A real PostgreSQL of the session's own, with databases that are made once and emptied between tests.

It sorts text as English does, so that whatever leans on the order of bytes is found.
"""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import sqlalchemy as sa

from ledger import schema
from ledger.store import Store, open_store

USER = "stillroom"
SETTINGS = ("fsync=off", "listen_addresses=", "max_connections=200", "shared_buffers=64MB", "autovacuum=off")


def binaries() -> Path | None:
    """Where initdb is: on the path, or where Debian puts it."""
    found = shutil.which("initdb")
    places = [Path(found)] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return places[-1].parent if places else None


def _plain_user() -> str | None:
    """Who runs it: PostgreSQL refuses root."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


class PostgresServer:
    """A cluster in a folder of its own, reached by a socket there."""

    def __init__(self, binaries: Path, settings: Sequence[str] = SETTINGS) -> None:
        self._binaries, self._settings, self._user = binaries, settings, _plain_user()
        self._folder = Path(tempfile.mkdtemp(prefix="pg-"))
        self._free: list[str] = []
        self._made = 0
        if self._user is not None:
            shutil.chown(self._folder, self._user)
        collation = ("--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=en-US", "--encoding=UTF8")
        self._run("initdb", "--auth=trust", f"--username={USER}", "--no-sync", *collation)
        self.start()
        self._admin = sa.create_engine(self.url("postgres"), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        self._command("CREATE DATABASE pattern")
        open_store(self.url("pattern")).close()

    def url(self, database: str) -> str:
        """Of a database of this server, in the short form that people write."""
        return f"postgresql://{USER}@/{database}?host={self._folder}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = " ".join(f"-c {each}" for each in (*self._settings, f"unix_socket_directories={self._folder}"))
        self._run("pg_ctl", "--wait", f"--log={self._folder / 'log'}", f"--options={options}", "start")

    def stop(self, mode: str = "fast") -> None:
        """Stop it; ``immediate`` is as if it were killed."""
        self._run("pg_ctl", "--wait", f"--mode={mode}", "stop")

    def kill_hard(self) -> None:
        """SIGKILL to the postmaster alone."""
        os.kill(self.pid, signal.SIGKILL)

    @property
    def pid(self) -> int:
        """Of the process whose children are the others."""
        return int((self._folder / "data" / "postmaster.pid").read_text().splitlines()[0])

    def remove(self) -> None:
        """Stop it and delete its files."""
        self.stop("immediate")
        shutil.rmtree(self._folder)

    @contextlib.contextmanager
    def database(self) -> Iterator[str]:
        """The URL of a database with an empty schema of the newest kind, this caller's alone."""
        name = self._free.pop() if self._free else self._create()
        yield self.url(name)
        if _emptied(self.url(name)):
            self._free.append(name)
        else:
            self._command(f"DROP DATABASE {name} WITH (FORCE)")

    def _create(self) -> str:
        self._made += 1
        self._command(f"CREATE DATABASE test_{self._made} TEMPLATE pattern")
        return f"test_{self._made}"

    def _command(self, statement: str) -> None:
        with self._admin.connect() as connection:
            connection.exec_driver_sql(statement)

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._binaries / program), f"--pgdata={self._folder / 'data'}", *arguments]
        subprocess.run(command, check=True, user=self._user, cwd=self._folder, stdout=subprocess.DEVNULL, timeout=60)


def _emptied(url: str) -> bool:
    """Whether it could be made as new: a test may have left another schema, or connections that hold locks."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    numbered = [table for table in schema.metadata.tables.values() if table.c[0].autoincrement is True]
    try:
        with engine.begin() as connection:
            others = connection.exec_driver_sql(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            ).scalar()
            tables = set(sa.inspect(connection).get_table_names())
            if others or tables != {*schema.metadata.tables, "alembic_version"}:
                return False
            for name in schema.metadata.tables:
                connection.exec_driver_sql(f"DELETE FROM {name}")
            for table in numbered:
                connection.exec_driver_sql(f"ALTER SEQUENCE {table.name}_id_seq RESTART")
    except sa.exc.SQLAlchemyError:
        return False
    return True


@contextlib.contextmanager
def postgres_store(server: PostgresServer) -> Iterator[Store]:
    """A store in a database of its own."""
    with server.database() as url:
        store = open_store(url)
        try:
            yield store
        finally:
            store.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """The session's server."""
    place = binaries()
    if place is None:
        pytest.skip("PostgreSQL's server programs (initdb, pg_ctl) are not installed")
    pytest.importorskip("psycopg", reason="psycopg, of the extra `postgres`, is not installed")
    server = PostgresServer(place)
    yield server
    server.remove()
