"""``/v1/responses``: asked of the upstreams as a chat, kept by the gateway."""

import json
import sqlite3
import time
from typing import Any

import httpx
import pytest

from gateway.responses import keep
from ledger import keys, responses
from tests.gateway_fixtures import EASY, HARD, UNSURE, World, running_world, wait_until
from tests.scripted_upstream import CACHED_TOKENS, PROMPT_TOKENS, Script, event, usage

FUNCTION = {"type": "function", "name": "locate", "parameters": {"type": "object"}, "strict": True}
CALLED = {"id": "call_1", "type": "function", "function": {"name": "locate", "arguments": '{"parcel":7}'}}


def create(
    world: World, value: Any = EASY, headers: dict[str, str] | None = None, scope: str = "inference", **fields: Any
) -> httpx.Response:
    body = {"model": "auto", "input": value, **fields}
    sent = world.headers(scope) | (headers or {})
    return world.client.post(f"{world.url}/v1/responses", json=body, headers=sent)


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in answer.text.split("\n") if line.startswith("data: ")]


def final(answer: httpx.Response) -> dict[str, Any]:
    """The response object, whichever way it came."""
    streamed = answer.headers["content-type"].startswith("text/event-stream")
    return events(answer)[-1]["response"] if streamed else answer.json()


def text(response: dict[str, Any]) -> str:
    return "".join(part["text"] for item in response["output"] for part in item.get("content", ()))


def route(answer: httpx.Response) -> tuple[str, str]:
    return answer.headers["x-stillroom-route"], answer.headers["x-stillroom-reason"]


def look_up(world: World, response_id: str, scope: str = "inference") -> httpx.Response:
    return world.get(f"/v1/responses/{response_id}", scope)


CASES = {
    ("student", "confident"): (EASY, -0.02, "The student says good day."),
    ("teacher", "hard"): (HARD, -0.02, "The teacher says good day."),
    ("teacher", "low_confidence"): (EASY, UNSURE, "The teacher says good day."),
}


@pytest.mark.parametrize("expected", CASES, ids="-".join)
@pytest.mark.parametrize("stream", [False, True])
def test_a_response_is_routed_as_a_chat_is(world: World, expected: tuple[str, str], stream: bool):
    asked, logprob, said = CASES[expected]
    world.student.script = Script(text="The student says good day.", logprob=logprob)
    answer = create(world, asked, stream=stream, instructions="Be kind.", max_output_tokens=50)
    assert answer.status_code == 200
    assert route(answer) == expected
    response = final(answer)
    assert (response["object"], response["status"], text(response)) == ("response", "completed", said)
    assert response["usage"]["input_tokens"] == PROMPT_TOKENS
    assert response["usage"]["input_tokens_details"]["cached_tokens"] == CACHED_TOKENS
    seen = getattr(world, expected[0]).seen[0]
    assert (seen.path, seen.body["max_completion_tokens"]) == ("/v1/chat/completions", 50)
    assert [message["role"] for message in seen.body["messages"]] == ["system", "user"]
    row, content = world.recorded(answer.headers["x-request-id"])
    assert (row["endpoint"], row["status"], row["trainable"], row["stream"]) == ("responses", 200, True, stream)
    assert (row["prompt_tokens"], row["completion_tokens"]) == (PROMPT_TOKENS, 5)
    assert content is not None
    assert (content.messages, content.answer) == (seen.body["messages"], said)
    assert (content.teacher_logprobs is not None) == (expected[0] == "teacher")


