"""The worker's pass that labels what both models answered, and what people said."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distill import labels as labelling
from distill.labels import Labelling, calls_left
from distill.upstreams import Upstream
from ledger import feedback, labels, releases
from ledger.feedback import Feedback
from ledger.labels import Label
from ledger.prices import Price
from ledger.records import Content, RequestRecord
from ledger.releases import Release
from ledger.requests import get, insert_records, usage_by
from ledger.store import Store, open_store, sqlite_url
from router.settings import RouterSettings
from serving.settings import StudentSettings
from tests.unit.distill.fake_server import FakeServer, prefers, says

TIMES = itertools.count(1_000)
PROSE = "It left our house on Monday.\nYou should have it soon."
OTHER = "We sent it at the beginning of the week.\nIt will be with you shortly."


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(sqlite_url(tmp_path))
    yield opened
    opened.close()


def record(request_id: str, student: str | None, teacher: str, **values: Any) -> RequestRecord:
    """A row that has both answers, or the student's own one."""
    content = Content(
        messages=[{"role": "user", "content": "Where is it?"}],
        answer=teacher,
        student_answer=student,
        student_finish_reason=values.pop("student_finish_reason", "stop"),
    )
    usual = {"created_at": next(TIMES), "route": "teacher", "reason": "explore", "release_id": "rel_1"}
    return RequestRecord(id=request_id, **(usual | {"finish_reason": "stop", "content": content} | values))


def escalated(request_id: str, student: str, teacher: str, **values: Any) -> RequestRecord:
    return record(request_id, student, teacher, reason="low_confidence", **values)


def answered(request_id: str, student: str, **values: Any) -> RequestRecord:
    return record(request_id, None, student, route="student", reason="confident", **values)


def a_pass(store: Store, settings: RouterSettings | None = None, **upstreams: Upstream) -> Labelling:
    return Labelling(store, settings or RouterSettings(), StudentSettings(), **upstreams)


def teacher_at(server: FakeServer) -> Upstream:
    return Upstream(server.url, "frontier", price=Price(request=0.001))


def found(store: Store, request_id: str) -> list[tuple[str, str, float, float]]:
    kept = labels.of_request(store, request_id)
    return [(label.source, label.comparator, label.agreement, label.propensity) for label in kept]


def say(store: Store, request_id: str, score: float | None = None, correction: str | None = None) -> None:
    said = Feedback(id="", created_at=0, request_id=request_id, score=score, correction=correction)
    feedback.add(store, said, None, anyones=True)


async def test_rows_with_both_answers_are_compared_under_the_clients_request(store: Store):
    rows = [
        record("req_1-explore", "Lost.", "lost", propensity=0.04),
        record("req_2-shadow", "late", "lost", route="student", propensity=0.2),
        escalated("req_3", "late", "lost"),
    ]
    insert_records(store, rows)
    await a_pass(store).run()
    assert found(store, "req_1") == [("explore", "exact", 1.0, 0.04)]
    assert found(store, "req_2") == [("shadow", "exact", 0.0, 0.2)]
    assert found(store, "req_3") == [("escalated", "exact", 0.0, 1.0)]
    assert labels.of_request(store, "req_1")[0].release_id == "rel_1"


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(escalated("req_1", "lo", "lost", student_finish_reason=None), id="cut-off-attempt"),
        pytest.param(escalated("req_1", "lost", "lost", stream=True), id="streamed-so-mostly-cut-off"),
        pytest.param(record("req_1-explore", None, "lost"), id="no-answer-of-the-student"),
        pytest.param(record("req_1-explore", "lost", "lost", trainable=False), id="opted-out"),
        pytest.param(record("req_1-explore", "lost", "lost", status=502), id="failed"),
        pytest.param(record("req_1-explore", "lost", "lost", content=None), id="content-not-kept"),
        pytest.param(record("req_1", "lost", "lost", reason="hard"), id="not-asked-beside"),
    ],
)
async def test_what_cannot_or_may_not_be_compared_gets_no_label(store: Store, row: RequestRecord):
    insert_records(store, [row])
    await a_pass(store).run()
    assert found(store, "req_1") == []


async def test_a_label_that_is_there_already_is_left_alone(store: Store, serve):
    server = serve(prefers(len))
    kept = Label(request_id="req_1", source="explore", created_at=5, release_id="rel_1", comparator="exact",
                 agreement=0.0, propensity=0.1)  # fmt: skip
    labels.add(store, [kept])
    insert_records(store, [record("req_1-explore", PROSE, OTHER)])
    await a_pass(store, teacher=teacher_at(server)).run()
    assert labels.of_request(store, "req_1") == [kept]
    assert server.seen == []


