"""Clients that read slowly, or never finish a header: memory stays bounded, and the others are served."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass

import pytest

from router.model import RouterModel
from tests.gateway_fixtures import HARD, chat_body, wait_until
from tests.load.conftest import Arena, arena_of
from tests.load.traffic import Load, Tally, tell
from tests.scripted_upstream import Script, event

READERS, STREAM_BYTES, EVENT_BYTES = 100, 2_000_000, 10_000
BYTES_PER_SECOND = 100
MAX_GROWTH = 80 * 1024 * 1024
LORISES = 200
CHUNK = {
    "id": "1",
    "object": "chat.completion.chunk",
    "choices": [{"index": 0, "delta": {"content": "x" * EVENT_BYTES}}],
}
LONG = Script(text="one two three", events=(event(CHUNK),) * (STREAM_BYTES // EVENT_BYTES) + (event(b"[DONE]"),))


@pytest.fixture(scope="module")
def module_arena(router: RouterModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    """With the timeouts of the settings' defaults: nobody here is late but the clients."""
    with arena_of(tmp_path_factory.mktemp("slow"), router, limits="") as arena:
        yield arena


def raw_request(arena: Arena, body: bytes) -> bytes:
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {arena.gateway.secret}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def connected(arena: Arena, sent: bytes) -> socket.socket:
    """A connection with a small window, on which this was sent."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(connection, ("127.0.0.1", arena.gateway.port))
    await loop.sock_sendall(connection, sent)
    return connection


async def read_slowly(connection: socket.socket) -> None:
    loop, read = asyncio.get_running_loop(), True
    while read:
        await asyncio.sleep(0.5)
        read = await loop.sock_recv(connection, BYTES_PER_SECOND // 2)


@contextlib.asynccontextmanager
async def slow_readers(arena: Arena) -> AsyncGenerator[None]:
    request = raw_request(arena, json.dumps(chat_body(HARD, stream=True)).encode())
    connections = [await connected(arena, request) for _ in range(READERS)]
    readers = [asyncio.create_task(read_slowly(connection)) for connection in connections]
    try:
        yield
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        for connection in connections:
            connection.close()


@dataclass(frozen=True)
class Beside:
    """What was measured while the slow readers read."""

    tally: Tally
    """Of the others."""
    growth: int
    """Of the gateway's memory (bytes)."""
    passed: int
    """Bytes that the teacher could send to the slow readers."""
    passed_later: int
    """And in the following second."""


async def beside_slow_readers(arena: Arena) -> Beside:
    async with Load(arena.gateway, 4) as load:
        await load.each_asked()
    teacher, network = arena.upstreams["teacher"], arena.networks["teacher"]
    before = arena.gateway.system.memory_info().rss
    teacher.script, network.passed = LONG, 0
    async with slow_readers(arena):
        await asyncio.to_thread(wait_until, lambda: network.quiet_since() > 3)
        passed, teacher.script = network.passed, Script(text="one two three")
        async with Load(arena.gateway, 4) as load:
            await asyncio.sleep(1)
            await load.each_asked()
        growth = arena.gateway.system.memory_info().rss - before
        return Beside(load.tally, growth, passed, network.passed - passed)


def test_slow_readers_hold_a_bounded_memory_and_the_upstreams_are_not_read_further(arena: Arena):
    beside = asyncio.run(beside_slow_readers(arena))
    tell(f"memory grew by {beside.growth / 1e6:.1f} MB; the teacher could send {beside.passed / 1e6:.1f} MB of "
         f"{READERS * STREAM_BYTES / 1e6:.0f} MB, then {beside.passed_later / 1e6:.2f} MB")  # fmt: skip
    tell(f"beside {READERS} slow readers: {beside.tally.summary()}")
    assert beside.growth < MAX_GROWTH
    assert beside.passed < READERS * STREAM_BYTES / 2, "the gateway read on although nobody reads from it"
    assert beside.passed_later < READERS * 10_000
    assert_served(beside.tally)
    wait_until(lambda: all(seen.over.is_set() for seen in arena.upstreams["teacher"].seen))
    wait_until(lambda: arena.gateway.metric("stillroom_in_flight_requests") == 0)


def assert_served(tally: Tally) -> None:
    assert (tally.improper, tally.cut, tally.refused, tally.broken) == ([], 0, [], [])
    assert len(tally.answered) >= 3 * 4


async def beside_half_open(arena: Arena, sent: bytes, connections: int) -> Tally:
    """What became of the others while so many connections have sent this and nothing more."""
    opened = [await connected(arena, sent) for _ in range(connections)]
    async with Load(arena.gateway, 4) as load:
        await asyncio.sleep(1.5)
        await load.each_asked()
    for connection in opened:
        connection.close()
    return load.tally


@pytest.mark.parametrize(
    "part",
    [b"POST /v1/chat/comple", b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nx-slow: ", None],
    ids=["first line", "headers", "body"],
)
def test_half_open_requests_do_not_affect_the_others(arena: Arena, part: bytes | None):
    sent = raw_request(arena, json.dumps(chat_body()).encode())[:-5] if part is None else part
    before = arena.gateway.system.num_fds()
    tally = asyncio.run(beside_half_open(arena, sent, LORISES))
    tell(f"beside {LORISES} half-open requests: {tally.summary()}")
    assert_served(tally)
    wait_until(lambda: arena.gateway.system.num_fds() <= before + 10)


def test_none_of_these_clients_is_an_internal_error(arena: Arena):
    assert "internal_error" not in arena.gateway.log()
    assert "Traceback" not in arena.gateway.log()
