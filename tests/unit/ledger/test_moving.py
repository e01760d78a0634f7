"""A ledger that moves to PostgreSQL: every row, once, proved; begun again where it ended; mixed with nothing."""

import random

import pytest
import sqlalchemy as sa

from ledger import audit, feedback, jobs, keys, moving, releases, schema
from ledger.feedback import Feedback
from ledger.moving import LEFT_OUT, MoveError, move
from ledger.records import Content
from ledger.requests import count, get, insert_records
from ledger.store import Store
from tests.postgres_server import postgres_store
from tests.unit.ledger.rows import release, row, sqlite_store


@pytest.fixture
def source():
    with sqlite_store() as store:
        draw = random.Random(5)
        texts = ["Zürich", "a_b", "A-b", "ß", "é", "東京", "a", "B"]
        names = [f"{draw.choice(texts)}{draw.randrange(10**9)}" for _ in range(250)]
        content = Content(messages=[{"role": "user", "content": "\0 nul \ud7ff"}], answer="yes")
        insert_records(store, [row(name, tags=[name], cost_nano=2**60 // 250, content=content) for name in names])
        keys.create(store, "app", ["inference"], "ann")
        feedback.add(store, Feedback(id="", created_at=0, request_id=names[0], score=1.0), None, anyones=True)
        releases.add(store, release("r1"))
        releases.promote(store, "r1", "ann")
        jobs.create(store, "manual", "ann", {"b": [1, None, {"c": 0.1}], "a": "ü"})
        yield store


@pytest.fixture
def target(postgres):
    with postgres_store(postgres) as store:
        yield store


def contents(store: Store) -> dict[str, list]:
    """All rows of all tables that move."""
    tables = [table for name, table in schema.metadata.tables.items() if name not in LEFT_OUT]
    with store.read() as connection:
        return {table.name: sorted(map(repr, connection.execute(sa.select(table)))) for table in tables}


def say_nothing(_table: str, _done: int, _total: int) -> None:
    return


def test_every_row_of_every_table_is_there_and_the_next_ones_follow(source, target):
    said: list[tuple[str, int, int]] = []
    moved = move(source, target, "here", lambda *told: said.append(told))
    assert contents(target) == contents(source)
    assert {each.table: each.rows for each in moved} == {name: len(rows) for name, rows in contents(source).items()}
    assert ("requests", 250, 250) in said
    assert count(target) == 250
    insert_records(target, [row("new")])
    jobs.create(target, "manual", "ben", {})
    assert next(entry["actor"] for entry in audit.entries(target)) == "ben"


def test_a_ledger_moves_from_postgresql_too_and_goes_on_where_it_ended(source, target, monkeypatch):
    monkeypatch.setattr(moving, "BATCH_OF_BODIES", 20)

    def cut(table: str, done: int, _total: int) -> None:
        if table == "contents" and done >= 60:
            raise KeyboardInterrupt

    move(source, target, "there", say_nothing)
    with sqlite_store() as back:
        with pytest.raises(KeyboardInterrupt):
            move(target, back, "and back", cut)
        begun: dict[str, int] = {}
        move(target, back, "and back", lambda table, done, _total: begun.setdefault(table, done))
        assert begun["contents"] == 60
        assert contents(back) == contents(target)
        insert_records(back, [row("new")])
        assert count(back) == 251


@pytest.mark.parametrize("after", [1, 3, 5])
def test_what_ended_halfway_goes_on_from_there(source, target, monkeypatch, after):
    monkeypatch.setattr(moving, "BATCH", 20)
    monkeypatch.setattr(moving, "BATCH_OF_BODIES", 20)

    class Cut(Exception):
        pass

    def cut(table: str, done: int, _total: int) -> None:
        if table == "contents" and done >= 20 * after:
            raise Cut

    with pytest.raises(Cut):
        move(source, target, "here", cut)
    begun: dict[str, int] = {}
    move(source, target, "here", lambda table, done, _total: begun.setdefault(table, done))
    assert begun["contents"] == 20 * after
    assert contents(target) == contents(source)


def test_a_table_that_changed_between_two_attempts_is_moved_anew(source, target, monkeypatch):
    def cut(table: str, _done: int, _total: int) -> None:
        if table == "usage_hourly":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        move(source, target, "here", cut)
    insert_records(source, [row("0 before all", cost_nano=7)])
    keys.revoke(source, "app", "eve")
    move(source, target, "here", say_nothing)
    assert contents(target) == contents(source)


def test_text_that_postgresql_does_not_take_is_mended_and_counted(source, target):
    with source.write() as connection:
        changed = sa.update(schema.requests).values(model="x\0" * 300, finish_reason="s\0top")
        connection.execute(changed.where(schema.requests.c.id.like("a%")))
        [changed_rows] = connection.execute(
            sa.select(sa.func.count()).where(schema.requests.c.model.like("x%"))
        ).one()
    moved = {each.table: each for each in move(source, target, "here", say_nothing)}
    assert moved["requests"].mended == changed_rows > 0
    with target.read() as connection:
        found = connection.execute(
            sa.select(schema.requests.c.model, schema.requests.c.finish_reason).distinct()
        ).all()
    assert ("x" * 200, "stop") in [tuple(each) for each in found]


def test_a_database_in_use_is_refused_and_stays_as_it_is(source, target):
    keys.create(target, "theirs", ["read"], "ben")
    before = contents(target)
    with pytest.raises(MoveError, match=r"in use .*keys"):
        move(source, target, "here", say_nothing)
    assert contents(target) == before


def test_two_ledgers_are_not_mixed(source, target):
    def cut(*_told) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        move(source, target, "here", cut)
    with pytest.raises(MoveError, match="another ledger"):
        move(source, target, "elsewhere", say_nothing)


def test_a_row_that_is_lost_on_the_way_is_found_out(source, target, monkeypatch):
    """The fault is a copy that leaves a row out, which nothing else causes."""
    behind = moving._behind

    def without_one(connection, table, last):
        return behind(connection, table, last).offset(1 if table.name == "jobs" else 0)

    monkeypatch.setattr(moving, "_behind", without_one)
    with pytest.raises(MoveError, match="jobs differs"):
        move(source, target, "here", say_nothing)


def test_a_table_is_read_in_as_many_statements_whatever_its_size(source, target, monkeypatch):
    """Asked for batch after batch in an order that no index of PostgreSQL has, it would be sorted as often."""
    monkeypatch.setattr(moving, "BATCH_OF_BODIES", 10)
    asked: list[str] = []
    for store in (source, target):
        sa.event.listen(store.engine, "before_cursor_execute", lambda *of: asked.append(of[2]))
    move(source, target, "here", say_nothing)
    assert sum("contents.body" in statement for statement in asked if statement.startswith("SELECT")) == 3


def test_the_content_of_a_request_is_read_from_where_it_moved(source, target):
    move(source, target, "here", say_nothing)
    with source.read() as connection:
        name = connection.execute(sa.select(schema.contents.c.request_id).limit(1)).scalar_one()
    assert get(target, name) == get(source, name)