async def test_prose_is_judged_and_the_judges_calls_are_paid_for_in_the_ledger(store: Store, serve):
    server = serve(prefers(lambda answer: answer == PROSE))
    insert_records(store, [record("req_1-explore", PROSE, OTHER, propensity=0.1)])
    before = usage_by(store, ["route"]).get(("teacher",))
    await a_pass(store, teacher=teacher_at(server)).run()
    await a_pass(store, teacher=teacher_at(server)).run()
    assert found(store, "req_1") == [("explore", "judge", 1.0, 0.1)]
    assert len(server.seen) == 2
    paid = usage_by(store, ["reason"])["judge",]
    assert (paid.requests, paid.cost_nano, paid.baseline_nano) == (2, 2_000_000, 0)
    assert (paid.prompt_tokens, paid.completion_tokens) == (200, 10)
    assert before is not None


async def test_a_judge_that_favours_a_place_is_kept_as_undecided(store: Store, serve):
    server = serve(lambda *_: says("A"))
    insert_records(store, [record("req_1-explore", PROSE, OTHER)])
    await a_pass(store, teacher=teacher_at(server)).run()
    assert found(store, "req_1") == [("explore", "judge", 0.5, 1.0)]


async def test_what_is_obvious_costs_no_call(store: Store, serve):
    server = serve(prefers(len))
    insert_records(store, [record("req_1-explore", PROSE.upper(), PROSE), record("req_2-explore", "", PROSE)])
    await a_pass(store, teacher=teacher_at(server)).run()
    assert [found(store, f"req_{n}")[0][1:3] for n in (1, 2)] == [("exact", 1.0), ("exact", 0.0)]
    assert server.seen == []


async def test_the_judge_is_asked_no_more_than_its_hourly_calls_and_later_for_the_rest(
    store: Store, serve, monkeypatch: pytest.MonkeyPatch
):
    server, hours = serve(prefers(len)), itertools.count(500_000)
    hour = next(hours)
    monkeypatch.setattr(labelling, "now_ms", lambda: hour * 3_600_000)
    insert_records(store, [record(f"req_{n}-explore", PROSE, OTHER) for n in range(4)])
    settings = RouterSettings(judge_calls_per_hour=5)
    running = a_pass(store, settings, teacher=teacher_at(server))
    await running.run()
    await running.run()
    assert len(server.seen) == 4
    assert calls_left(store, 5) == 1
    assert [len(found(store, f"req_{n}")) for n in range(4)] == [0, 0, 1, 1]
    hour = next(hours)
    await running.run()
    assert [len(found(store, f"req_{n}")) for n in range(4)] == [1] * 4


async def test_embeddings_go_before_the_judge_for_prose(store: Store, serve):
    judge, embedder = serve(prefers(len)), serve(lambda *_: {"data": [{"embedding": [1, 0]}, {"embedding": [1, 1]}]})
    insert_records(store, [record("req_1-explore", PROSE, OTHER)])
    settings = RouterSettings(similarity_floor=0.7)
    both = {"teacher": teacher_at(judge), "embeddings": Upstream(embedder.url, "embedder")}
    await a_pass(store, settings, **both).run()
    assert found(store, "req_1") == [("explore", "embedding", 1.0, 1.0)]
    assert judge.seen == []
    assert usage_by(store, ["reason"])["embedding",].requests == 1


async def test_a_server_that_fails_costs_its_row_and_no_other(store: Store, serve):
    server = serve(lambda *_: 500)
    insert_records(store, [record("req_1-explore", "yes", "yes"), record("req_2-explore", PROSE, OTHER)])
    running = a_pass(store, teacher=teacher_at(server))
    await running.run()
    assert (found(store, "req_1")[0][2], found(store, "req_2")) == (1.0, [])
    server.script = prefers(len)
    await running.run()
    assert found(store, "req_2")[0][1] == "judge"


