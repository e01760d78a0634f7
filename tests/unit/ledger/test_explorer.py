"""The explorer: each filter takes what it says, and pages put together are one reading from the newest on."""

import itertools
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import audit, explorer, schema
from ledger.explorer import Filters, Page, Place, Wanted
from ledger.explorer_query import QueryError, read_filters, read_wanted
from ledger.records import Content, RequestRecord
from ledger.requests import insert_records
from ledger.store import Store
from tests.unit.ledger.rows import a_store, plan_of, row, sorts


def ids(found: Page) -> list[str]:
    return [each["id"] for each in found.rows]


def pages(store: Store, filters: Filters, limit: int, window: int | None = None) -> Iterator[Page]:
    """All of them, by going on from each."""
    before: Place | None = None
    for _ in range(200):
        found = explorer.page(store, filters, Wanted(before, limit, window))
        yield found
        if found.next is None:
            return
        before = Place.read(str(found.next))
    raise AssertionError("the pages do not end")


def said(text: str, answer: str = "fine", **more: Any) -> Content:
    return Content(messages=[{"role": "user", "content": text}], answer=answer, **more)


KINDS: dict[str, dict[str, Any]] = {
    "a": {"route": "student", "reason": "confident", "key_id": "key_1", "model": "auto", "score": 0.9},
    "b": {"route": "student", "reason": "pinned", "key_id": "key_2", "model": "student", "tags": ["Shop", "x"]},
    "c": {"route": "teacher", "reason": "hard", "status": 429, "finish_reason": None, "score": 0.25},
    "d": {"route": "teacher", "reason": "hard", "status": 502, "release_id": "r1", "tags": ['say "x"', "shop"]},
    "e": {"content": said("Where is my ORDER?"), "finish_reason": "length", "tags": ["100%", "größe"]},
    "f": {
        "content": said("x", "Straße", tool_calls=[{"function": {"name": "find", "arguments": '{"q": "zürich"}'}}])
    },
    "g": {"content": said("y", student_answer="a guess"), "created_at": 5_000},
    "h": {"content": None, "created_at": 6_000},
}
TAKEN: list[tuple[dict[str, Any], str]] = [
    ({}, "hgfedcba"),
    ({"since": 5_000}, "hg"),
    ({"since": 1_000, "until": 6_000}, "gfedcba"),
    ({"id": "c"}, "c"),
    ({"id": "c", "route": "student"}, ""),
    ({"key": "key_1"}, "a"),
    ({"route": "student"}, "ba"),
    ({"reason": "hard"}, "hgfedc"),
    ({"status": "ok"}, "hgfeba"),
    ({"status": "error"}, "dc"),
    ({"status": "429"}, "c"),
    ({"finish": "length"}, "e"),
    ({"model": "student"}, "b"),
    ({"release": "r1"}, "d"),
    ({"tag": "x"}, "b"),
    ({"tag": "Shop"}, "b"),
    ({"tag": "shop"}, "d"),
    ({"tag": 'say "x"'}, "d"),
    ({"tag": "100%"}, "e"),
    ({"tag": "größe"}, "e"),
    ({"tag": "sho"}, ""),
    ({"score_min": 0.25, "score_max": 0.9}, "ca"),
    ({"score_min": 0.3}, "a"),
    ({"score_max": 0.3}, "c"),
    ({"text": "my order"}, "e"),
    ({"text": "STRASSE"}, "f"),
    ({"text": "zürich"}, "f"),
    ({"text": "A Guess"}, "g"),
    ({"text": "user"}, ""),
    ({"text": "question", "route": "student"}, "ba"),
    ({"text": "question", "status": "429", "reason": "hard"}, "c"),
]


@pytest.fixture(scope="module")
def filled() -> Iterator[Store]:
    with a_store() as store:
        insert_records(store, [row(name, **values) for name, values in KINDS.items()])
        yield store


@pytest.mark.parametrize(("filters", "taken"), TAKEN, ids=str)
@pytest.mark.parametrize("limit", [1, 2, 100])
def test_each_filter_takes_what_it_says_newest_first(filled: Store, filters: dict[str, Any], taken: str, limit: int):
    found = [ids(each) for each in pages(filled, Filters(**filters), limit)]
    assert "".join(itertools.chain(*found)) == taken
    assert all(len(each) <= limit for each in found)