def test_a_streams_events_are_those_of_openai(world: World):
    answer = create(world, stream=True)
    kinds = [said["type"] for said in events(answer)]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[4:9] == ["response.output_text.delta"] * 5
    assert kinds[9:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [said["sequence_number"] for said in events(answer)] == list(range(len(kinds)))
    assert "[DONE]" not in answer.text
    assert answer.text.startswith("event: response.created\n")


def test_a_stream_is_passed_on_as_it_comes(world: World):
    world.teacher.script = Script(text="one two three four", gap=0.1)
    body = {"model": "teacher", "input": "count", "stream": True}
    with world.client.stream("POST", f"{world.url}/v1/responses", json=body, headers=world.headers()) as answer:
        arrived = [time.monotonic() for _ in answer.iter_bytes()]
    assert arrived[-1] - arrived[0] > 0.25


@pytest.mark.parametrize("stream", [False, True])
def test_a_function_is_called_and_its_output_goes_out(world: World, stream: bool):
    first = {"delta" if stream else "message": {"content": None, "tool_calls": [CALLED | {"index": 0}]}}
    choice = {"index": 0, "finish_reason": "tool_calls", **first}
    chunk = {"model": "frontier", "choices": [choice], "usage": usage(3)}
    script = Script(events=(event(chunk), event(b"[DONE]"))) if stream else Script(body=json.dumps(chunk).encode())
    world.teacher.reset(Script(text="It is in Ghent."), [script])
    answer = create(world, stream=stream, tools=[FUNCTION], tool_choice="required")
    assert route(answer) == ("teacher", "unsupported")
    (item,) = final(answer)["output"]
    assert (item["type"], item["call_id"], item["name"], item["arguments"]) == (
        "function_call", "call_1", "locate", '{"parcel":7}',
    )  # fmt: skip
    asked = world.teacher.seen[0].body
    assert asked["tools"] == [
        {"type": "function", "function": {k: FUNCTION[k] for k in ("name", "parameters", "strict")}}
    ]
    assert asked["tool_choice"] == "required"
    output = {"type": "function_call_output", "call_id": "call_1", "output": "Ghent"}
    second = create(world, [output], previous_response_id=final(answer)["id"], tools=[FUNCTION])
    assert text(final(second)) == "It is in Ghent."
    sent = world.teacher.seen[1].body["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "tool"]
    assert sent[1]["tool_calls"] == [CALLED]
    assert sent[2] == {"role": "tool", "tool_call_id": "call_1", "content": "Ghent"}


@pytest.mark.parametrize("stream", [False, True])
def test_a_conversation_goes_on_from_its_last_response(world: World, stream: bool):
    first = final(
        create(world, "please greet politely one", stream=stream, model="student", instructions="Only now.")
    )
    second = final(
        create(world, "please greet politely two", stream=stream, model="student", previous_response_id=first["id"])
    )
    third = create(
        world, "please greet politely three", stream=stream, model="student", previous_response_id=second["id"]
    )
    assert final(third)["previous_response_id"] == second["id"]
    said = "The student says good day."
    conversation = [
        {"role": "user", "content": "please greet politely one"},
        {"role": "assistant", "content": said},
        {"role": "user", "content": "please greet politely two"},
        {"role": "assistant", "content": said},
        {"role": "user", "content": "please greet politely three"},
    ]
    assert world.student.seen[2].body["messages"] == conversation
    _, content = world.recorded(third.headers["x-request-id"])
    assert content is not None
    assert content.messages == conversation


def test_a_response_can_be_looked_up_at_once_and_when_it_is_saved(world: World):
    answer = create(world, metadata={"order": "7"})
    created = answer.json()
    assert look_up(world, created["id"]).content == answer.content
    wait_until(lambda: responses.get(world.store, created["id"]) is not None)
    found = look_up(world, created["id"])
    assert (found.content, found.headers["content-type"]) == (answer.content, "application/json")
    kept = responses.get(world.store, created["id"])
    assert kept is not None
    assert (kept.request_id, kept.previous_id) == (answer.headers["x-request-id"], None)


def test_a_streamed_response_is_kept_as_its_last_event_showed_it(world: World):
    response = final(create(world, stream=True))
    assert look_up(world, response["id"]).json() == response


def test_the_input_is_listed_newest_first_and_in_pages(world: World):
    first = create(world, "please greet politely one").json()
    second = create(world, [{"role": "user", "content": "please two"}], previous_response_id=first["id"]).json()
    path = f"/v1/responses/{second['id']}/input_items"
    listed = world.get(path, "inference").json()
    assert [item["content"][0]["text"] for item in listed["data"]] == [
        "please two", "The student says good day.", "please greet politely one",
    ]  # fmt: skip
    assert (listed["object"], listed["has_more"]) == ("list", False)
    page = world.get(f"{path}?limit=1&order=asc", "inference").json()
    assert (page["data"][0]["content"][0]["text"], page["has_more"]) == ("please greet politely one", True)
    rest = world.get(f"{path}?order=asc&after={page['last_id']}", "inference").json()
    assert [item["id"] for item in rest["data"]] == [item["id"] for item in listed["data"][1::-1]]
    assert world.get(f"{path}?limit=0", "inference").status_code == 400
    assert world.get(f"{path}?order=up", "inference").status_code == 400


def test_a_deleted_response_is_gone_and_cannot_be_gone_on_from(world: World):
    response = create(world).json()
    deleted = world.client.delete(f"{world.url}/v1/responses/{response['id']}", headers=world.headers())
    assert deleted.json() == {"id": response["id"], "object": "response", "deleted": True}
    assert look_up(world, response["id"]).status_code == 404
    assert responses.get(world.store, response["id"]) is None
    answer = create(world, previous_response_id=response["id"])
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "previous_response_not_found")
    assert answer.json()["error"]["param"] == "previous_response_id"


def test_a_key_sees_its_own_responses_only_and_an_admin_all(world: World):
    other = keys.create(world.store, "other", ["inference"], "test")[1]
    wait_until(lambda: world.client.get(f"{world.url}/v1/models", headers=bearer(other)).status_code == 200)
    response = create(world).json()
    path = f"{world.url}/v1/responses/{response['id']}"
    for seen in (
        world.client.get(path, headers=bearer(other)),
        world.client.get(f"{path}/input_items", headers=bearer(other)),
        world.client.delete(path, headers=bearer(other)),
    ):
        assert (seen.status_code, seen.json()["error"]["type"]) == (404, "invalid_request_error")
    body = {"model": "auto", "input": "x", "previous_response_id": response["id"]}
    stolen = world.client.post(f"{world.url}/v1/responses", json=body, headers=bearer(other))
    assert stolen.status_code == 400
    assert look_up(world, response["id"], "admin").status_code == 200


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fields", "headers"), [({"store": False}, {}), ({}, {"x-stillroom-log": "off"})], ids=["store", "log"]
)
def test_what_is_not_to_be_stored_is_not_kept(world: World, fields: dict, headers: dict, stream: bool):
    canary = f"canary-{stream}-{len(headers)}-zither"
    answer = create(world, f"{HARD} {canary}", headers, stream=stream, **fields)
    assert answer.status_code == 200
    assert look_up(world, final(answer)["id"]).status_code == 404
    assert world.row(answer.headers["x-request-id"])["trainable"] is False
    if headers:
        assert canary.encode() not in world.everything_written()


