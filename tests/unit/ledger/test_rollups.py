"""The rollups are what a recount of the requests gives, however these come in, and after a migration too."""

import re

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.ledger.recount import differences, kept, total_differences
from ledger import feedback, migrations, schema
from ledger import overview_figures as figures
from ledger.overview_figures import DIMENSIONS, Span
from ledger.replays import REPLAY, tag_of
from ledger.requests import Usage, insert_records
from ledger.rollups import DAY_MS, HOUR_MS, periods, quantile
from tests.unit.ledger.rows import a_store, plan_of, row, sorts

AMOUNT = st.integers(0, 10**15)
TAGS = st.lists(st.sampled_from(["a", "b", "", "\0b", "x" * 250, tag_of("req_1")]), max_size=4)
VALUES = st.fixed_dictionaries(
    {
        "created_at": st.integers(0, 3 * DAY_MS) | st.sampled_from([0, HOUR_MS, DAY_MS, DAY_MS - 1]),
        "route": st.sampled_from(["student", "teacher"]),
        "reason": st.sampled_from(["confident", "hard", "explore", "imported", REPLAY]),
        "release_id": st.sampled_from([None, "r1"]),
        "key_id": st.sampled_from([None, "k1", "k2"]),
        "model": st.sampled_from(["auto", "gpt"]),
        "status": st.sampled_from([200, 399, 400, 500]),
        "tags": TAGS,
        "prompt_tokens": AMOUNT,
        "attempt_completion_tokens": AMOUNT,
        "cost_nano": AMOUNT,
        "baseline_nano": AMOUNT,
        "latency_ms": st.floats(0, 10**7),
        "first_token_ms": st.none() | st.floats(0, 10**7) | st.sampled_from([5.0, 600_000.0]),
        "content": st.none(),
    }
)
ROWS = st.lists(VALUES, max_size=12).map(lambda many: [row(f"req_{i}", **values) for i, values in enumerate(many)])
EVERYTHING = (0, 10 * DAY_MS)


def migrate(store, revision: str, move=command.upgrade) -> None:
    config = Config()
    config.set_main_option("script_location", migrations.__path__[0])
    with store.write() as connection:
        config.attributes["connection"] = connection
        move(config, revision)


