"""Idempotency keys: one answer per request, replayed to the byte; bounded in time and memory."""

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from gateway.asgi import PlainAnswer, StreamedAnswer
from gateway.errors import BadRequest, Conflict, Mismatch
from gateway.idempotency import OVERHEAD, Idempotency, KeptAnswer, Running, digest_of

ONE, OTHER = digest_of("/v1/x", b"{}"), digest_of("/v1/x", b"{ }")


@dataclass
class Clock:
    """Seconds that a test moves."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


async def stay() -> Any:
    await asyncio.Event().wait()


async def sent(answer: Any) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        messages.append(message)

    await answer({"type": "http"}, stay, send)
    return messages


def body(messages: list[dict[str, Any]]) -> bytes:
    return b"".join(message.get("body", b"") for message in messages)


async def events(*chunks: bytes):
    for chunk in chunks:
        yield chunk


def begun(store: Idempotency, name: str = "n", digest: bytes = ONE, caller: str = "k") -> Running:
    running = store.begin(caller, name, digest)
    assert isinstance(running, Running)
    return running


async def keep(store: Idempotency, answer: Any, name: str = "n") -> list[dict[str, Any]]:
    return await sent(begun(store, name).watch(answer))


@pytest.mark.parametrize("status", [200, 201, 400, 404, 422])
async def test_a_whole_answer_is_replayed_to_the_byte(status: int):
    store = Idempotency()
    headers = {"x-request-id": "req_1", "x-ratelimit-remaining-requests": "3"}
    first = await keep(store, PlainAnswer(status, headers, b'{"a": 1}'))
    again = store.begin("k", "n", ONE)
    assert isinstance(again, KeptAnswer)
    replay = await sent(again)
    assert body(replay) == body(first) == b'{"a": 1}'
    assert replay[0]["status"] == status
    shown = dict(replay[0]["headers"])
    assert shown[b"x-stillroom-idempotent-replay"] == b"true"
    assert (shown[b"x-request-id"], shown[b"content-length"]) == (b"req_1", b"8")
    assert b"x-ratelimit-remaining-requests" not in shown


@pytest.mark.parametrize("status", [401, 403, 429, 499, 500, 502, 503])
async def test_an_answer_that_may_come_out_otherwise_is_not_kept(status: int):
    store = Idempotency()
    await keep(store, PlainAnswer(status, {}, b"{}"))
    begun(store)


@pytest.mark.parametrize(
    "last",
    [b"data: [DONE]\n\n", b"event: response.completed\ndata: {}\n\n", b"event: response.incomplete\ndata: {}\n\n"],
)
async def test_a_stream_that_came_to_its_end_is_replayed_whole(last: bytes):
    store = Idempotency()
    first = await keep(store, StreamedAnswer({}, events(b"data: 1\n\n", b"data: 2\n\n", last)))
    again = store.begin("k", "n", ONE)
    assert body(await sent(again)) == body(first) == b"data: 1\n\ndata: 2\n\n" + last


async def test_a_stream_that_ended_in_an_error_is_done_again():
    store = Idempotency()
    await keep(store, StreamedAnswer({}, events(b"data: 1\n\n", b'data: {"error": {}}\n\n')))
    begun(store)


async def test_an_answer_is_kept_before_its_last_byte_is_out():
    store = Idempotency()
    found: list[Any] = []

    async def send(message: Any) -> None:
        if message.get("body") == b"data: [DONE]\n\n":
            found.append(store.begin("k", "n", ONE))

    await begun(store).watch(StreamedAnswer({}, events(b"data: 1\n\n", b"data: [DONE]\n\n")))({}, stay, send)
    assert isinstance(found[0], KeptAnswer)


async def test_a_broken_answer_frees_the_key():
    async def broken(*_: Any) -> None:
        raise OSError("gone")

    store = Idempotency()
    with pytest.raises(OSError, match="gone"):
        await keep(store, broken)
    begun(store).end()
    begun(store)


async def test_a_request_under_way_conflicts_and_another_body_mismatches():
    store = Idempotency()
    running = begun(store)
    with pytest.raises(Conflict) as conflict:
        store.begin("k", "n", ONE)
    with pytest.raises(Mismatch) as mismatch:
        store.begin("k", "n", OTHER)
    assert (conflict.value.status, conflict.value.code) == (409, "idempotency_conflict")
    assert (mismatch.value.status, mismatch.value.code) == (422, "idempotency_mismatch")
    await sent(running.watch(PlainAnswer(200, {}, b"{}")))
    with pytest.raises(Mismatch):
        store.begin("k", "n", OTHER)
    # another caller's and another name's are their own
    begun(store, caller="other")
    begun(store, "m", OTHER)


@pytest.mark.parametrize("name", ["", "x" * 256])
def test_a_name_has_a_length(name: str):
    with pytest.raises(BadRequest):
        Idempotency().begin("k", name, ONE)


async def test_an_answer_is_forgotten_after_its_time():
    clock = Clock()
    store = Idempotency(ttl=10.0, clock=clock)
    await keep(store, PlainAnswer(200, {}, b"{}"))
    clock.now = 9.9
    assert isinstance(store.begin("k", "n", ONE), KeptAnswer)
    clock.now = 10.0
    begun(store)
    assert store._bytes == 0


async def test_the_oldest_answers_give_way_where_there_is_no_room():
    store = Idempotency(max_bytes=3 * (OVERHEAD + 1000))
    for number in range(10):
        await keep(store, PlainAnswer(200, {}, b"x" * 1000), f"n{number}")
        assert store._bytes <= store.max_bytes
    assert [name for _, name in store._kept] == ["n7", "n8", "n9"]
    begun(store, "n0")


async def test_an_answer_larger_than_all_the_room_is_sent_and_not_kept():
    store = Idempotency(max_bytes=5000)
    parts = [b"data: " + b"x" * 1000 + b"\n\n"] * 20
    first = await keep(store, StreamedAnswer({}, events(*parts, b"data: [DONE]\n\n")))
    assert body(first) == b"".join(parts) + b"data: [DONE]\n\n"
    begun(store)
    assert store._kept == {}


def test_path_and_body_are_told_apart():
    assert digest_of("/v1/a", b"b") != digest_of("/v1/a\0", b"b") != digest_of("/v1/", b"ab")