def test_every_filter_is_tried():
    assert {name for filters, _ in TAKEN for name in filters} == {field.name for field in fields(Filters)}


ROWS = st.lists(
    st.tuples(
        st.integers(0, 12),
        st.sampled_from(["student", "teacher"]),
        st.sampled_from(["hard", "confident"]),
        st.sampled_from([200, 429, 500]),
        st.none() | st.sampled_from([0.0, 0.5, 1.0]),
        st.sampled_from([[], ["t"], ["t", "u"]]),
        st.sampled_from([None, "a needle here", "hay"]),
    ),
    max_size=25,
)
SOME = st.builds(
    Filters,
    since=st.none() | st.integers(0, 12),
    until=st.none() | st.integers(0, 12),
    route=st.sampled_from(["", "", "student"]),
    reason=st.sampled_from(["", "", "hard"]),
    status=st.sampled_from(["", "", "ok", "error", "429"]),
    tag=st.sampled_from(["", "", "u"]),
    score_min=st.none() | st.just(0.5),
    text=st.sampled_from(["", "", "Needle"]),
)


def takes(filters: Filters, record: RequestRecord) -> bool:
    """The same by plain reading."""
    text = record.content.messages[0]["content"] if record.content else None
    return all((
        filters.since is None or record.created_at >= filters.since,
        filters.until is None or record.created_at < filters.until,
        filters.route in ("", record.route),
        filters.reason in ("", record.reason),
        filters.status in ("", str(record.status), "ok" if record.status < 400 else "error"),
        not filters.tag or filters.tag in record.tags,
        filters.score_min is None or (record.score is not None and record.score >= filters.score_min),
        not filters.text or (text is not None and filters.text.casefold() in text),
    ))  # fmt: skip


@pytest.fixture(scope="module")
def reused() -> Iterator[Store]:
    with a_store() as store:
        yield store


def only(store: Store, records: list[RequestRecord]) -> None:
    """What is in the store from now on."""
    with store.write() as connection:
        for table in (schema.requests, schema.contents):
            connection.execute(sa.delete(table))
    insert_records(store, records)


@settings(deadline=None, max_examples=150)
@given(rows=ROWS, filters=SOME, limit=st.integers(1, 5), window=st.none() | st.integers(1, 6))
def test_pages_put_together_are_one_reading(reused, rows, filters, limit, window):
    records = [
        row(f"r{i:02d}", created_at=at, route=route, reason=reason, status=status, score=score, tags=tags,
            content=said(text, "") if text else None)
        for i, (at, route, reason, status, score, tags, text) in enumerate(rows)
    ]  # fmt: skip
    only(reused, records)
    found = list(pages(reused, filters, limit, window))
    whole = sorted(records, key=lambda record: (record.created_at, record.id), reverse=True)
    assert [each for one in found for each in ids(one)] == [each.id for each in whole if takes(filters, each)]


ODD = st.text(st.sampled_from('aA "\\\n\x1fß\u017f/é'), min_size=1, max_size=12) | st.text(min_size=1, max_size=12)


@settings(deadline=None, max_examples=100)
@given(text=ODD, data=st.data())
def test_any_part_of_what_was_said_is_found_in_whatever_case(reused, text, data):
    begin = data.draw(st.integers(0, len(text) - 1))
    part = text[begin : data.draw(st.integers(begin + 1, len(text)))]
    only(reused, [row("a", content=said(text, ""))])
    for needle in (part, part.swapcase() if part.isascii() else part.casefold()):
        assert ids(explorer.page(reused, Filters(text=needle), Wanted())) == ["a"], needle


def test_a_row_that_comes_meanwhile_is_not_in_the_pages_after_and_moves_none_of_them(store):
    insert_records(store, [row(f"r{i}", created_at=i) for i in range(10)])
    first = explorer.page(store, Filters(), Wanted(limit=4))
    insert_records(store, [row("new", created_at=99)])
    assert ids(explorer.page(store, Filters(), Wanted(first.next, 4))) == ["r5", "r4", "r3", "r2"]


