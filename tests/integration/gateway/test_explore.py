"""Asking the other side too: the shadow beside the teacher, the label that goes with it, and who is left alone."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from gateway.app import GatewayConfig
from ledger import labels
from ledger.observed import observed
from ledger.prices import Tokens, cost_nano
from ledger.requests import get
from router.model import RouterModel
from tests.gateway_fixtures import EASY, HARD, RELEASE, STUDENT_PRICE, SURE, UNSURE, World, running_world, wait_until
from tests.scripted_upstream import CACHED_TOKENS, PROMPT_TOKENS, Script


@contextmanager
def exploring_world(home: Path, router: RouterModel, **router_settings) -> Iterator[World]:
    def change(config: GatewayConfig) -> GatewayConfig:
        # a machine that is busy must not make an upstream late, which would be another reason
        patience = {"timeout_seconds": 30.0, "connect_timeout_seconds": 30.0}
        student, teacher = (msgspec.structs.replace(side, **patience) for side in (config.student, config.teacher))
        changed = msgspec.structs.replace(config.router, **router_settings)
        return replace(config, student=student, teacher=teacher, router=changed)

    with running_world(home, router, change) as world:
        yield world


@pytest.fixture(scope="module")
def module_exploring(router: RouterModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    home = tmp_path_factory.mktemp("exploring")
    with exploring_world(home, router, explore_share=1.0, shadow_share=1.0) as world:
        yield world


@pytest.fixture
def exploring(module_exploring: World) -> World:
    module_exploring.student.reset(Script(text="Good day.", logprob=SURE))
    module_exploring.teacher.reset(Script(text="good day"))
    return module_exploring


def label_of(world: World, request_id: str) -> labels.Label:
    wait_until(lambda: labels.of_request(world.store, request_id) != [])
    (label,) = labels.of_request(world.store, request_id)
    return label


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("teacher", "agreement"), [("good day", 1.0), ("Good night.", 0.0)])
def test_an_explored_answer_is_compared_at_once(exploring: World, stream: bool, teacher: str, agreement: float):
    exploring.teacher.reset(Script(text=teacher))
    request_id = exploring.chat(EASY, stream=stream).headers["x-request-id"]
    label = label_of(exploring, request_id)
    found = (label.source, label.comparator, label.agreement, label.propensity, label.release_id)
    assert found == ("explore", "exact", agreement, 1.0, RELEASE)


@pytest.mark.parametrize("stream", [False, True])
def test_what_is_kept_from_the_student_is_asked_of_it_in_the_background(exploring: World, stream: bool):
    asked_of = threading.Event()
    exploring.student.reset(Script(text="Good day.", logprob=SURE, until=asked_of))
    answer = exploring.chat(HARD, stream=stream)
    # the client's request is over, and recorded, while the student is still at it
    exploring.row(answer.headers["x-request-id"])
    asked_of.set()
    assert (answer.headers["x-stillroom-route"], answer.headers["x-stillroom-reason"]) == ("teacher", "hard")
    request_id = answer.headers["x-request-id"]
    row, content = exploring.recorded(f"{request_id}-shadow")
    assert (row["route"], row["reason"], row["propensity"], row["stream"]) == ("student", "explore", 1.0, False)
    assert (row["baseline_nano"], row["status"], row["finish_reason"]) == (0, 200, "stop")
    assert row["cost_nano"] == cost_nano(STUDENT_PRICE, Tokens(PROMPT_TOKENS, 2, CACHED_TOKENS))
    assert row["score"] == exploring.row(request_id)["score"]
    assert 0 < row["confidence"] < 1
    assert content is not None
    assert (content.answer, content.student_answer, content.student_finish_reason) == (
        "good day",
        "Good day.",
        "stop",
    )
    assert (content.least_likely or ("",))[1:] == (SURE,)
    label = label_of(exploring, request_id)
    assert (label.source, label.agreement) == ("shadow", 1.0)
    asked = exploring.student.seen[-1].body
    assert asked["stream"] is False
    assert asked["logprobs"] is True


def test_an_abandoned_stream_is_asked_again_whole_and_an_abandoned_answer_is_not(exploring: World):
    exploring.student.reset(Script(text="Good day to you dear friend of ours.", logprob=UNSURE))
    streamed = exploring.chat(EASY, stream=True)
    assert streamed.headers["x-stillroom-reason"] == "low_confidence"
    row, content = exploring.recorded(f"{streamed.headers['x-request-id']}-shadow")
    assert row["confidence"] is not None
    assert content is not None
    assert content.student_answer == "Good day to you dear friend of ours."
    plain = exploring.chat(EASY)
    assert plain.headers["x-stillroom-reason"] == "low_confidence"
    _, first = exploring.recorded(plain.headers["x-request-id"])
    assert first is not None
    assert (first.student_answer, first.student_finish_reason) == ("Good day to you dear friend of ours.", "stop")
    asked = len(exploring.student.seen)
    exploring.row(exploring.chat(model="teacher").headers["x-request-id"])
    assert len(exploring.student.seen) == asked
    assert get(exploring.store, f"{plain.headers['x-request-id']}-shadow") is None


@pytest.mark.parametrize(
    ("headers", "fields"),
    [
        ({"x-stillroom-log": "off"}, {}),
        ({"x-stillroom-route": "teacher"}, {}),
        ({}, {"store": False}),
    ],
    ids=["no content", "pinned", "not to be trained on"],
)
def test_what_may_not_be_shadowed_is_not(exploring: World, headers: dict, fields: dict):
    request_id = exploring.chat(HARD, headers, **fields).headers["x-request-id"]
    exploring.row(request_id)
    # one that may be, after it: what came before it would be there too
    exploring.recorded(f"{exploring.chat(HARD).headers['x-request-id']}-shadow")
    assert get(exploring.store, f"{request_id}-shadow") is None
    assert len(exploring.student.seen) == 1


def test_a_shadow_that_fails_leaves_no_row_and_harms_nobody(exploring: World):
    exploring.student.reset(first=[Script(status=400, body=b"{}"), Script(body=b"[]")])
    lost = [exploring.chat(HARD) for _ in range(2)]
    assert [answer.status_code for answer in lost] == [200, 200]
    exploring.recorded(f"{exploring.chat(HARD).headers['x-request-id']}-shadow")
    assert [get(exploring.store, f"{answer.headers['x-request-id']}-shadow") for answer in lost] == [None, None]


def test_what_takes_a_model_to_compare_is_left_to_the_worker(exploring: World):
    long = "It depends on the day, on the weather, and on how the people who are there feel about one another. " * 3
    exploring.teacher.reset(Script(text=long))
    request_id = exploring.chat(EASY).headers["x-request-id"]
    exploring.recorded(f"{request_id}-explore")
    assert labels.of_request(exploring.store, request_id) == []


def test_the_share_that_is_spent_is_logged_and_read_again_as_a_propensity(router: RouterModel, tmp_path: Path):
    with exploring_world(tmp_path, router, explore_share=0.5, shadow_share=0.0) as world:
        world.student.reset(Script(text="Good day.", logprob=SURE))
        world.teacher.reset(Script(text="Good day."))
        ids = [world.chat(EASY).headers["x-request-id"] for _ in range(60)]
        world.row(ids[-1])
        wait_until(lambda: not world.app.state.relay.explorer._tasks, 30)

        def rows(names: list[str]) -> list[str]:
            return [name for name in names if get(world.store, name) is not None]

        wait_until(lambda: len(rows(ids)) == len(ids), 30)
        beside = [f"{name}-explore" for name in ids]
        wait_until(lambda: len(rows(beside)) == len(world.teacher.seen), 30)
        explored = rows(beside)
        assert 15 < len(explored) < 45
        log = observed(world.store)
    assert (len(log), int(log.labelled.sum())) == (60, len(explored))
    assert ((log.propensity[log.labelled] >= 0.125) & (log.propensity[log.labelled] < 1.0)).all()
