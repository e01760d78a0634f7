"""Attempts that nobody sees: what is asked again, where, and what is never asked twice."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from ledger import replicas
from ledger.prices import Tokens, cost_nano
from tests.gateway_fixtures import (
    EASY,
    HARD,
    HOLD,
    RELEASE,
    STUDENT_PRICE,
    TEACHER_PRICE,
    World,
    running_world,
    stream_data,
    streamed_text,
    trust,
    wait_until,
)
from tests.scripted_upstream import CACHED_TOKENS, PROMPT_TOKENS, Script, ScriptedUpstream
from tests.upstream_settings import SPARE_PRICE, changed, spare

BUSY = Script(status=503, body=b"busy")
CLOSED = Script(raw=b"")
LIMITED = Script(
    status=429,
    body=b'{"error":{"message":"slow down","type":"requests","param":null,"code":"rate_limit_exceeded"}}',
)
GOOD_STUDENT, GOOD_TEACHER = Script(text="The student says good day."), Script(text="The teacher says good day.")
GOOD_SPARE = Script(text="The spare says good day.")


@dataclass
class Spared:
    """A world with a second teacher and a second student."""

    world: World
    teacher: ScriptedUpstream
    student: ScriptedUpstream


@pytest.fixture(scope="module")
def module_spared(router, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spared]:
    teacher, student = ScriptedUpstream(), ScriptedUpstream()
    change = changed(teacher={"fallbacks": (spare(teacher.url, "other"),)})
    try:
        with running_world(tmp_path_factory.mktemp("spared"), router, change) as world:
            replicas.report(world.store, replicas.Replica("replica-2", RELEASE, student.url, "ready", 0))
            wait_until(lambda: len(world.app.state.live.snapshot.release.student_urls) == 2)
            yield Spared(world, teacher, student)
    finally:
        teacher.close()
        student.close()


@pytest.fixture
def spared(module_spared: Spared) -> Spared:
    """Everybody well again, and trusted."""
    world = module_spared.world
    # a replica that does not report is not asked any more
    replicas.report(world.store, replicas.Replica("replica-2", RELEASE, module_spared.student.url, "ready", 0))
    wait_until(lambda: len(world.app.state.live.snapshot.release.student_urls) == 2)
    world.student.reset(GOOD_STUDENT)
    module_spared.student.reset(GOOD_STUDENT)
    world.teacher.reset(GOOD_TEACHER)
    module_spared.teacher.reset(GOOD_SPARE)
    trust(world)
    return module_spared


def said(answer, stream: bool) -> str:
    return streamed_text(answer) if stream else answer.json()["choices"][0]["message"]["content"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("script", [BUSY, CLOSED, Script(status=500, body=b"")], ids=["503", "closed", "500"])
def test_one_failure_of_the_teacher_is_not_seen(world: World, script: Script, stream: bool):
    world.teacher.reset(GOOD_TEACHER, [script])
    answer = world.chat(model="teacher", stream=stream)
    assert (answer.status_code, said(answer, stream)) == (200, GOOD_TEACHER.text)
    assert len(world.teacher.seen) == 2
    assert world.teacher.seen[0].body == world.teacher.seen[1].body
    row = world.row(answer.headers["x-request-id"])
    tokens = Tokens(PROMPT_TOKENS, len(GOOD_TEACHER.tokens), CACHED_TOKENS)
    assert (row["status"], row["cost_nano"], row["attempt_completion_tokens"]) == (
        200,
        cost_nano(TEACHER_PRICE, tokens),
        0,
    )
    assert 'stillroom_upstream_retries_total{upstream="teacher"}' in world.get("/metrics").text


@pytest.mark.parametrize("stream", [False, True])
def test_a_teacher_that_stays_down_is_asked_three_times(world: World, stream: bool):
    world.teacher.reset(BUSY)
    answer = world.chat(model="teacher", stream=stream)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "service_unavailable")
    assert len(world.teacher.seen) == 3


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "script",
    [
        Script(status=400, body=b'{"error":{"message":"no"}}'),
        Script(status=401, body=b"{}"),
        Script(status=501, body=b""),
        Script(status=503, body=b"", headers={"retry-after": "7"}),
        Script(body=b"<html>"),
    ],
    ids=["400", "401", "501", "a longer pause", "no JSON"],
)
def test_what_would_not_change_or_may_have_cost_tokens_is_asked_once(world: World, script: Script, stream: bool):
    world.teacher.reset(script)
    answer = world.chat(model="teacher", stream=stream)
    assert answer.status_code != 200 or "error" in stream_data(answer)[-1]
    assert len(world.teacher.seen) == 1


def test_a_stream_that_broke_after_its_first_byte_is_not_asked_again(world: World):
    world.teacher.reset(Script(cut_after=3))
    answer = world.chat(model="teacher", stream=True)
    assert stream_data(answer)[-1]["error"]["code"] == "upstream_error"
    assert len(world.teacher.seen) == 1


def test_a_stream_that_broke_before_its_first_byte_is(world: World):
    world.teacher.reset(GOOD_TEACHER, [Script(cut_after=0)])
    answer = world.chat(model="teacher", stream=True)
    assert (streamed_text(answer), stream_data(answer)[-1]) == (GOOD_TEACHER.text, "[DONE]")
    assert len(world.teacher.seen) == 2


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("script", [BUSY, CLOSED, LIMITED], ids=["503", "closed", "429"])
def test_the_second_teacher_answers_where_the_first_fails(spared: Spared, script: Script, stream: bool):
    world = spared.world
    world.teacher.reset(script)
    answer = world.chat(HARD, stream=stream)
    assert (answer.status_code, said(answer, stream)) == (200, GOOD_SPARE.text)
    assert answer.headers["x-stillroom-reason"] == "hard"
    # a connection that is kept alive may be closed once at no cost
    assert len(world.teacher.seen) <= (2 if script is CLOSED else 1)
    assert spared.teacher.seen[0].body["model"] == "other"
    row = world.row(answer.headers["x-request-id"])
    tokens = Tokens(PROMPT_TOKENS, len(GOOD_SPARE.tokens), CACHED_TOKENS)
    assert row["cost_nano"] == cost_nano(SPARE_PRICE, tokens)
    assert row["baseline_nano"] == cost_nano(TEACHER_PRICE, tokens)
    assert row["trainable"] is False  # the student is distilled from the first


@pytest.mark.parametrize("stream", [False, True])
def test_a_conversation_keeps_its_student_and_the_other_one_stands_in(spared: Spared, stream: bool):
    world, students = spared.world, (spared.world.student, spared.student)
    for _ in range(4):
        assert world.chat(EASY, stream=stream).headers["x-stillroom-reason"] == "confident"
    own, other = sorted(students, key=lambda student: -len(student.seen))
    assert (len(own.seen), len(other.seen)) == (4, 0)
    for number in range(40):
        world.chat(f"{number} parcels", model="student", stream=stream)
    assert min(len(student.seen) for student in students) > 8
    own.reset(CLOSED)
    other.reset(GOOD_STUDENT)
    for _ in range(4):
        answer = world.chat(EASY, stream=stream)
        assert (answer.headers["x-stillroom-reason"], said(answer, stream)) == ("confident", GOOD_STUDENT.text)
    assert len(other.seen) == 4
    assert world.teacher.seen == []
    shown = world.get("/metrics").text
    assert 'stillroom_upstream_in_flight_requests{index="1",upstream="student"} 0.0' in shown


@pytest.mark.parametrize("stream", [False, True])
def test_a_refusal_by_rate_is_asked_again_when_the_wait_is_short(world: World, stream: bool):
    world.teacher.reset(GOOD_TEACHER, [Script(status=429, body=LIMITED.body, headers={"retry-after": "0.1"})])
    answer = world.chat(model="teacher", stream=stream)
    assert (answer.status_code, len(world.teacher.seen)) == (200, 2)


@pytest.mark.parametrize("stream", [False, True])
def test_a_spent_quota_is_asked_once_and_passed_on(spared: Spared, stream: bool):
    body = b'{"error":{"message":"no more","type":"insufficient_quota","param":null,"code":"insufficient_quota"}}'
    spared.world.teacher.reset(Script(status=429, body=body, headers={"retry-after": "0"}))
    answer = spared.world.chat(model="teacher", stream=stream)
    assert (answer.status_code, answer.content) == (429, body)
    assert (len(spared.world.teacher.seen), spared.teacher.seen) == (1, [])


@pytest.mark.parametrize("stream", [False, True])
def test_a_refusal_by_rate_is_passed_on_and_not_made_up_for_by_the_student(world: World, stream: bool):
    world.teacher.reset(Script(status=429, body=LIMITED.body, headers={"retry-after": "9"}))
    answer = world.chat(HARD, stream=stream)
    assert (answer.status_code, answer.content, answer.headers["retry-after"]) == (429, LIMITED.body, "9")
    assert world.row(answer.headers["x-request-id"])["status"] == 429


@pytest.mark.parametrize("stream", [False, True])
def test_a_caller_may_refuse_the_student_as_a_stopgap(world: World, stream: bool):
    world.teacher.reset(BUSY)
    answer = world.chat(HARD, {"x-stillroom-fallback": "off"}, stream=stream)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "service_unavailable")
    assert "needs the teacher" in answer.json()["error"]["message"]
    assert world.student.seen == []
    odd = world.chat(HARD, {"x-stillroom-fallback": "maybe"})
    assert (odd.status_code, odd.json()["error"]["param"]) == (400, "x-stillroom-fallback")


def test_a_student_without_time_leaves_the_request_to_the_teacher(world: World):
    world.student.reset(LIMITED)
    answer = world.chat(EASY)
    assert (answer.status_code, answer.headers["x-stillroom-reason"]) == (200, "student_down")
    pinned = world.chat(model="student")
    assert (pinned.status_code, pinned.content) == (429, LIMITED.body)


def test_an_idle_connection_that_the_upstream_closes_is_nobodys_fault(world: World):
    """The second request on a connection meets its end; a fresh one is good."""
    assert world.chat(model="teacher").status_code == 200
    world.teacher.reset(GOOD_TEACHER, [CLOSED])
    before = world.get("/metrics").text
    assert world.chat(model="teacher").status_code == 200
    assert len(world.teacher.seen) == 2
    retries = 'stillroom_upstream_retries_total{upstream="teacher"}'
    line = next(line for line in before.splitlines() if line.startswith(retries))
    assert line in world.get("/metrics").text  # not out of the budget


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_streams_that_are_over_leave_their_connection_to_the_next(world: World, side: str):
    for _ in range(5):
        assert stream_data(world.chat(model=side, stream=True))[-1] == "[DONE]"
    assert len({seen.peer for seen in getattr(world, side).seen}) == 1


def test_the_tokens_of_a_held_stream_that_broke_off_are_billed(world: World):
    # two tokens, then the end
    world.student.reset(Script(text="one two three four five six", logprob=-0.02, cut_after=3, gap=0.02))
    answer = world.chat(EASY, stream=True)
    assert (answer.headers["x-stillroom-reason"], streamed_text(answer)) == ("student_down", GOOD_TEACHER.text)
    row = world.row(answer.headers["x-request-id"])
    assert (row["attempt_prompt_tokens"], row["attempt_completion_tokens"]) == (PROMPT_TOKENS, 2)
    whole = Tokens(PROMPT_TOKENS, len(GOOD_TEACHER.tokens), CACHED_TOKENS)
    lost = cost_nano(STUDENT_PRICE, Tokens(PROMPT_TOKENS, 2, CACHED_TOKENS))
    assert row["cost_nano"] == cost_nano(TEACHER_PRICE, whole) + lost
    assert HOLD > 2


def test_a_flapping_teacher_is_not_asked_much_more_often_than_the_clients_ask(world: World):
    world.teacher.reset(Script(status=503, body=b"", delay=0.05))
    asked = 150
    with ThreadPoolExecutor(25) as pool:
        answers = list(pool.map(lambda _: world.chat(model="teacher"), range(asked)))
    assert {answer.status_code for answer in answers} == {503}
    assert all(answer.json()["error"]["code"] == "service_unavailable" for answer in answers)
    assert len(world.teacher.seen) <= 1.2 * asked
    assert world.app.state.relay.teacher.in_flight == world.app.state.relay.teacher.retrying == 0
