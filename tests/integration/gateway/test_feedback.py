"""``/v1/feedback`` over a socket: whose requests it may be about, what is kept of it, and a store that is away."""

import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from gateway import feedback_api
from ledger import feedback, keys
from ledger.request_ids import new_id
from ledger.store import now_ms
from ledger.trainable import stream_trainable
from tests.gateway_fixtures import HARD, World, running_world, wait_until
from tests.scripted_upstream import Script


def send(world: World, scope: str = "inference", **body: Any) -> httpx.Response:
    return world.client.post(f"{world.url}/v1/feedback", json=body, headers=world.headers(scope))


def asked(world: World, text: str = HARD, headers: dict[str, str] | None = None, **fields: Any) -> str:
    return world.chat(text, headers, **fields).headers["x-request-id"]


@pytest.fixture(scope="module")
def stranger(module_world: World) -> str:
    """Another caller's key."""
    _, secret = keys.create(module_world.store, "stranger", ["inference"], "test")
    headers = {"authorization": f"Bearer {secret}"}
    wait_until(lambda: module_world.client.get(f"{module_world.url}/v1/models", headers=headers).status_code == 200)
    return secret


def test_feedback_is_answered_kept_and_shown_with_its_request(world: World):
    request_id = asked(world)
    answer = send(world, request_id=request_id, score=0.25, label="tone", correction="Good day.", comment="too long")
    assert answer.status_code == 201
    assert answer.headers["content-type"] == "application/json"
    said = answer.json()
    assert said["object"] == "feedback"
    assert said["kept"] == ["score", "label", "correction", "comment"]
    shown = world.get(f"/admin/v1/requests/{request_id}").json()["feedback"]
    assert shown == [{name: value for name, value in said.items() if name not in ("object", "kept")}]
    assert (shown[0]["score"], shown[0]["correction"]) == (0.25, "Good day.")
    assert send(world, request_id=request_id, score=1).status_code == 201
    assert feedback.of_request(world.store, request_id)[0].score == 1
    assert len(world.get(f"/admin/v1/requests/{request_id}").json()["feedback"]) == 2


def test_feedback_on_an_answer_that_is_still_in_the_spool_is_taken(world: World):
    for _ in range(5):
        assert send(world, request_id=asked(world), label="seen at once").status_code == 201


def test_feedback_waits_while_the_store_is_slow_to_take_the_answer(world: World):
    with (
        closing(sqlite3.connect(world.home / "ledger.sqlite", isolation_level=None)) as other,
        ThreadPoolExecutor() as pool,
    ):
        other.execute("BEGIN IMMEDIATE")
        sent = pool.submit(send, world, request_id=asked(world), score=1)
        time.sleep(1.5)
        assert not sent.done()
        other.execute("ROLLBACK")
        assert sent.result().status_code == 201


def test_what_cannot_have_been_asked_lately_is_refused_at_once(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(feedback_api, "WAITS_S", (3_600,))
    for unknown in ("req_1", "gone", new_id(now_ms() - 2 * feedback_api.JUST_ASKED_MS)):
        assert send(world, request_id=unknown, score=1).status_code == 404


@pytest.mark.parametrize(
    "body", [{"score": 0}, {"score": 1.0}, {"label": "x"}, {"correction": "x"}, {"comment": "x"}]
)
def test_one_thing_to_say_is_enough(world: World, body: dict[str, Any]):
    answer = send(world, request_id=asked(world), **body)
    assert (answer.status_code, answer.json()["kept"]) == (201, list(body))


BAD = {
    "nothing said": ({}, "score"),
    "nothing but nulls": ({"score": None, "label": None}, "score"),
    "too high": ({"score": 1.01}, "score"),
    "negative": ({"score": -1}, "score"),
    "a text": ({"score": "0.5"}, "score"),
    "a flag": ({"score": True}, "score"),
    "an empty label": ({"label": ""}, "label"),
    "a long label": ({"label": "x" * 101}, "label"),
    "a label with NUL": ({"label": "a\0b"}, "label"),
    "a blank correction": ({"correction": " \n"}, "correction"),
    "a correction of messages": ({"correction": [{"role": "assistant", "content": "x"}]}, "correction"),
    "an unknown field": ({"score": 1, "rating": 5}, "rating"),
    "an id that is none": ({"score": 1, "request_id": 7}, "request_id"),
    "a long id": ({"score": 1, "request_id": "x" * 65}, "request_id"),
    "no id": ({"score": 1, "request_id": ...}, "request_id"),
}


@pytest.mark.parametrize(("body", "param"), BAD.values(), ids=BAD)
def test_feedback_that_is_not_understood_names_the_parameter(world: World, body: dict[str, Any], param: str):
    whole = {"request_id": "req_1"} | body
    answer = send(world, **{name: value for name, value in whole.items() if value is not ...})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)


