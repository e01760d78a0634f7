"""``Idempotency-Key`` with real requests: once done, replayed to the byte, and never a second row."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from ledger.requests import count
from tests.gateway_fixtures import EASY, HARD, SURE, World, chat_body, wait_until
from tests.scripted_upstream import WAIT_S, Script

NUMBERS = iter(range(10**6))


@pytest.fixture
def name() -> Iterator[dict[str, str]]:
    """A header that no other test sends."""
    yield {"idempotency-key": f"order-{next(NUMBERS)}"}


def replayed(answer: httpx.Response) -> bool:
    return answer.headers.get("x-stillroom-idempotent-replay") == "true"


def rows(world: World, *answers: httpx.Response) -> int:
    """How many rows there are once these answers are recorded."""
    for answer in answers:
        world.row(answer.headers["x-request-id"])
    return count(world.store)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("text", [EASY, HARD])
def test_the_same_request_again_gets_the_same_answer_and_no_row(world: World, name: dict, stream: bool, text: str):
    first = world.chat(text, name, stream=stream)
    before = rows(world, first)
    asked = len(world.student.seen) + len(world.teacher.seen)
    world.student.script = world.teacher.script = Script(text="Something else.", logprob=SURE)
    for _ in range(3):
        again = world.chat(text, name, stream=stream)
        assert replayed(again)
        assert again.content == first.content
        assert again.status_code == first.status_code == 200
        for header in ("x-request-id", "x-stillroom-route", "x-stillroom-reason", "content-type"):
            assert again.headers[header] == first.headers[header]
    assert not replayed(first)
    assert len(world.student.seen) + len(world.teacher.seen) == asked
    other = world.chat(text)
    assert rows(world, other) == before + 1


def test_a_request_under_way_conflicts(world: World, name: dict):
    until = threading.Event()
    world.student.script = Script(logprob=SURE, until=until)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(httpx.post, f"{world.url}/v1/chat/completions", json=chat_body(),
                              headers=world.headers() | name, timeout=WAIT_S)  # fmt: skip
        wait_until(lambda: len(world.student.seen) == 1)
        second = world.chat(headers=name)
        other = world.chat("other words", name)
        until.set()
    assert (second.status_code, second.json()["error"]["code"]) == (409, "idempotency_conflict")
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_mismatch")
    assert running.result().status_code == 200
    assert replayed(world.chat(headers=name))


def test_another_body_path_or_caller_is_another_request(world: World, name: dict):
    first = world.chat(headers=name)
    assert world.chat("other words", name).json()["error"]["code"] == "idempotency_mismatch"
    path = world.client.post(f"{world.url}/v1/completions", json=chat_body(), headers=world.headers() | name)
    assert path.status_code == 422
    theirs = world.chat(headers=name | world.headers("admin"))
    assert theirs.status_code == 200
    assert theirs.headers["x-request-id"] != first.headers["x-request-id"]


@pytest.mark.parametrize(
    "script", [Script(status=500), Script(status=429), Script(raw=b"")], ids=["500", "429", "gone"]
)
def test_a_fault_frees_the_key(world: World, name: dict, script: Script):
    world.student.script = script
    assert world.chat(headers=name, model="student").status_code >= 429
    world.student.script = Script(logprob=SURE)
    again = world.chat(headers=name, model="student")
    assert (again.status_code, replayed(again)) == (200, False)


@pytest.mark.parametrize(
    ("fields", "status"),
    [({"messages": []}, 400), ({"model": "none"}, 404), ({"model": "student", "x": 1}, 422)],
)
def test_a_refusal_of_the_request_itself_is_replayed(world: World, name: dict, fields: dict, status: int):
    world.student.script = Script(status=422, body=b'{"error":{"message":"no","type":"t","param":null,"code":"c"}}')
    first, again = world.chat(headers=name, **fields), world.chat(headers=name, **fields)
    assert first.status_code == again.status_code == status
    assert (replayed(first), replayed(again)) == (False, True)
    assert again.content == first.content
    assert again.headers["x-request-id"] == first.headers["x-request-id"]


def test_a_stream_that_broke_off_is_done_again(world: World, name: dict):
    world.student.script = Script(logprob=SURE, cut_after=6)
    broken = world.chat(headers=name, stream=True)
    assert "[DONE]" not in broken.text
    world.student.script = Script(logprob=SURE)
    again = world.chat(headers=name, stream=True)
    assert not replayed(again)
    assert again.text.endswith("data: [DONE]\n\n")


def test_a_client_that_left_may_ask_again(world: World, name: dict):
    world.student.script = Script(logprob=SURE, delay=5)
    left = threading.Event()

    def leave() -> None:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(
                f"{world.url}/v1/chat/completions", json=chat_body(), headers=world.headers() | name, timeout=0.2
            )
        left.set()

    threading.Thread(target=leave).start()
    assert left.wait(WAIT_S)
    wait_until(lambda: world.app.state.admission.in_flight == 0)
    world.student.script = Script(logprob=SURE)
    again = world.chat(headers=name)
    assert (again.status_code, replayed(again)) == (200, False)


def test_feedback_is_given_once(world: World, name: dict):
    request_id = world.chat().headers["x-request-id"]
    world.row(request_id)
    said = {"request_id": request_id, "score": 1.0}
    answers = [
        world.client.post(f"{world.url}/v1/feedback", json=said, headers=world.headers() | name) for _ in range(2)
    ]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json()["id"] == answers[1].json()["id"]
    assert replayed(answers[1])


def test_a_response_is_made_once(world: World, name: dict):
    body = {"model": "auto", "input": EASY}
    for stream in (False, True):
        headers = world.headers() | {"idempotency-key": f"{name['idempotency-key']}-{stream}"}
        answers = [
            world.client.post(f"{world.url}/v1/responses", json=body | {"stream": stream}, headers=headers)
            for _ in range(2)
        ]
        assert [answer.status_code for answer in answers] == [200, 200]
        assert answers[0].content == answers[1].content
        assert replayed(answers[1])


@pytest.mark.parametrize("value", ["", "x" * 256])
def test_a_key_of_no_length_or_too_much_is_a_bad_request(world: World, value: str):
    answer = world.chat(headers={"idempotency-key": value})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "idempotency-key")
    assert world.chat(headers={"idempotency-key": "y" * 255}).status_code == 200


def test_a_wrong_key_is_told_nothing_of_an_answer(world: World, name: dict):
    world.chat(headers=name)
    answer = world.chat(headers=name | {"authorization": "Bearer wrong"})
    assert answer.status_code == 401
