"""The store: opened safely by many, its schema that of the code, its errors those that callers expect."""

import multiprocessing
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext

from ledger import keys, leases, migrations, schema
from ledger.requests import count, insert_records
from ledger.store import NewerSchema, open_store, sqlite_url
from tests.postgres_server import postgres_store
from tests.unit.ledger.rows import row


def migrate(store, revision: str, move=command.upgrade) -> None:
    config = Config()
    config.set_main_option("script_location", migrations.__path__[0])
    with store.write() as connection:
        config.attributes["connection"] = connection
        move(config, revision)


def tables(store) -> set[str]:
    with store.read() as connection:
        return set(sa.inspect(connection).get_table_names())


# of indexes of an expression SQLite tells nothing: `test_owners.py` sees them used
an_expression_is_passed_over = pytest.mark.filterwarnings("ignore:.*expression-based index")


@an_expression_is_passed_over
def test_the_migrations_lead_to_the_tables_of_the_code(store):
    with store.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, schema.metadata) == []
    assert tables(store) == {*schema.metadata.tables, "alembic_version"}


@an_expression_is_passed_over
def test_the_schema_goes_down_to_nothing_and_up_again(store):
    insert_records(store, [row("a")])
    migrate(store, "base", command.downgrade)
    assert tables(store) == {"alembic_version"}
    migrate(store, "head")
    with store.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), schema.metadata) == []
    assert insert_records(store, [row("a")]) == 1


def test_opening_again_keeps_what_is_there(tmp_path):
    first = open_store(sqlite_url(tmp_path))
    insert_records(first, [row("a")])
    second = open_store(sqlite_url(tmp_path))
    assert count(second) == 1
    first.close()
    second.close()


def test_an_older_version_refuses_what_a_newer_one_has_upgraded_and_leaves_it_alone(store):
    with store.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(NewerSchema, match=r"a newer Stillroom has upgraded it.*'9999'"):
        open_store(store.engine.url.render_as_string(hide_password=False))
    with store.read() as connection:
        assert connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one() == "9999"


def test_a_write_that_fails_leaves_nothing(store):
    with pytest.raises(ZeroDivisionError), store.write() as connection:
        connection.execute(sa.insert(schema.audit).values(at=1, actor="a", action="b", subject="c", detail={}))
        _ = 1 // 0
    with store.read() as connection:
        assert connection.execute(sa.select(schema.audit)).all() == []


def test_a_power_cut_loses_no_committed_row(sqlite_only):
    """What SQLite promises with these two settings; they are per connection, so both kinds are asked."""
    for opened in (sqlite_only.read, sqlite_only.write):
        with opened() as connection:
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2


def open_at_once(url, start, results):
    start.wait()
    try:
        open_store(url).close()
    except sa.exc.SQLAlchemyError as error:
        results.put(str(error))
    else:
        results.put("opened")


def opened_by_three_at_once(url) -> list[str]:
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(3), context.Queue()
    openers = [context.Process(target=open_at_once, args=(url, start, results)) for _ in range(3)]
    for opener in openers:
        opener.start()
    found = [results.get(timeout=60) for _ in openers]
    for opener in openers:
        opener.join()
    return found


def test_processes_may_open_a_new_store_at_the_same_moment(tmp_path):
    assert opened_by_three_at_once(sqlite_url(tmp_path)) == ["opened"] * 3


def test_processes_may_open_an_empty_database_of_a_server_at_the_same_moment(postgres):
    with postgres.database() as url:
        engine = sa.create_engine(url, poolclass=sa.NullPool)
        with engine.begin() as connection:
            connection.exec_driver_sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        assert opened_by_three_at_once(url) == ["opened"] * 3


def at_once(*works) -> None:
    """Run them in threads that begin together."""
    start = threading.Barrier(len(works))

    def begin(work):
        start.wait()
        work()

    with ThreadPoolExecutor(len(works)) as pool:
        for done in [pool.submit(begin, work) for work in works]:
            done.result()


def test_what_a_writer_decides_by_stays_true_until_it_has_written(store):
    key, _ = keys.create(store, "app", ["inference"], "ann")
    fields = ("max_concurrent", "requests_per_minute", "tokens_per_minute")
    for value in range(1, 11):
        at_once(*(partial(keys.update_policy, store, key.id, {field: value}, "ann") for field in fields))
        policy = keys.get(store, key.id).policy
        assert [getattr(policy, field) for field in fields] == [value] * 3


def test_all_that_is_read_at_once_is_of_one_moment(store):
    insert_records(store, [row("a")])
    with store.read() as connection:
        ids = sa.select(schema.requests.c.id)
        before = connection.execute(ids).scalars().all()
        insert_records(store, [row("b")])
        assert connection.execute(ids).scalars().all() == before
    assert count(store) == 2


def test_a_batch_of_records_does_not_wait_for_a_change_of_state_on_a_server(postgres):
    with postgres_store(postgres) as store, store.write():
        assert insert_records(store, [row("a")]) == 1
        assert leases.take(store, "one", "ann", 1_000)


def test_a_writer_that_dies_lets_the_next_one_on(postgres):
    code = (
        "import sys, time; from ledger.store import open_store\n"
        "with open_store(sys.argv[1]).write(): print('in', flush=True); time.sleep(600)"
    )
    with postgres_store(postgres) as store:
        url = store.engine.url.render_as_string(hide_password=False)
        with subprocess.Popen([sys.executable, "-c", code, url], stdout=subprocess.PIPE) as process:
            assert process.stdout.readline() == b"in\n"
            process.kill()
            assert keys.create(store, "app", ["inference"], "ann")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        pytest.param("nonsense", "parse", id="no URL"),
        pytest.param("nosuchdatabase://host/x", "nosuchdatabase", id="a database that SQLAlchemy does not know"),
        pytest.param("mysql+pymysql://host/x", "SQLite or in PostgreSQL|pip install", id="another kind"),
        pytest.param(
            "postgresql://no.such.host.invalid/x", "resolve|translate|failed", id="a host that is not there"
        ),
        pytest.param("sqlite:////no/such/folder/ledger.sqlite", "unable to open", id="a folder that is not there"),
        pytest.param("sqlite://", "names no file", id="no file"),
        pytest.param("sqlite:///:memory:", "names no file", id="memory, which no other process would see"),
    ],
)
def test_a_url_that_cannot_be_used_raises_the_stores_error(url, says):
    with pytest.raises(sa.exc.SQLAlchemyError, match=says):
        open_store(url)


def test_a_driver_that_is_not_installed_is_named_and_the_password_is_not():
    with pytest.raises(sa.exc.SQLAlchemyError, match="pip install") as refusal:
        open_store("postgresql+pg8000://stillroom:hunter2@db/ledger")
    assert "hunter2" not in str(refusal.value)


def test_a_path_with_blanks_and_signs_is_only_a_path(tmp_path):
    home = tmp_path / "a b?c#d%20é"
    home.mkdir()
    store = open_store(sqlite_url(home))
    assert insert_records(store, [row("a")]) == 1
    store.close()
    assert sqlite3.connect(home / "ledger.sqlite").execute("select count(*) from requests").fetchone() == (1,)