@settings(deadline=None, max_examples=12)
@given(ROWS, st.randoms(use_true_random=False))
def test_the_rollups_are_a_recount_whatever_comes_late_or_twice_and_is_corrected(records, random):
    """Late: batches are in no order of time. Twice: alone, or with others, and then with other amounts."""
    with a_store() as store:
        again = [row(record.id, created_at=9, cost_nano=7) for record in random.sample(records, len(records) // 2)]
        todo = [*records]
        random.shuffle(todo)
        todo += again
        while todo:
            size = random.randint(1, len(todo))
            insert_records(store, todo[:size])
            todo = todo[size:]
        assert differences(store, *EVERYTHING) == []
        assert total_differences(store) == []


def test_the_totals_tell_which_table_is_out_by_one(store):
    insert_records(store, [row("a", cost_nano=5), row("b", route="student", created_at=2 * DAY_MS, cost_nano=7)])
    assert total_differences(store) == []
    by = schema.usage_rollups
    with store.write() as connection:
        connection.execute(
            sa.update(by).where(by.c.step_ms == DAY_MS, by.c.route == "teacher").values(cost_nano=by.c.cost_nano + 1)
        )
    (told,) = total_differences(store)
    assert told.startswith("usage_rollups by day: ")


def test_a_correction_changes_no_sum(store):
    insert_records(store, [row("a", cost_nano=5, key_id="k", tags=["t"])])
    before = kept(store, *EVERYTHING)
    said = feedback.Feedback(id="", created_at=0, request_id="a", score=0.0, correction="right")
    feedback.add(store, said, "k", anyones=False)
    assert kept(store, *EVERYTHING) == before


@settings(deadline=None, max_examples=4)
@given(ROWS)
def test_a_migration_up_counts_what_is_there_and_down_and_up_again_too(records):
    with a_store() as store:
        insert_records(store, records)
        before = kept(store, *EVERYTHING)
        for _ in range(2):
            migrate(store, "0004", command.downgrade)
            migrate(store, "head")
            assert kept(store, *EVERYTHING) == before
        insert_records(store, [row("new", tags=["a"])])
        assert differences(store, *EVERYTHING) == []


def test_a_migration_reads_more_rows_than_it_holds_at_once(store):
    # as many at one time as a batch takes, and more: the next one begins in their midst
    insert_records(store, [row(f"r{i:05}", created_at=i // 10_500, tags=["t"], content=None) for i in range(21_000)])
    before = kept(store, *EVERYTHING)
    migrate(store, "0004", command.downgrade)
    migrate(store, "head")
    assert kept(store, *EVERYTHING) == before
    assert figures.usage_in(store, Span(0, HOUR_MS), ["tag"])[("t",)].requests == 21_000


@settings(max_examples=200)
@given(st.integers(0, 6 * DAY_MS), st.integers(0, 6 * DAY_MS))
def test_the_periods_of_a_span_are_its_hours_once_each(since, length):
    found = periods(since, since + length)
    hours = [hour for _, first, end in found for hour in range(first, end, HOUR_MS)]
    assert hours == list(range(since // HOUR_MS * HOUR_MS, since + length, HOUR_MS))
    assert all(first % step == 0 and end % step == 0 for step, first, end in found)
    assert sum((end - first) // step for step, first, end in found) <= 23 + 23 + length // DAY_MS + 1


@settings(deadline=None, max_examples=8)
@given(ROWS, st.integers(0, 3 * DAY_MS), st.integers(1, 3 * DAY_MS))
def test_every_grouping_of_any_span_adds_up_to_the_hours_of_it(records, since, length):
    span = Span(since, since + length)
    with a_store() as store:
        insert_records(store, records)
        whole = total(figures.usage_over_time(store, span))
        for dimension in DIMENSIONS:
            found = figures.usage_in(store, span, ["route", dimension])
            if dimension != "tag":
                assert total(found) == whole
            by_value = figures.usage_in(store, span, [dimension])
            assert total(found) == total(by_value)
        assert total(figures.usage_in(store, span, ["route"])) == whole


def total(usage) -> tuple[int, ...]:
    sums = [
        (u.requests, u.errors, u.prompt_tokens, u.completion_tokens, u.cost_nano, u.baseline_nano)
        for u in usage.values()
    ]
    return tuple(map(sum, zip(*sums, strict=True))) if sums else (0,) * 6


def test_a_request_counts_under_each_of_its_tags_once_and_without_any_under_the_empty_one(store):
    insert_records(
        store,
        [
            row("two", tags=["a", "b", "a"], cost_nano=5),
            row("one", tags=["b"], cost_nano=7),
            row("none", cost_nano=11),
            row("again", tags=[tag_of("two"), "b"], reason=REPLAY, cost_nano=13),
        ],
    )
    found = figures.usage_in(store, Span(0, HOUR_MS), ["tag"])
    assert {tag: (each.requests, each.cost_nano) for (tag,), each in found.items()} == {
        "": (1, 11),
        "a": (1, 5),
        "b": (3, 25),
    }


def test_models_are_summed_apart(store):
    insert_records(store, [row(f"{name}{i}", model=name) for name, n in (("gpt", 2), ("auto", 3)) for i in range(n)])
    found = figures.usage_in(store, Span(0, HOUR_MS), ["model"])
    assert found == {("auto",): Usage(requests=3), ("gpt",): Usage(requests=2)}


@pytest.mark.parametrize("q", [0.01, 0.5, 1.0])
def test_a_histogram_without_requests_has_no_quantile(q):
    assert quantile([], q) is None
    assert quantile([(5, 0)], q) is None


def test_a_long_range_is_read_by_the_primary_key(store):
    """Three spans of one dimension: each is found in the tree, and nothing is scanned."""
    insert_records(store, [row("a")])
    seen: list[tuple[str, tuple]] = []

    def note(_connection, _cursor, text, values, *_rest):
        seen.append((text, values))

    sa.event.listen(store.engine, "before_cursor_execute", note)
    figures.usage_in(store, Span(HOUR_MS, 40 * DAY_MS + HOUR_MS), ["tag"])
    sa.event.remove(store.engine, "before_cursor_execute", note)
    ((text, values),) = [each for each in seen if "usage_rollups" in each[0]]
    with store.read() as connection:
        plan = plan_of(connection.connection.cursor(), text, values, bitmaps=True)
    if store.engine.dialect.name == "sqlite":
        assert "SCAN" not in plan
        assert plan.count("dimension=? AND step_ms=? AND at>? AND at<?") == 3, plan
    else:
        # how many looks into the index it takes is the planner's affair, by how many rows there are
        assert "Seq Scan" not in plan
        assert re.search(r"Index Cond: \(+dimension\)", plan), plan


def test_the_pages_of_requests_are_walked_along_an_index(store):
    table = schema.requests
    newest = sa.select(table).order_by(table.c.created_at.desc(), table.c.id.desc()).limit(50)
    for statement, index in (
        (newest, "created_at_id"),
        (newest.where(table.c.route == "student"), "route_created_at_id"),
    ):
        text = str(statement.compile(store.engine, compile_kwargs={"literal_binds": True}))
        with store.read() as connection:
            plan = plan_of(connection.connection.cursor(), text)
        assert f"ix_requests_{index}" in plan
        assert not sorts(plan)
