"""A ceiling for the teacher: what it has no room for, the student answers."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from gateway.app import GatewayConfig, build_app
from ledger import schema
from router.model import RouterModel
from tests.gateway_fixtures import HARD, SURE, UNSURE, World, running_world, serving, settings, wait_until
from tests.scripted_upstream import Script

REQUESTS, SHARE = 400, 0.25
RESERVE = 101
"""Requests that a share may be ahead of its pace, whatever the traffic."""


def bound(**fields: Any) -> Callable[[GatewayConfig], GatewayConfig]:
    return lambda config: replace(config, router=msgspec.structs.replace(config.router, **fields))


@pytest.fixture(scope="module")
def world(router: RouterModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running_world(tmp_path_factory.mktemp("share"), router, bound(max_teacher_share=SHARE)) as world:
        yield world


def ask(world: World, text: str, stream: bool = False) -> tuple[str, str]:
    answer = world.chat(text, stream=stream)
    assert answer.status_code == 200
    return answer.headers["x-stillroom-route"], answer.headers["x-stillroom-reason"]


def costs(world: World) -> list[int]:
    """Of the teacher's answers, in nano-units."""
    statement = sa.select(schema.requests.c.cost_nano).where(schema.requests.c.route == "teacher")
    with world.store.read() as connection:
        return list(connection.execute(statement).scalars())


def test_the_teachers_share_keeps_to_its_ceiling_and_the_student_answers_the_rest(world: World):
    world.student.reset(Script(text="from the student", logprob=SURE))
    seen = Counter(ask(world, HARD, stream=number % 2 == 0) for number in range(REQUESTS))
    assert set(seen) == {("teacher", "hard"), ("student", "budget")}
    assert seen["student", "budget"] > 0
    assert seen["teacher", "hard"] <= SHARE * REQUESTS + RESERVE
    shown = world.get("/metrics").text
    assert 'stillroom_requests_total{reason="budget",route="student",status="2xx"}' in shown


def test_a_doubtful_answer_stands_where_the_ceiling_is_reached(world: World):
    world.student.reset(Script(text="from the student", logprob=UNSURE))
    for _ in range(200):
        ask(world, HARD)
    assert ("student", "budget") in {ask(world, "please greet politely", stream) for stream in (False, True)}


def test_a_pinned_request_is_never_kept_from_the_teacher(world: World):
    for _ in range(20):
        answer = world.chat(HARD, model="teacher")
        assert answer.headers["x-stillroom-route"] == "teacher"


def test_a_days_spend_is_not_overrun_by_one_gateway_or_the_next(router: RouterModel, tmp_path: Path):
    change = bound(max_teacher_spend_per_day=1e-3)
    with running_world(tmp_path, router, change) as world:
        world.student.reset(Script(text="from the student", logprob=SURE))
        seen = Counter(ask(world, HARD) for _ in range(200))
        assert seen["student", "budget"] > 0
        wait_until(lambda: len(costs(world)) == seen["teacher", "hard"])
        assert sum(costs(world)) <= 1e6 + max(costs(world))
        before = len(world.teacher.seen)
        next_one = build_app(change(settings(world.teacher.url, tmp_path / "next")), world.store)
        with serving(next_one, 5) as url:
            again = replace(world, url=url, app=next_one)
            wait_until(lambda: "stillroom_teacher_spend_today 0.0\n" not in again.get("/metrics").text)
            assert Counter(ask(again, HARD) for _ in range(40))["teacher", "hard"] <= 1
        assert len(world.teacher.seen) - before <= 1
