"""What leaves the ledger: all that may be trained on, in formats that others and we ourselves read."""

import json
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from distill.estimate.reading import Wanted, read_logs
from distill.exporting import export
from distill.imports import ImportOptions, import_files
from ledger import audit, feedback, schema
from ledger.erasure import erase, resolve
from ledger.records import Content
from ledger.request_filters import TrainableFilters
from ledger.requests import get, insert_records
from ledger.store import open_store, sqlite_url
from router.policy import Capabilities
from router.settings import RouterSettings
from tests.unit.ledger.rows import row

ASKED = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where is my card?"}]
LOGPROBS = [{"token": "In", "bytes": [73, 110], "logprob": -0.1, "top_logprobs": [{"token": "In", "logprob": -0.1}]}]
TOOLS = [{"type": "function", "function": {"name": "locate", "parameters": {}}}]
CALLS = [{"id": "c1", "type": "function", "function": {"name": "locate", "arguments": "{}"}}]


@pytest.fixture
def store(tmp_path: Path):
    opened = open_store(sqlite_url(tmp_path))
    yield opened
    opened.close()


def said(answer: str = "In the post.", **more: Any) -> Content:
    return Content(messages=ASKED, answer=answer, **more)


def lines(store, form="stored-completions", **filters) -> list[dict[str, Any]]:
    return [json.loads(line) for line in export(store, form, TrainableFilters(**filters), "tester")]


def test_a_stored_completion_has_what_was_said_and_what_is_known_of_the_row(store):
    asked = {"temperature": 0, "metadata": {"desk": "cards"}}
    known = {"created_at": 1_738_960_610_250, "model": "gpt-4o", "prompt_tokens": 100, "completion_tokens": 10}
    kept = row("a", content=said(parameters=asked, teacher_logprobs=LOGPROBS), tags=["x", "y"], cost_nano=12_500_000,
               reason="hard", finish_reason="stop", cached_tokens=40, **known)  # fmt: skip
    insert_records(store, [kept])
    (line,) = lines(store)
    assert line["messages"] == ASKED
    assert line["choices"][0]["message"] == {"role": "assistant", "content": "In the post."}
    assert line["choices"][0]["logprobs"] == {"content": LOGPROBS}
    assert (line["created"], line["model"], line["temperature"]) == (1_738_960_610, "gpt-4o", 0)
    assert line["usage"]["prompt_tokens_details"] == {"cached_tokens": 40}
    told = line["metadata"]
    assert told == told | {"desk": "cards", "stillroom_reason": "hard", "stillroom_tags": "x,y"}
    assert told["stillroom_cost"] == "0.012500000"


def test_what_was_refused_erased_or_is_no_answer_of_the_teachers_stays(store):
    insert_records(store, [
        row("kept", created_at=1, content=said(), finish_reason="stop"),
        row("opted-out", created_at=2, content=said(), finish_reason="stop", trainable=False),
        row("not-kept", created_at=3, content=None, finish_reason="stop"),
        row("failed", created_at=4, content=said(""), status=500),
        row("students", created_at=5, content=said(), route="student", finish_reason="stop"),
        row("erased", created_at=6, content=said(), finish_reason="stop"),
    ])  # fmt: skip
    erase(store, resolve(store, "request", "erased"), "tester", False)
    assert [line["id"] for line in lines(store)] == ["kept"]


def test_a_correction_is_the_answer_that_leaves(store):
    insert_records(store, [row("a", content=said(teacher_logprobs=LOGPROBS), route="student", finish_reason="stop")])
    given = feedback.Feedback(id="f", created_at=9, request_id="a", correction="It is at the branch.")
    feedback.add(store, given, None, True)
    (line,) = lines(store)
    assert line["choices"][0]["message"]["content"] == "It is at the branch."
    assert line["choices"][0]["logprobs"] is None
    assert line["metadata"]["stillroom_corrected"] == "true"


def test_a_fine_tuning_example_has_messages_and_tools_alone(store):
    kept = said("", tool_calls=CALLS, parameters={"tools": TOOLS, "temperature": 0})
    insert_records(store, [row("a", content=kept, finish_reason="stop")])
    answer = {"role": "assistant", "content": None, "tool_calls": CALLS}
    assert lines(store, "openai-chat") == [{"messages": [*ASKED, answer], "tools": TOOLS}]


def test_filters_narrow_it_and_the_audit_says_who_asked(store):
    insert_records(store, [row(str(at), created_at=at, content=said(), finish_reason="stop") for at in (1, 2, 3)])
    assert [line["id"] for line in lines(store, since=2, until=3)] == ["2"]
    entry = audit.entries(store)[0]
    assert (entry["actor"], entry["action"], entry["subject"]) == ("tester", "content.export", "requests")
    assert entry["detail"]["filters"]["since"] == 2


@pytest.mark.parametrize("form", ["stored-completions", "openai-chat"])
def test_another_ledger_and_the_estimate_read_what_was_exported(store, tmp_path, form):
    calling = said("", tool_calls=CALLS, parameters={"tools": TOOLS, "parallel_tool_calls": False})
    insert_records(store, [
        row("a", created_at=1_738_960_610_000, content=calling, finish_reason="stop"),
        row("b", created_at=1_738_960_611_000, content=said("Grüße, 🙂"), finish_reason="stop"),
    ])  # fmt: skip
    path = tmp_path / "out.jsonl"
    path.write_bytes(b"".join(export(store, form, TrainableFilters(), "tester")))
    (tmp_path / "other").mkdir()
    other = open_store(sqlite_url(tmp_path / "other"))
    try:
        done = import_files(other, [path], ImportOptions(model="gpt-4o"), lambda _: None)
        assert (done.imported, done.bad) == (2, 0)
        with other.read() as connection:
            ids = connection.execute(sa.select(schema.requests.c.id)).scalars().all()
        there = [get(other, each)[1] for each in ids]
    finally:
        other.close()
    assert {(each.answer, str(each.tool_calls)) for each in there} == {("", str(CALLS)), ("Grüße, 🙂", "None")}
    assert all(each.messages == ASKED for each in there)
    reading = read_logs([path], Wanted(Capabilities(8_192), RouterSettings()), lambda _: None)
    assert (len(reading.columns), dict(reading.formats)) == (2, {form: 2})
