"""Requests: counted once, summed exactly, streamed for training once each, and their content expired alone."""

import dataclasses
import math
from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.ingest import REFUSALS
from ledger.records import Content
from ledger.requests import Usage, count, expire_contents, get, insert_records, latency_quantile, usage_by
from ledger.rollups import HOUR_MS, LATENCY_BUCKETS_MS
from ledger.trainable import stream_trainable
from tests.unit.ledger.rows import a_store, row

AMOUNT = st.integers(0, 10**15)
ROW = st.fixed_dictionaries(
    {
        "created_at": st.integers(0, 4 * HOUR_MS),
        "route": st.sampled_from(["student", "teacher"]),
        "reason": st.sampled_from(["confident", "hard", "explore"]),
        "release_id": st.sampled_from([None, "r1", "r2"]),
        "key_id": st.sampled_from([None, "k1"]),
        "status": st.sampled_from([200, 399, 400, 499, 500]),
        "prompt_tokens": AMOUNT,
        "completion_tokens": AMOUNT,
        "attempt_prompt_tokens": AMOUNT,
        "attempt_completion_tokens": AMOUNT,
        "cost_nano": AMOUNT,
        "baseline_nano": AMOUNT,
        "latency_ms": st.floats(0, 600_000),
        "content": st.none(),
    }
)
ROWS = st.lists(ROW, max_size=25).map(lambda many: [row(f"req_{i}", **values) for i, values in enumerate(many)])


def test_a_row_and_its_content_come_back_as_they_were_recorded(store):
    record = row("a", score=0.5, tags=["x"], first_token_ms=3.5, error_code=None, stream=True, key_id="k1")
    assert insert_records(store, [record]) == 1
    values, content = get(store, "a")
    assert content == record.content
    assert values == {name: getattr(record, name) for name in values}
    assert get(store, "b") is None


def test_a_record_that_comes_again_counts_once_and_changes_nothing(store):
    assert insert_records(store, [row("a", cost_nano=5), row("b"), row("a", cost_nano=5)]) == 2
    assert insert_records(store, [row("a", cost_nano=7, content=None), row("c")]) == 1
    assert insert_records(store, []) == 0
    assert count(store) == 3
    values, content = get(store, "a")
    assert values["cost_nano"] == 5
    assert content is not None
    assert usage_by(store, ["route"])[("teacher",)].cost_nano == 5


@settings(deadline=None, max_examples=20)
@given(ROWS, st.randoms(use_true_random=False))
def test_the_rollups_are_a_full_recount_to_the_nano_in_whatever_batches_rows_come(records, random):
    columns = ["hour", "route", "reason", "release_id", "key_id"]
    with a_store() as store:
        todo = records + random.sample(records, len(records) // 2)
        random.shuffle(todo)
        new = 0
        while todo:
            size = random.randint(1, len(todo))
            new += insert_records(store, todo[:size])
            todo = todo[size:]
        assert new == count(store) == len(records)
        assert count(store, "student") == sum(r.route == "student" for r in records)
        expected: dict[tuple[object, ...], list[int]] = defaultdict(lambda: [0] * 6)
        for r in records:
            key = (r.created_at // HOUR_MS * HOUR_MS, r.route, r.reason, r.release_id or "", r.key_id or "")
            prompt = r.prompt_tokens + r.attempt_prompt_tokens
            completion = r.completion_tokens + r.attempt_completion_tokens
            added = (1, r.status >= 400, prompt, completion, r.cost_nano, r.baseline_nano)
            expected[key] = [a + b for a, b in zip(expected[key], added, strict=True)]
        assert usage_by(store, columns) == {key: Usage(*sums) for key, sums in expected.items()}
        whole = usage_by(store, []).get((), Usage())
        assert dataclasses.astuple(whole) == tuple(map(sum, zip(*expected.values(), strict=True))) or (0,) * 6


def test_usage_since_a_time_counts_from_the_beginning_of_its_hour(store):
    insert_records(store, [row(f"r{hour}", created_at=hour * HOUR_MS + 1) for hour in range(5)])
    assert usage_by(store, ["route"], since=2 * HOUR_MS + 1_800_000)[("teacher",)].requests == 3
    assert usage_by(store, ["route"], since=9 * HOUR_MS) == {}


@pytest.mark.parametrize(
    ("usage", "saving"),
    [
        pytest.param(Usage(), 0.0, id="nothing asked"),
        pytest.param(Usage(cost_nano=25, baseline_nano=100), 0.75, id="three quarters"),
        pytest.param(Usage(cost_nano=150, baseline_nano=100), -0.5, id="a loss"),
    ],
)
def test_the_saving_is_the_share_of_the_baseline_that_was_not_spent(usage, saving):
    assert usage.saving == pytest.approx(saving)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.floats(0, 600_000), min_size=1, max_size=40), st.floats(0.01, 1))
