"""Budgets with real requests: hard and soft, in parallel, over ingestion, and to the nano-unit."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import msgspec
import pytest
import sqlalchemy as sa

from gateway.app import GatewayConfig
from ledger import keys, schema
from ledger.keys import KeyPolicy
from ledger.prices import Tokens, cost_nano
from ledger.records import NANO
from ledger.requests import insert_records
from ledger.store import now_ms
from router.model import RouterModel
from tests.gateway_fixtures import (
    EASY,
    HARD,
    SURE,
    TEACHER_PRICE,
    World,
    chat_body,
    running_world,
    wait_until,
)
from tests.scripted_upstream import CACHED_TOKENS, PROMPT_TOKENS, Script
from tests.unit.ledger.rows import row

EACH = cost_nano(TEACHER_PRICE, Tokens(PROMPT_TOKENS, 5, CACHED_TOKENS))
"""What the teacher's answer of five tokens costs."""


@pytest.fixture(scope="module")
def module_world(router: RouterModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """With patience for 200 requests at once: a teacher given up on would be answered for by the cheap student."""
    patient = {"timeout_seconds": 20.0, "first_byte_timeout_seconds": 20.0}

    def change(config: GatewayConfig) -> GatewayConfig:
        return replace(config, teacher=msgspec.structs.replace(config.teacher, **patient))

    with running_world(tmp_path_factory.mktemp("budget"), router, change) as world:
        yield world


def holder(world: World, **policy: Any) -> tuple[str, dict[str, str]]:
    """A key with this policy: its id and its header."""
    key, secret = keys.create(world.store, "app", ["inference"], "test", policy=KeyPolicy(**policy))
    headers = {"authorization": f"Bearer {secret}"}
    wait_until(lambda: world.client.get(f"{world.url}/v1/models", headers=headers).status_code == 200)
    return key.id, headers


def spent(world: World, key_id: str) -> int:
    """By the rows, once all are in the store."""
    statement = sa.select(sa.func.coalesce(sa.func.sum(schema.requests.c.cost_nano), 0))
    with world.store.read() as connection:
        return int(connection.execute(statement.where(schema.requests.c.key_id == key_id)).scalar_one())


def ask_at_once(world: World, headers: dict[str, str], count: int, **fields: Any) -> list[httpx.Response]:
    async def all_of_them() -> list[httpx.Response]:
        bounds = httpx.Limits(max_connections=count)
        async with httpx.AsyncClient(timeout=30, limits=bounds, headers=headers) as client:
            url = f"{world.url}/v1/chat/completions"
            return await asyncio.gather(*(client.post(url, json=chat_body(HARD, **fields)) for _ in range(count)))

    return asyncio.run(all_of_them())


@pytest.mark.parametrize("stream", [False, True])
def test_200_parallel_requests_overspend_a_budget_by_one_at_most(world: World, stream: bool):
    key_id, headers = holder(world, budget_day=0.01)
    world.teacher.script = Script(text="The teacher says good day.", delay=0.2)
    answers = ask_at_once(world, headers, 200, max_tokens=5, stream=stream)
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) == {200, 429}
    # then one by one, until the last nano-unit: no record counts twice on its way into the store
    world.teacher.script = Script(text="The teacher says good day.")
    answered = statuses.count(200)
    while world.chat(HARD, headers, max_tokens=5, stream=stream).status_code == 200:
        answered += 1
        assert answered < 300
    assert answered == -(-NANO // 100 // EACH)
    wait_until(lambda: spent(world, key_id) == answered * EACH)
    assert NANO // 100 <= answered * EACH < NANO // 100 + EACH
    refused = world.chat(HARD, headers, max_tokens=5, stream=stream)
    assert refused.status_code == 429


def test_a_spent_hard_budget_is_refused_as_openai_does(world: World):
    _, headers = holder(world, budget_month=0.0)
    refused = world.chat(HARD, headers)
    error = refused.json()["error"]
    assert (refused.status_code, error["type"], error["code"]) == (429, "insufficient_quota", "insufficient_quota")
    assert "retry-after" not in refused.headers
    assert world.teacher.seen == world.student.seen == []


@pytest.mark.parametrize("period", ["day", "month"])
def test_what_was_spent_before_counts_and_the_admin_api_tells_it(world: World, period: str):
    key_id, headers = holder(world, **{f"budget_{period}": 1.0})
    assert world.chat(HARD, headers).status_code == 200
    insert_records(world.store, [row(f"before {key_id}", key_id=key_id, cost_nano=NANO, created_at=now_ms())])
    wait_until(lambda: world.chat(HARD, headers).status_code == 429)
    shown = world.get(f"/admin/v1/keys/{key_id}").json()["spend"][period]
    assert shown["budget"] == 1.0
    assert shown["spent"] >= 1.0
    assert shown["remaining"] == 0.0


@pytest.mark.parametrize("stream", [False, True])
def test_past_a_soft_budget_the_student_answers_with_its_reason(world: World, stream: bool):
    key_id, headers = holder(world, budget_day=0.0, budget_kind="soft")
    for text, model in ((HARD, "auto"), (EASY, "auto"), (EASY, "teacher")):
        answer = world.chat(text, headers, model=model, stream=stream)
        assert answer.status_code == 200
        assert (answer.headers["x-stillroom-route"], answer.headers["x-stillroom-reason"]) == ("student", "budget")
        stored = world.row(answer.headers["x-request-id"])
        assert (stored["route"], stored["reason"], stored["key_id"]) == ("student", "budget", key_id)
    assert world.teacher.seen == []


def test_past_a_soft_budget_nothing_goes_to_the_teacher_though_the_student_fails(world: World):
    _, headers = holder(world, budget_day=0.0, budget_kind="soft")
    world.student.reset(Script(status=500))
    assert world.chat(EASY, headers).status_code in (502, 503)
    assert world.teacher.seen == []


def test_past_a_soft_budget_what_the_student_cannot_do_is_refused(world: World, world_without_release: World):
    image = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
    _, headers = holder(world, budget_day=0.0, budget_kind="soft")
    assert world.chat(image, headers).json()["error"]["code"] == "insufficient_quota"
    assert world.chat(EASY, headers, n=2).json()["error"]["code"] == "insufficient_quota"
    _, headers = holder(world_without_release, budget_day=0.0, budget_kind="soft")
    assert world_without_release.chat(EASY, headers).json()["error"]["code"] == "insufficient_quota"


def test_a_budget_that_is_raised_opens_within_a_second(world: World):
    key_id, headers = holder(world, budget_day=0.0)
    assert world.chat(HARD, headers).status_code == 429
    keys.update_policy(world.store, key_id, {"budget_day": 5}, "test")
    wait_until(lambda: world.chat(HARD, headers).status_code == 200)


def test_explorations_are_on_the_keys_bill(router: RouterModel, tmp_path: Any):
    def change(config):
        return replace(config, router=msgspec.structs.replace(config.router, explore_share=1.0))

    with running_world(tmp_path, router, change) as world:
        world.student.script = Script(text="The student says good day.", logprob=SURE)
        key_id, headers = holder(world, budget_day=1.0)
        request_id = world.chat(EASY, headers).headers["x-request-id"]
        explored = world.row(f"{request_id}-explore")["cost_nano"]
        assert explored > 0
        total = explored + world.row(request_id)["cost_nano"]
        wait_until(lambda: world.app.state.admission.budgets._pending == {})
        assert world.app.state.admission.budgets._accounts[key_id].stored.day == total


def test_with_the_store_away_spend_goes_on_counting(router: RouterModel, tmp_path: Any):
    with running_world(tmp_path, router) as world:
        world.teacher.script = Script(text="The teacher says good day.")
        _, headers = holder(world, budget_day=EACH * 5 / NANO)
        (tmp_path / "ledger.sqlite").rename(tmp_path / "away.sqlite")
        statuses = [world.chat(HARD, headers, max_tokens=5).status_code for _ in range(8)]
        (tmp_path / "away.sqlite").rename(tmp_path / "ledger.sqlite")
        assert statuses == [200] * 5 + [429] * 3