async def test_without_a_judge_the_student_of_the_rows_release_says_how_likely_the_answer_is(store: Store, serve):
    def vllm(path: str, body: dict[str, Any]) -> Any:
        if path == "/tokenize":
            return {"tokens": [1, 2, 3] if "messages" in body else [7, 8]}
        logprobs = {1: -9, 2: -9, 3: -9, 7: -0.2, 8: -0.4}
        ids = body["prompt"]
        return {"choices": [{"prompt_logprobs": [None, *({str(i): {"logprob": logprobs[i]}} for i in ids[1:])]}]}

    server = serve(vllm)
    add_live(store, "rel_1")
    rows = [record("req_1-explore", PROSE, OTHER), record("req_2-explore", PROSE, OTHER, release_id="rel_0")]
    insert_records(store, rows)
    for floor, label in ((-0.31, 1.0), (-0.29, 0.0)):
        settings = RouterSettings(judge_calls_per_hour=0, likelihood_floor=floor)
        with store.write() as connection:
            connection.exec_driver_sql("delete from labels")
        running = Labelling(store, settings, StudentSettings(base_url=server.url), Upstream(server.url, "frontier"))
        await running.run()
        assert found(store, "req_1") == [("explore", "likelihood", label, 1.0)]
        assert found(store, "req_2") == []


def add_live(store: Store, release_id: str) -> None:
    releases.add(store, Release(release_id, "candidate", 0, None, None, None, "/x", "0" * 64, {}))
    releases.promote(store, release_id, "test")


async def test_every_row_is_reached_though_newer_ones_get_no_label(store: Store, monkeypatch: pytest.MonkeyPatch):
    rows = [record(f"req_{n}-explore", "yes" if n < 3 else PROSE, "yes" if n < 3 else OTHER) for n in range(250)]
    insert_records(store, rows)
    running = a_pass(store)
    for _ in range(2):
        await running.run()
    assert found(store, "req_0") == []
    await running.run()
    assert [found(store, f"req_{n}")[0][2] for n in range(3)] == [1.0] * 3
    insert_records(store, [record("req_new-explore", "yes", "no")])
    await running.run()
    assert found(store, "req_new") == [("explore", "exact", 0.0, 1.0)]


@pytest.mark.parametrize(("score", "label"), [(0.0, 0.0), (0.49, 0.0), (0.5, 1.0), (1.0, 1.0)])
async def test_a_score_of_the_students_answer_is_a_label(store: Store, score: float, label: float):
    insert_records(store, [answered("req_1", "lost")])
    say(store, "req_1", score)
    await a_pass(store).run()
    assert found(store, "req_1") == [("feedback", "score", label, 1.0)]


async def test_a_correction_is_what_the_students_answer_is_compared_with(store: Store):
    insert_records(store, [answered("req_1", "lost"), escalated("req_2", "late", "lost")])
    say(store, "req_1", 0.0, "Lost.")
    say(store, "req_2", None, "late")
    await a_pass(store).run()
    assert found(store, "req_1") == [("feedback", "exact", 1.0, 1.0)]
    assert ("feedback", "exact", 1.0, 1.0) in found(store, "req_2")


async def test_a_score_of_the_teachers_answer_says_nothing_of_the_student(store: Store):
    insert_records(store, [record("req_1", None, "lost", reason="hard")])
    say(store, "req_1", 0.0)
    await a_pass(store).run()
    assert found(store, "req_1") == []


async def test_the_newest_feedback_counts_also_after_a_label(store: Store):
    insert_records(store, [answered("req_1", "lost")])
    running = a_pass(store)
    say(store, "req_1", 0.0)
    say(store, "req_1", 1.0)
    await running.run()
    assert found(store, "req_1") == [("feedback", "score", 1.0, 1.0)]
    say(store, "req_1", 0.0)
    await running.run()
    assert found(store, "req_1") == [("feedback", "score", 0.0, 1.0)]


async def test_the_texts_of_a_pinned_request_are_shown_to_no_judge(store: Store, serve):
    server = serve(prefers(len))
    pinned = record("req_1", None, PROSE, route="student", reason="pinned")
    insert_records(store, [pinned, answered("req_2", PROSE)])
    for request_id in ("req_1", "req_2"):
        say(store, request_id, None, OTHER)
    await a_pass(store, teacher=teacher_at(server)).run()
    assert found(store, "req_1") == []
    assert found(store, "req_2")[0][1] == "judge"
    assert len(server.seen) == 2


async def test_a_paid_call_is_no_training_data(store: Store, serve):
    server = serve(prefers(len))
    insert_records(store, [record("req_1-explore", PROSE, OTHER)])
    await a_pass(store, teacher=teacher_at(server)).run()
    with store.read() as connection:
        (paid_id, *_) = connection.exec_driver_sql("select id from requests where reason = 'judge'").scalars()
    kept = get(store, paid_id)
    assert kept is not None
    assert (kept[0]["trainable"], kept[1]) == (False, None)