def test_a_body_that_is_not_json_is_a_bad_request(world: World):
    for raw in (b"", b"{", b"[]", b"\xff", b"[" * 100_000):
        answer = world.client.post(f"{world.url}/v1/feedback", content=raw, headers=world.headers())
        assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


def test_a_key_is_not_told_of_the_requests_of_another(world: World, stranger: str, monkeypatch: pytest.MonkeyPatch):
    request_id = asked(world)
    world.row(request_id)
    headers = {"authorization": f"Bearer {stranger}"}
    wanted = [request_id, new_id(now_ms())]
    monkeypatch.setattr(feedback_api, "WAITS_S", (0.2, 0.4))
    refusals = [
        world.client.post(f"{world.url}/v1/feedback", json={"request_id": one, "score": 0}, headers=headers)
        for one in wanted
    ]
    assert [refusal.status_code for refusal in refusals] == [404, 404]
    assert {refusal.json()["error"]["code"] for refusal in refusals} == {"request_not_found"}
    texts = {refusal.text.replace(one, "") for one, refusal in zip(wanted, refusals, strict=True)}
    assert len(texts) == 1, "both refusals read alike"
    assert feedback.of_request(world.store, request_id) == []


def test_an_admin_key_speaks_of_any_request_and_a_reading_key_of_none(world: World):
    request_id = asked(world)
    assert send(world, "admin", request_id=request_id, score=1).status_code == 201
    assert send(world, "read", request_id=request_id, score=1).status_code == 403


def test_texts_about_a_request_that_was_not_logged_are_nowhere(world: World):
    request_id = asked(world, headers={"x-stillroom-log": "off"})
    secret = "canary-of-the-feedback"
    answer = send(world, request_id=request_id, score=0.0, correction=secret, comment=secret)
    assert (answer.status_code, answer.json()["kept"]) == (201, ["score"])
    assert secret not in answer.text
    refused = send(world, request_id=request_id, correction=secret)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "content_not_kept")
    assert secret.encode() not in world.everything_written()


def test_a_students_answer_that_is_corrected_is_trained_on(world: World):
    request_id = asked(world, "please greet politely w1")
    assert world.row(request_id)["route"] == "student"
    send(world, request_id=request_id, correction="Good day to you.")
    found = {values["id"]: content for values, content in stream_trainable(world.store)}
    assert found[request_id].answer == "Good day to you."


@pytest.fixture
def lost_store(router, tmp_path: Path) -> Iterator[World]:
    with running_world(tmp_path, router) as world:
        world.teacher.script = Script()
        world.row(asked(world))
        moved = world.home / "ledger.sqlite"
        moved.rename(world.home / "gone.sqlite")
        yield world
        (world.home / "gone.sqlite").rename(moved)


def test_feedback_that_cannot_be_kept_is_refused_for_now(lost_store: World):
    request_id = asked(lost_store)
    answer = send(lost_store, request_id=request_id, score=1)
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    assert answer.json()["error"]["code"] == "service_unavailable"


def test_the_admin_api_says_that_the_store_is_away(lost_store: World):
    wait_until(lambda: not lost_store.app.state.live.store_reachable)
    answer = lost_store.get("/admin/v1/jobs")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "service_unavailable")


def test_without_authorisation_feedback_is_taken_from_everyone(router, tmp_path: Path):
    def open_to_all(config):
        return replace(config, auth=msgspec.structs.replace(config.auth, required=False))

    with running_world(tmp_path, router, open_to_all) as world:
        request_id = world.client.post(
            f"{world.url}/v1/chat/completions",
            json={"model": "auto", "messages": [{"role": "user", "content": HARD}]},
        ).headers["x-request-id"]
        answer = world.client.post(f"{world.url}/v1/feedback", json={"request_id": request_id, "score": 1})
        assert (answer.status_code, answer.json()["key_id"]) == (201, None)
