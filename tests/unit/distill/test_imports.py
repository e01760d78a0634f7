"""Import of history: the shapes that others export, once each, whatever else is in the file."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.imports import Imported, ImportOptions, import_files
from ledger import erasure, schema
from ledger.prices import Price
from ledger.requests import count, get, insert_records, latency_quantile, usage_by
from ledger.spending import Spent, spent_by
from ledger.store import Store, open_store, sqlite_url
from ledger.trainable import stream_trainable
from tests.unit.ledger.rows import a_store, row

ASKED = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where is my card?"}]
LOGPROBS = [{"token": "In", "bytes": [73, 110], "logprob": -0.1, "top_logprobs": [{"token": "In", "logprob": -0.1}]}]


@pytest.fixture
def store(tmp_path: Path):
    opened = open_store(sqlite_url(tmp_path))
    yield opened
    opened.close()


def lines(path: Path, *objects: Any, at: float = 1_700_000_000.0) -> Path:
    path.write_text("".join(f"{each if isinstance(each, str) else json.dumps(each)}\n" for each in objects))
    os.utime(path, (at, at))
    return path


def load(store: Store, *paths: Path, **options: Any) -> Imported:
    return import_files(store, paths, ImportOptions(**options), lambda _: None)


def only(store: Store) -> tuple[dict[str, Any], Any]:
    ((values, content),) = stream_trainable(store)
    return values, content


def example(answer: str = "In the post.", **more: Any) -> dict[str, Any]:
    return {"messages": [*ASKED, {"role": "assistant", "content": answer}], **more}


def completion(answer: str = "In the post.", number: int = 1, **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": answer, "refusal": None}
    return {
        "object": "chat.completion",
        "id": f"chatcmpl-{number}",
        "model": "gpt-4o-2024-08-06",
        "created": 1_738_960_610,
        "request_id": f"req_{number}",
        "choices": [
            {"index": 0, "message": message, "finish_reason": "stop", "logprobs": {"content": LOGPROBS}},
        ],
        "usage": {
            "prompt_tokens": 100,
            "completion_tokens": 10,
            "total_tokens": 110,
            "prompt_tokens_details": {"cached_tokens": 40},
        },
        "temperature": 0.5,
        "tools": None,
        "metadata": {"task": "cards"},
        "input_user": "ann",
        **more,
    }


def test_a_fine_tuning_example_is_an_answer_of_the_teachers(store, tmp_path):
    done = load(
        store, lines(tmp_path / "a.jsonl", example(parallel_tool_calls=False)), model="gpt-4o", key_id="key_1"
    )
    assert (done.lines, done.imported, done.bad) == (1, 1, 0)
    values, content = only(store)
    assert values["id"].startswith("imp_")
    assert (values["route"], values["reason"], values["propensity"]) == ("teacher", "imported", 1.0)
    assert (values["model"], values["key_id"], values["created_at"]) == ("gpt-4o", "key_1", 1_700_000_000_000)
    assert (content.messages, content.answer) == (ASKED, "In the post.")
    assert content.parameters == {"parallel_tool_calls": False}


def test_an_example_that_ends_in_a_tool_call_keeps_it(store, tmp_path):
    call = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": "{}"}}
    line = {"messages": [*ASKED, {"role": "assistant", "tool_calls": [call]}], "tools": [{"type": "function"}]}
    load(store, lines(tmp_path / "a.jsonl", line))
    (request_id,) = ids(store)
    values, content = get(store, request_id)
    assert (values["finish_reason"], content.tool_calls, content.answer) == ("tool_calls", [call], "")
    assert content.parameters == {"tools": [{"type": "function"}]}


def ids(store: Store) -> list[str]:
    with store.read() as connection:
        return list(connection.execute(sa.select(schema.requests.c.id).order_by(schema.requests.c.id)).scalars())


@pytest.mark.parametrize(
    "line",
    [
        {"messages": [*ASKED, {"role": "assistant", "content": "x", "weight": 0}]},
        example(weight=0),
        {"request": {"messages": ASKED, "store": False}, "response": completion()},
    ],
)
def test_what_is_not_to_be_learned_from_is_kept_and_not_trained_on(store, tmp_path, line):
    assert load(store, lines(tmp_path / "a.jsonl", line)).not_trainable == 1
    assert list(stream_trainable(store)) == []
    assert count(store) == 1


LISTED = {"object": "list", "data": [{"id": f"chatcmpl-1-{i}", "name": None, **m} for i, m in enumerate(ASKED)]}
STORED = {
    "with its messages": completion(messages=ASKED),
    "with its messages and the answer": completion(
        messages=[*ASKED, {"role": "assistant", "content": "In the post."}]
    ),
    "with its messages as they are listed": completion(messages=LISTED),
    "with its input": completion(input=ASKED),
    "beside its messages": {"completion": completion(), "messages": LISTED["data"]},
    "in a page of a listing": {"object": "list", "data": [completion(messages=ASKED)], "has_more": False},
}


@pytest.mark.parametrize("line", STORED.values(), ids=STORED)
def test_a_stored_completion_comes_with_its_time_cost_and_logprobs(store, tmp_path, line):
    price = Price(input=2.5, output=10.0, cached_input=1.25)
    done = load(store, lines(tmp_path / "a.jsonl", line), price=price)
    assert (done.imported, done.with_logprobs, done.bad_lines) == (1, 1, [])
    values, content = only(store)
    assert (values["created_at"], values["model"]) == (1_738_960_610_000, "gpt-4o-2024-08-06")
    assert (values["prompt_tokens"], values["cached_tokens"], values["completion_tokens"]) == (100, 40, 10)
    assert values["cost_nano"] == values["baseline_nano"] == done.cost_nano == 150_000 + 50_000 + 100_000
    assert (content.messages, content.answer, content.teacher_logprobs) == (ASKED, "In the post.", LOGPROBS)
    assert content.parameters == {"temperature": 0.5, "metadata": {"task": "cards"}, "user": "ann"}


def test_a_log_of_requests_and_responses_keeps_the_requests_fields(store, tmp_path):
    request = {"model": "gpt-4o", "messages": ASKED, "temperature": 0, "stream": False, "user": "ann"}
    load(store, lines(tmp_path / "a.jsonl", {"request": request, "response": completion()}))
    assert only(store)[1].parameters == {"temperature": 0, "user": "ann"}
    assert only(store)[0]["cost_nano"] == 0


def sent(name: str, **more: Any) -> dict[str, Any]:
    return {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": {"messages": ASKED}, **more}


def replied(name: str, number: int = 1, **more: Any) -> dict[str, Any]:
    response = {"status_code": 200, "request_id": "r", "body": completion(number=number)}
    return {"id": "batch_req_1", "custom_id": name, "response": response, "error": None, **more}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_batchs_output_is_joined_with_its_input_in_whatever_order(store, tmp_path, order):
    inputs = lines(tmp_path / "in.jsonl", sent("one"), sent("two", url="/v1/embeddings"), sent("three"))
    failed = {"response": {"status_code": 500, "body": {}}, "error": None}
    outputs = lines(
        tmp_path / "out.jsonl",
        replied("three", 3),
        replied("one", 1),
        replied("two", 2),
        {"custom_id": "four", **failed},
        replied("five", 5),
        replied("six", 6, response=None, error={"code": "batch_expired"}),
    )
    files = (inputs, outputs)
    done = load(store, *(files[i] for i in order))
    assert (done.imported, done.bad) == (2, 4)
    assert [told.partition(": ")[2] for told in done.bad_lines] == [
        "the batch's request 'two' was of /v1/embeddings, not of a chat",
        "the batch's request 'four' failed with status 500",
        "there is no request with the custom_id 'five': give the batch's input file too",
        "the batch has no answer to 'six'",
    ]
    assert {content.messages[1]["content"] for _, content in stream_trainable(store)} == {"Where is my card?"}


def test_two_requests_of_one_name_are_not_guessed_at(store, tmp_path):
    inputs = lines(tmp_path / "in.jsonl", sent("one"), sent("one"))
    done = load(store, inputs, lines(tmp_path / "out.jsonl", replied("one")))
    assert (done.imported, done.bad) == (0, 1)
    assert "several requests have the custom_id 'one'" in done.bad_lines[0]


BAD = {
    "not json": ("{", "it is no JSON object"),
    "an array": ([], "it is no JSON object"),
    "no known keys": ({"prompt": "a"}, "no format has the keys prompt"),
    "no answer": ({"messages": ASKED}, "the last message is not the assistant's"),
    "an empty answer": (example(""), "its answer is empty"),
    "nothing asked": ({"messages": [{"role": "assistant", "content": "x"}]}, "no messages before the answer"),
    "messages of text": ({"messages": ["hello"]}, "it has no list of messages"),
    "a message without a role": ({"messages": [{"content": "x"}]}, "a message has no role"),
    "no choices": (completion(choices=[], messages=ASKED), "it has no answer"),
    "no messages": (completion(), "it has no list of messages"),
}


@pytest.mark.parametrize(("line", "why"), BAD.values(), ids=BAD)
def test_a_bad_line_is_named_and_the_rest_goes_in(store, tmp_path, line, why):
    path = lines(tmp_path / "a.jsonl", example("first"), "", line, example("last"))
    done = load(store, path)
    assert (done.lines, done.imported, done.bad) == (3, 2, 1)
    assert done.bad_lines[0].startswith(f"{path}:3: ")
    assert why in done.bad_lines[0]


def test_a_file_in_another_format_than_was_said_is_all_bad(store, tmp_path):
    done = load(store, lines(tmp_path / "a.jsonl", example()), format="stored-completions")
    assert (done.imported, done.bad_lines[0].partition(": ")[2]) == (0, "it is in the format openai-chat")


def test_the_same_file_again_changes_nothing(store, tmp_path):
    first = lines(tmp_path / "a.jsonl", example("a"), example("b"), example("a"), completion(messages=ASKED))
    assert load(store, first).imported == 3
    again = lines(tmp_path / "b.jsonl", completion(messages=ASKED), example("b"), example("c"), at=1_800_000_000.0)
    done = load(store, again)
    assert (done.imported, done.known) == (1, 2)
    assert count(store) == 4


def test_a_dry_run_reads_all_and_writes_nothing(store, tmp_path):
    path = lines(tmp_path / "a.jsonl", example("a"), "{", example("b"))
    done = load(store, path, dry_run=True)
    assert (done.imported, done.bad, count(store)) == (2, 1, 0)


def test_history_costs_but_spends_no_budget_and_has_no_latency(store, tmp_path):
    load(store, lines(tmp_path / "a.jsonl", completion(messages=ASKED)), key_id="key_1", price=Price(input=1.0))
    usage = usage_by(store, ["reason", "key_id"])
    assert usage[("imported", "")].cost_nano == 100_000
    assert usage.keys() == {("imported", "")}
    assert latency_quantile(store, "teacher", 0.5) is None
    insert_records(store, [row("r", latency_ms=100.0)])
    assert latency_quantile(store, "teacher", 0.5) > 5
    assert spent_by(store, "key_1", 1_738_960_611_000) == Spent(0, 0)


def test_what_was_erased_does_not_come_back_with_an_old_file(store, tmp_path):
    path = lines(tmp_path / "a.jsonl", completion(messages=ASKED))
    erasure.erase(store, erasure.resolve(store, "user", "ann"), "tester")
    assert load(store, path).imported == 1
    (request_id,) = ids(store)
    assert get(store, request_id)[1] is None


def test_a_line_too_long_to_be_an_exchange_is_one_bad_line(store, tmp_path, monkeypatch):
    monkeypatch.setattr("distill.log_files.MAX_LINE", 400)
    path = lines(tmp_path / "a.jsonl", example("a"), example("b" * 2_000), example("c"))
    done = load(store, path)
    assert (done.lines, done.imported, done.bad) == (3, 2, 1)
    assert done.bad_lines[0].startswith(f"{path}:2: it is longer than")


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from([
    "messages", "choices", "completion", "request", "response", "custom_id", "body", "input", "weight", "usage",
    "data", "object", "error", "url", "metadata",
])  # fmt: skip
ODD = st.dictionaries(KEYS, ANYTHING | st.just(ASKED) | st.just(completion()) | st.just([completion()]), max_size=5)


@settings(deadline=None, max_examples=60)
@given(st.lists(ODD | ANYTHING, max_size=6))
def test_no_line_whatever_is_in_it_stops_an_import(tmp_path_factory, objects):
    path = lines(tmp_path_factory.mktemp("odd") / "a.jsonl", *(json.dumps(each) for each in objects), example("last"))
    with a_store() as store:
        done = load(store, path)
        assert done.lines == len(objects) + 1 or done.lines == 0  # a file of a batch's requests has no answers
        assert done.imported == count(store)