def test_a_latency_quantile_lies_in_the_bucket_of_the_true_one(latencies, q):
    with a_store() as store:
        insert_records(store, [row(f"r{i}", latency_ms=ms, content=None) for i, ms in enumerate(latencies)])
        true = sorted(latencies)[max(0, math.ceil(q * len(latencies)) - 1)]
        high = next(le for le in LATENCY_BUCKETS_MS if true <= le)
        low = max((le for le in LATENCY_BUCKETS_MS if le < high), default=0)
        assert low <= latency_quantile(store, "teacher", q) <= high


def test_a_latency_beyond_the_last_bucket_is_counted_in_it(store):
    insert_records(store, [row("slow", latency_ms=10_000_000.0)])
    assert 60_000 < latency_quantile(store, "teacher", 0.5) <= 600_000


def test_a_route_without_requests_has_no_latency(store):
    insert_records(store, [row("a", created_at=HOUR_MS)])
    assert latency_quantile(store, "student", 0.5) is None
    assert latency_quantile(store, "teacher", 0.5, since=5 * HOUR_MS) is None


NOT_TRAINED_ON = {
    "opted out": {"trainable": False},
    "failed": {"status": 500},
    "left by its client": {"status": 499},
    "of the student": {"route": "student"},
    "cut off": {"finish_reason": "length"},
    "a tool call": {"finish_reason": "tool_calls"},
    "without an end": {"finish_reason": None},
    "without content": {"content": None},
}


@pytest.mark.parametrize("batch", [1, 3, 7, 1_000])
def test_rows_are_streamed_once_each_over_many_batches_of_equal_times(store, batch):
    records = [row(f"req_{i:03d}", created_at=1_000 + i // 8) for i in range(24)]
    refused = [
        row(f"req_{i:03d}x", created_at=1_000 + i, **values) for i, values in enumerate(NOT_TRAINED_ON.values())
    ]
    insert_records(store, [*reversed(records), *refused])
    found = list(stream_trainable(store, batch=batch))
    assert [values["id"] for values, _ in found] == [record.id for record in records]
    assert [content for _, content in found] == [record.content for record in records]


@pytest.mark.parametrize("values", NOT_TRAINED_ON.values(), ids=NOT_TRAINED_ON)
def test_a_row_that_may_not_be_trained_on_is_not_streamed(store, values):
    insert_records(store, [row("refused", **values), row("taken")])
    assert [found["id"] for found, _ in stream_trainable(store)] == ["taken"]


def test_a_stream_since_a_time_has_the_rows_of_that_very_time(store):
    insert_records(store, [row(f"r{i}", created_at=i) for i in range(5)])
    assert [values["id"] for values, _ in stream_trainable(store, since=3)] == ["r3", "r4"]


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(0, 3), max_size=20), st.integers(1, 6))
def test_any_pile_up_of_times_is_streamed_in_order_once(times, batch):
    with a_store() as store:
        insert_records(store, [row(f"r{i:02d}", created_at=at) for i, at in enumerate(times)])
        found = [(values["created_at"], values["id"]) for values, _ in stream_trainable(store, batch=batch)]
        assert found == sorted((at, f"r{i:02d}") for i, at in enumerate(times))


def test_expiry_deletes_old_content_and_keeps_rows_and_sums(store):
    insert_records(store, [row(f"r{i}", created_at=i, cost_nano=1) for i in range(10)])
    before = usage_by(store, ["route"])
    assert expire_contents(store, before=4) == 4
    assert expire_contents(store, before=4) == 0
    kept = Counter(get(store, f"r{i}")[1] is not None for i in range(10))
    assert kept == {True: 6, False: 4}
    assert usage_by(store, ["route"]) == before
    assert len(list(stream_trainable(store))) == 6


def test_a_record_that_comes_again_after_its_content_expired_does_not_bring_it_back(store):
    insert_records(store, [row("a")])
    expire_contents(store, before=2_000)
    insert_records(store, [row("a")])
    assert get(store, "a")[1] is None


def test_a_batch_with_one_row_the_store_cannot_hold_leaves_nothing_half_done(store):
    with pytest.raises(REFUSALS):
        insert_records(store, [row("good", content=Content(messages=[])), row("bad", prompt_tokens=2**63)])
    assert count(store) == 0
    assert get(store, "good") is None
