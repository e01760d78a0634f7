"""``POST /admin/v1/requests/{id}/replay`` over a socket: the same question again, to the route that is asked for."""

from typing import Any

import httpx
import pytest

from ledger import audit, keys
from ledger.policies import KeyPolicy
from ledger.replays import replays_of
from ledger.requests import get, insert_records, usage_by
from tests.gateway_fixtures import EASY, HARD, World, wait_until
from tests.scripted_upstream import Script
from tests.unit.ledger.rows import row


def replay(world: World, request_id: str, route: str, **headers: str) -> httpx.Response:
    return world.client.post(
        f"{world.url}/admin/v1/requests/{request_id}/replay",
        json={"route": route},
        headers=world.headers("admin") | headers,
    )


def asked(world: World, text: str = HARD, **fields: Any) -> str:
    request_id = world.chat(text, **fields).headers["x-request-id"]
    world.recorded(request_id)
    return request_id


@pytest.mark.parametrize(("text", "route"), [(HARD, "student"), (EASY, "teacher"), (HARD, "teacher")])
def test_a_request_is_asked_again_as_it_was_of_the_route_that_is_named(world: World, text: str, route: str):
    request_id = asked(world, text, temperature=0.3, headers={"x-stillroom-tags": "shop"}, stream=True)
    upstream = getattr(world, route)
    upstream.reset(Script(text="Another answer."))
    answer = replay(world, request_id, route)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-stillroom-reason"] == "replay"
    shown = answer.json()
    assert (shown["of"], shown["route"]) == (request_id, route)
    assert shown["answer"]["choices"][0]["message"]["content"] == "Another answer."
    (seen,) = upstream.seen
    assert (seen.body["messages"], seen.body["temperature"]) == ([{"role": "user", "content": text}], 0.3)
    assert not seen.body.get("stream")


def test_a_replay_is_a_row_of_its_own_that_says_so_and_is_billed_to_who_asked(world: World):
    request_id = asked(world)
    before = usage_by(world.store, ["reason"]).get(("replay",))
    new = replay(world, request_id, "teacher").json()["id"]
    # there as soon as it is answered
    found, content = get(world.store, new) or ({}, None)
    assert (found["route"], found["reason"], found["trainable"]) == ("teacher", "replay", False)
    assert found["tags"] == [f"replay-of:{request_id}"]
    assert found["key_id"] == next(key.id for key in keys.list_keys(world.store) if key.name == "admin-key")
    assert found["cost_nano"] > 0
    assert found["baseline_nano"] == 0
    assert content is not None
    assert content.answer == "The teacher says good day."
    assert content.teacher_logprobs is None
    assert replays_of(world.store, [request_id]) == [new]
    after = usage_by(world.store, ["reason"])["replay",]
    assert (after.requests - (before.requests if before else 0), after.baseline_nano) == (1, 0)
    shown = world.get(f"/admin/v1/requests/{request_id}").json()["replays"]
    assert [each["request"]["id"] for each in shown] == [new]


def test_who_had_what_asked_again_is_in_the_audit(world: World):
    request_id = asked(world)
    new = replay(world, request_id, "student").json()["id"]
    (entry,) = audit.entries(world.store, 1)
    assert (entry["action"], entry["subject"]) == ("request.replay", f"request:{request_id}")
    assert entry["detail"] == {"route": "student", "replay": new}
    why = world.get(f"/admin/v1/requests/{new}").json()["why"]
    assert why[0].startswith("A person asked the student an earlier request again")


def test_a_completion_and_a_response_are_asked_again_in_their_own_shape(world: World):
    body = {"model": "teacher", "prompt": "Once upon", "max_tokens": 5}
    done = world.client.post(f"{world.url}/v1/completions", json=body, headers=world.headers())
    world.recorded(done.headers["x-request-id"])
    world.teacher.reset()
    assert replay(world, done.headers["x-request-id"], "teacher").status_code == 200
    assert (world.teacher.seen[0].path, world.teacher.seen[0].body["prompt"]) == ("/v1/completions", "Once upon")
    made = world.client.post(
        f"{world.url}/v1/responses", json={"model": "teacher", "input": "Good day?"}, headers=world.headers()
    )
    world.recorded(made.headers["x-request-id"])
    world.teacher.reset()
    assert replay(world, made.headers["x-request-id"], "teacher").status_code == 200
    assert world.teacher.seen[0].body["messages"] == [{"role": "user", "content": "Good day?"}]


def test_what_is_not_kept_or_has_no_text_cannot_be_asked_again(world: World):
    silent = world.chat(headers={"x-stillroom-log": "off"}).headers["x-request-id"]
    world.recorded(silent)
    answer = replay(world, silent, "teacher")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "content_not_kept")
    insert_records(world.store, [row("vectors", endpoint="embeddings")])
    assert replay(world, "vectors", "teacher").status_code == 400
    assert replay(world, "vectors", "auto").status_code == 400


def test_an_upstreams_refusal_and_its_failure_are_answered_and_recorded(world: World):
    request_id = asked(world)
    refusal = b'{"error": {"message": "too long", "type": "invalid_request_error", "param": null, "code": "x"}}'
    world.teacher.script = Script(status=400, body=refusal)
    refused = replay(world, request_id, "teacher")
    assert (refused.status_code, refused.json()["error"]["message"]) == (400, "too long")
    assert world.row(refused.headers["x-request-id"])["status"] == 400
    world.student.script = Script(status=500)
    failed = replay(world, request_id, "student")
    assert failed.status_code == 503
    assert world.row(failed.headers["x-request-id"])["reason"] == "replay"


def test_a_spent_budget_asks_nobody(world: World):
    request_id = asked(world)
    policy = KeyPolicy(budget_day=0.000000001, budget_kind="soft")
    _, secret = keys.create(world.store, "poor-admin", ["admin"], "test", policy=policy)
    poor = {"authorization": f"Bearer {secret}"}
    assert replay(world, request_id, "student", **poor).status_code == 200
    world.teacher.reset()
    wait_until(lambda: replay(world, request_id, "teacher", **poor).status_code == 429)
    world.teacher.reset()
    assert replay(world, request_id, "teacher", **poor).json()["error"]["code"] == "insufficient_quota"
    assert world.teacher.seen == []