@pytest.mark.parametrize("stream", [False, True])
def test_a_cut_answer_is_incomplete(world: World, stream: bool):
    part = {"delta" if stream else "message": {"content": "half an"}}
    chunk = {"model": "frontier", "choices": [{"index": 0, "finish_reason": "length", **part}]}
    done = event(b"[DONE]")
    world.teacher.script = Script(events=(event(chunk), done)) if stream else Script(body=json.dumps(chunk).encode())
    response = final(create(world, HARD, stream=stream))
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert text(response) == "half an"


def test_a_stream_that_breaks_off_ends_in_a_failed_response(world: World):
    world.teacher.script = Script(text="one two three four five", cut_after=3)
    answer = create(world, HARD, stream=True)
    last = events(answer)[-1]
    assert (last["type"], last["response"]["status"]) == ("response.failed", "failed")
    assert last["response"]["error"]["code"] == "server_error"
    assert look_up(world, last["response"]["id"]).status_code == 404
    row = world.row(answer.headers["x-request-id"])
    assert row["status"] == 502


def test_a_client_that_leaves_closes_the_upstream(world: World):
    world.teacher.script = Script(text="word " * 2_000, gap=0.02)
    body = {"model": "teacher", "input": "count", "stream": True}
    with world.client.stream("POST", f"{world.url}/v1/responses", json=body, headers=world.headers()) as answer:
        next(answer.iter_bytes())
    assert world.teacher.seen[0].has_left()
    assert world.row(answer.headers["x-request-id"])["status"] == 499