def test_a_search_that_finds_little_says_how_far_it_looked_and_goes_on_from_there(store):
    insert_records(store, [row(f"r{i:03d}", created_at=i) for i in range(100)])
    insert_records(store, [row("old", created_at=3, key_id="key_9")])
    first, *others = pages(store, Filters(key="key_9"), 5, window=30)
    assert (first.rows, first.looked, first.next) == ([], 30, Place(70, ""))
    assert [len(each.rows) for each in others] == [0, 0, 1]
    assert others[-1].next is None


def test_without_a_filter_that_needs_it_nothing_is_looked_through(store):
    insert_records(store, [row(f"r{i}", created_at=i) for i in range(9)])
    found = explorer.page(store, Filters(route="teacher", since=2), Wanted(limit=3, window=1))
    assert (ids(found), found.looked) == (["r8", "r7", "r6"], None)


@pytest.mark.parametrize("filters", [Filters(), Filters(route="teacher"), Filters(key="k"), Filters(text="x")])
def test_no_page_sorts_the_table(store, filters):
    """Whichever filters: the order is an index's."""
    insert_records(store, [row(f"r{i}", created_at=i) for i in range(9)])
    plans: list[str] = []

    def explain(connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith("SELECT"):
            plans.append(plan_of(connection.connection.cursor(), statement, parameters))

    sa.event.listen(store.engine, "before_cursor_execute", explain)
    explorer.page(store, filters, Wanted(Place(8, "r8"), 3))
    sa.event.remove(store.engine, "before_cursor_execute", explain)
    assert plans
    assert all("INDEX" in plan.upper() for plan in plans)
    has_indexes = any("id" in [c.name for c in index.columns] for index in schema.requests.indexes)
    assert not has_indexes or not any(sorts(plan) for plan in plans), plans


def test_content_that_cannot_be_read_is_passed_over(store):
    insert_records(store, [row("a", content=said("needle")), row("b", content=said("needle"))])
    with store.write() as connection:
        broken = sa.update(schema.contents).where(schema.contents.c.request_id == "a").values(body=b"not zstd")
        connection.execute(broken)
    assert ids(explorer.page(store, Filters(text="needle"), Wanted())) == ["b"]


def test_a_search_is_in_the_audit_without_what_was_searched_for(store):
    insert_records(store, [row("a")])
    filters = Filters(text="question")
    explorer.note_search(store, "key_1", filters, explorer.page(store, filters, Wanted()))
    (entry,) = audit.entries(store)
    assert (entry["actor"], entry["action"]) == ("key_1", "content.search")
    assert entry["detail"] == {"found": 1, "looked": 1, "characters": 8}


def test_filters_are_read_from_an_address():
    query = {"since": "5", "route": "student", "score_min": " 0.5 ", "tag": "a b", "status": "429", "reason": ""}
    assert read_filters(query) == Filters(since=5, route="student", score_min=0.5, tag="a b", status="429")
    assert read_filters({"range": "7d"}) == Filters()
    assert read_wanted({}, 20) == Wanted(limit=20)
    assert read_wanted({"before": "17-req_a-b", "limit": "3"}, 20) == Wanted(Place(17, "req_a-b"), 3)


BAD = [
    {"since": "yesterday"}, {"since": "-1"}, {"until": str(2**63)}, {"score_min": "nan"}, {"score_max": "1.1"},
    {"status": "4xx"}, {"status": "4²9"}, {"route": "auto"}, {"text": "x" * 201}, {"key": "a\0"},
    {"before": "x"}, {"before": "1"}, {"before": f"{10**19}-a"}, {"before": "1-a\0"}, {"limit": "0"},
    {"limit": "501"}, {"limit": "x"},
]  # fmt: skip


@pytest.mark.parametrize("query", BAD, ids=str)
def test_a_parameter_that_cannot_be_read_is_named(query: dict[str, str]):
    with pytest.raises(QueryError) as error:
        read_filters(query)
        read_wanted(query, 20)
    assert error.value.field == next(iter(query))


@given(st.integers(0, 10**15), st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=64))
def test_a_place_is_read_as_it_was_written(at, request_id):
    place = Place(at, request_id)
    assert Place.read(str(place)) == place
    assert replace(place, id="") == Place(at, "")
