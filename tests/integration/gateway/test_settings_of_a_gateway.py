"""Gateways with other settings: exploration, rate limits, no content, no router, no keys."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import msgspec
import pytest

from gateway.app import GatewayConfig
from ledger.prices import Tokens, cost_nano
from ledger.requests import get
from ledger.store import open_store, sqlite_url
from router.model import RouterModel
from tests.gateway_fixtures import (
    EASY,
    HARD,
    SURE,
    TEACHER_PRICE,
    UNSURE,
    World,
    chat_body,
    running_world,
    stream_data,
    wait_until,
)
from tests.scripted_upstream import CACHED_TOKENS, FOREVER, PROMPT_TOKENS, Script


@contextmanager
def world_with(home: Path, model: RouterModel | None, **tables: dict) -> Iterator[World]:
    """A world with some settings changed: ``gateway={"log_content": False}``."""

    def change(config: GatewayConfig) -> GatewayConfig:
        changed = {name: msgspec.structs.replace(getattr(config, name), **values) for name, values in tables.items()}
        return replace(config, **changed)

    with running_world(home, model, change) as world:
        world.student.script = Script(text="The student says good day.", logprob=SURE)
        yield world


@pytest.fixture(scope="module")
def exploring(router: RouterModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world_with(tmp_path_factory.mktemp("exploring"), router, router={"explore_share": 1.0}) as world:
        yield world


@pytest.mark.parametrize("stream", [False, True])
def test_exploration_records_both_answers_and_costs_the_client_no_time(exploring: World, stream: bool):
    asked_of = threading.Event()
    exploring.teacher.reset(Script(text="What the teacher would say.", until=asked_of))
    answer = exploring.chat(EASY, stream=stream, user="u1")
    request_id = answer.headers["x-request-id"]
    # answered and recorded while the teacher thinks
    first = exploring.row(request_id)
    assert (first["route"], first["reason"]) == ("student", "confident")
    wait_until(lambda: len(exploring.teacher.seen) == 1)
    assert get(exploring.store, f"{request_id}-explore") is None
    time.sleep(0.3)
    asked_of.set()
    assert (answer.headers["x-stillroom-route"], answer.headers["x-stillroom-reason"]) == ("student", "confident")
    row, content = exploring.recorded(f"{request_id}-explore")
    assert (row["route"], row["reason"], row["propensity"], row["stream"]) == ("teacher", "explore", 1.0, False)
    assert (row["trainable"], row["finish_reason"], row["first_token_ms"]) == (True, "stop", None)
    assert row["cost_nano"] == cost_nano(TEACHER_PRICE, Tokens(PROMPT_TOKENS, 5, CACHED_TOKENS))
    assert row["baseline_nano"] == 0
    assert row["latency_ms"] >= 300
    assert content is not None
    assert (content.answer, content.student_answer) == ("What the teacher would say.", "The student says good day.")
    assert len(content.teacher_logprobs or []) == 5
    asked = exploring.teacher.seen[0].body
    assert asked["stream"] is False
    assert "stream_options" not in asked


@pytest.mark.parametrize(
    ("text", "headers", "fields"),
    [
        (HARD, {}, {}),
        (EASY, {"x-stillroom-log": "off"}, {}),
        (EASY, {"x-stillroom-route": "student"}, {}),
        (EASY, {}, {"store": False}),
    ],
    ids=["the teacher answered", "no content", "pinned", "not to be trained on"],
)
def test_what_may_not_be_explored_is_not(exploring: World, text: str, headers: dict, fields: dict):
    exploring.teacher.reset()
    exploring.chat(text, headers, **fields)
    time.sleep(0.2)
    assert len(exploring.teacher.seen) == (1 if text == HARD else 0)


@pytest.mark.parametrize(
    "script",
    [Script(status=500, body=b""), Script(status=400, body=b"{}"), Script(body=b"[]"), Script(raw=b"?")],
    ids=["500", "400", "not an object", "not HTTP"],
)
def test_an_exploration_that_fails_leaves_no_row_and_harms_nobody(exploring: World, script: Script):
    exploring.teacher.reset(script)
    answer = exploring.chat(EASY)
    assert answer.status_code == 200
    wait_until(lambda: len(exploring.teacher.seen) == 1)
    exploring.row(answer.headers["x-request-id"])
    exploring.row(exploring.chat(EASY).headers["x-request-id"])
    assert get(exploring.store, f"{answer.headers['x-request-id']}-explore") is None


def test_a_shutdown_does_not_wait_long_for_an_exploration(router: RouterModel, tmp_path: Path):
    tables = {"router": {"explore_share": 1.0}, "teacher": {"timeout_seconds": FOREVER}}
    # the world's own end asserts that the gateway's comes, though the teacher never answers
    with world_with(tmp_path, router, **tables) as world:
        world.teacher.script = Script(delay=FOREVER)
        assert world.chat(EASY).status_code == 200
        wait_until(lambda: len(world.teacher.seen) == 1)


def test_a_key_beyond_its_limit_is_told_when_to_try_again(tmp_path: Path):
    with world_with(tmp_path, None, gateway={"requests_per_minute": 12}) as world:
        answers = [world.chat() for _ in range(13)]
        assert [answer.status_code for answer in answers] == [200] * 12 + [429]
        refused = answers[-1]
        error = refused.json()["error"]
        assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
        told = int(refused.headers["retry-after"])
        assert 1 <= told <= 60 / 12
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        assert len(world.teacher.seen) == 12
        # another key has a limit of its own
        other = world.client.get(f"{world.url}/v1/models", headers=world.headers("admin"))
        assert other.status_code == 200
        time.sleep(told)
        assert world.chat().status_code == 200


@pytest.mark.parametrize("reason", ["confident", "low_confidence", "hard"])
def test_a_gateway_that_keeps_no_content_keeps_none(router: RouterModel, tmp_path: Path, reason: str):
    canary = "canary-2c9a-zeppelin"
    with world_with(tmp_path, router, gateway={"log_content": False}, router={"explore_share": 1.0}) as world:
        world.student.script = Script(text=canary, logprob=UNSURE if reason == "low_confidence" else SURE)
        world.teacher.script = Script(text=canary)
        # beside the user's turn, which the router reads
        messages = [
            {"role": "system", "content": canary},
            {"role": "user", "content": HARD if reason == "hard" else EASY},
        ]
        answer = world.chat(messages=messages)
        row, content = world.recorded(answer.headers["x-request-id"])
        assert (row["reason"], content) == (reason, None)
    assert canary.encode() not in world.everything_written()


def test_with_the_router_off_everything_goes_to_the_teacher(router: RouterModel, tmp_path: Path):
    with world_with(tmp_path, router, router={"enabled": False}) as world:
        answer = world.chat(EASY)
        assert (answer.headers["x-stillroom-route"], answer.headers["x-stillroom-reason"]) == ("teacher", "pinned")
        assert world.chat(model="student").headers["x-stillroom-route"] == "student"


def test_without_a_need_for_keys_anyone_is_served(tmp_path: Path):
    with world_with(tmp_path, None, auth={"required": False}) as world:
        answer = world.client.post(
            f"{world.url}/v1/chat/completions", json={"model": "auto", "messages": [{"role": "user", "content": "x"}]}
        )
        assert answer.status_code == 200
        assert world.row(answer.headers["x-request-id"])["key_id"] is None


def test_a_teacher_without_logprobs_is_not_asked_for_any(tmp_path: Path):
    with world_with(tmp_path, None, teacher={"top_logprobs": 0}) as world:
        world.chat()
        assert not {"logprobs", "top_logprobs"} & world.teacher.seen[0].body.keys()
        world.chat(logprobs=True, top_logprobs=2)
        assert world.teacher.seen[1].body["top_logprobs"] == 2


@pytest.mark.parametrize("stream", [False, True])
def test_what_is_cut_off_when_the_time_to_drain_is_over_is_told_so(tmp_path: Path, stream: bool):
    with ThreadPoolExecutor(1) as pool:
        tables = {"gateway": {"drain_seconds": 1.0}, "teacher": {"timeout_seconds": 60.0}}
        with world_with(tmp_path, None, **tables) as world:
            world.teacher.script = Script(text="word " * 300, gap=0.1) if stream else Script(delay=FOREVER)
            request = {"json": chat_body(stream=stream), "headers": world.headers()}
            asked = pool.submit(httpx.post, f"{world.url}/v1/chat/completions", timeout=60, **request)
            wait_until(lambda: len(world.teacher.seen) == 1)
        answer = asked.result(60)
    error = stream_data(answer)[-1]["error"] if stream else answer.json()["error"]
    assert (error["type"], error["code"]) == ("server_error", "shutting_down")
    assert answer.status_code == (200 if stream else 503)
    assert "[DONE]" not in answer.text
    store = open_store(sqlite_url(tmp_path))
    found = get(store, answer.headers["x-request-id"])
    store.close()
    assert found is not None
    assert found[0]["status"] == (499 if stream else 503)