@pytest.mark.parametrize("stream", [False, True])
def test_an_upstreams_refusal_is_passed_on(world: World, stream: bool):
    body = {"error": {"message": "no", "type": "t", "param": "p", "code": "c"}}
    world.teacher.script = Script(status=400, body=json.dumps(body).encode())
    answer = create(world, HARD, stream=stream)
    assert (answer.status_code, answer.json()) == (400, body)


def test_logprobs_are_those_that_were_asked_for(world: World):
    plain = create(world, HARD).json()
    assert plain["output"][0]["content"][0]["logprobs"] == []
    answer = create(world, HARD, include=["message.output_text.logprobs"], top_logprobs=2).json()
    tokens = answer["output"][0]["content"][0]["logprobs"]
    assert [token["token"] for token in tokens] == world.teacher.script.tokens
    assert {len(token["top_logprobs"]) for token in tokens} == {2}


@pytest.mark.parametrize("fields", [{"background": True}, {"tools": [{"type": "web_search"}]}, {"conversation": "c"}])
def test_what_cannot_be_done_is_refused_before_anything_is_asked(world: World, fields: dict):
    answer = create(world, **fields)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported_parameter")
    assert world.student.seen == world.teacher.seen == []


def test_a_response_that_is_over_cannot_be_streamed_again(world: World):
    answer = world.get(f"/v1/responses/{create(world).json()['id']}?stream=true", "inference")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported_parameter")


def test_without_the_store_responses_are_answered_held_and_saved_later(router, tmp_path, monkeypatch):
    monkeypatch.setattr(keep, "MAX_PAUSE_S", 0.2)
    with running_world(tmp_path, router) as world:
        saved = create(world).json()
        wait_until(lambda: responses.get(world.store, saved["id"]) is not None)
        database = tmp_path / "ledger.sqlite"
        database.rename(tmp_path / "away")
        held = create(world)
        assert held.status_code == 200
        assert look_up(world, held.json()["id"]).content == held.content
        missing = look_up(world, saved["id"])
        assert (missing.status_code, missing.headers["retry-after"]) == (503, "1")
        going_on = create(world, previous_response_id=saved["id"])
        assert going_on.status_code == 503
        wait_until(lambda: "stillroom_response_save_failures_total 0.0" not in world.get("/metrics").text)
        (tmp_path / "away").rename(database)
        wait_until(lambda: responses.get(world.store, held.json()["id"]) is not None)


def test_what_is_held_is_bounded_and_a_shutdown_saves_it(router, tmp_path, monkeypatch):
    monkeypatch.setattr(keep, "MAX_UNSAVED_BYTES", 8_000)
    with running_world(tmp_path, router) as world:
        blocker = sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        kept = [create(world).json()["id"] for _ in range(12)]
        lost = float(world.get("/metrics").text.partition("\nstillroom_responses_lost_total ")[2].split()[0])
        assert 0 < lost < 12
        blocker.execute("ROLLBACK")
        blocker.close()
        wait_until(lambda: responses.get(world.store, kept[-1]) is not None)
        last = create(world).json()["id"]
    connection = sqlite3.connect(tmp_path / "ledger.sqlite")
    assert connection.execute("SELECT count(*) FROM responses WHERE id = ?", (last,)).fetchone() == (1,)
    connection.close()
