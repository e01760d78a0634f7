"""Whose content it is: found among any number of minutes, by the indexes, before and after a migration."""

import pytest
import sqlalchemy as sa
from alembic import command
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import schema
from ledger.owners import requests_of
from ledger.records import Content
from ledger.replays import REPLAY, replays_of, tag_of
from ledger.requests import expire_contents, insert_records
from ledger.store import Store
from tests.unit.ledger.rows import a_store, row
from tests.unit.ledger.test_store import migrate

MINUTE_MS = 60_000
TIMES = st.integers(0, 5 * MINUTE_MS) | st.integers(0, 400 * MINUTE_MS)
ROWS = st.lists(
    st.tuples(TIMES, st.sampled_from(["ann", "bob", ""]), st.sampled_from(["hello", "other"])), max_size=12
)


def said(request_id: str, text: str, user: str, **values: object):
    parameters = {"user": user} if user else {}
    messages = [{"role": "user", "content": text}]
    return row(request_id, content=Content(messages=messages, parameters=parameters), **values)


def found(store: Store, statement: sa.Select[str]) -> set[str]:
    with store.read() as connection:
        return set(connection.execute(statement).scalars())


@settings(deadline=None, max_examples=15)
@given(ROWS)
def test_what_is_somebodys_is_found_in_whatever_minutes_it_lies(rows):
    with a_store() as store:
        insert_records(store, [said(f"r{i}", text, user, created_at=at) for i, (at, user, text) in enumerate(rows)])
        for column, part in (("user_id", 1), ("conversation_id", 2)):
            owner = dict(found_owners(store, column))
            for name in {each[part] for each in rows} - {""}:
                mine = {f"r{i}" for i, each in enumerate(rows) if each[part] == name}
                assert found(store, requests_of(column, [owner[min(mine)]])) == mine
        assert found(store, requests_of("user_id", ["nobody"])) == set()


def found_owners(store: Store, column: str):
    contents = schema.contents
    with store.read() as connection:
        return connection.execute(sa.select(contents.c.request_id, contents.c[column])).all()


def test_an_index_of_old_content_is_made_when_a_ledger_is_brought_up_to_date(store):
    insert_records(store, [said(f"r{i}", f"q{i % 3}", "ann", created_at=i * MINUTE_MS) for i in range(9)])
    insert_records(store, [said("again", "q0", "", reason=REPLAY, tags=[tag_of("r0")])])
    owner = dict(found_owners(store, "conversation_id"))["r0"]
    for _ in range(2):
        migrate(store, "0007", command.downgrade)
        migrate(store, "head")
    assert found(store, requests_of("conversation_id", [owner])) == {"r0", "r3", "r6", "again"}
    assert replays_of(store, ["r0"]) == ["again"]
    assert expire_contents(store, before=4 * MINUTE_MS + 1) == 6


OWNERLESS = sa.select(schema.contents.c.request_id).where(
    schema.contents.c.conversation_id.is_(None), schema.contents.c.request_id > "a"
)


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        pytest.param(requests_of("conversation_id", ["a", "b"]), "minute_conversation_id", id="conversation"),
        pytest.param(requests_of("user_id", ["a"]), "minute_user_id", id="user"),
        pytest.param(OWNERLESS.order_by("request_id"), "ownerless", id="nobody's yet"),
    ],
)
def test_no_search_for_an_owner_reads_all_content(sqlite_only, statement, index):
    text = str(statement.compile(sqlite_only.engine, compile_kwargs={"literal_binds": True}))
    with sqlite_only.read() as connection:
        plan = [line[3] for line in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}")]
    assert not [step for step in plan if step.startswith("SCAN contents") and "USING" not in step], plan
    assert [step for step in plan if f"ix_contents_{index}" in step], plan


def test_expiry_and_replays_are_found_by_their_indexes(sqlite_only):
    insert_records(sqlite_only, [said("a", "x", ""), said("r", "x", "", reason=REPLAY, tags=[tag_of("a")])])
    plans: list[str] = []

    def explain(connection, _cursor, statement, parameters, *_):
        if statement.startswith(("SELECT", "DELETE")):
            plan = connection.connection.cursor().execute(f"EXPLAIN QUERY PLAN {statement}", parameters).fetchall()
            plans.append(" / ".join(step[-1] for step in plan))

    sa.event.listen(sqlite_only.engine, "before_cursor_execute", explain)
    assert replays_of(sqlite_only, ["a"]) == ["r"]
    assert expire_contents(sqlite_only, before=2_000) == 2
    sa.event.remove(sqlite_only.engine, "before_cursor_execute", explain)
    assert "ix_requests_replays" in plans[0]
    assert "ix_contents_minute" in plans[1]
    assert "SCAN contents" not in plans[1]
