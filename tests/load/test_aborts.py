"""Clients that leave at random points: their upstreams' calls are closed soon, and nothing is left of them."""

import asyncio
import json
import random
import socket
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import psutil
import pytest
import uvloop

from router.model import RouterModel
from tests.gateway_fixtures import EASY, HARD, SURE, UNSURE, World, chat_body, running_world, wait_until
from tests.load.traffic import tell
from tests.scripted_upstream import WAIT_S, Script, Seen, stream_events

ABORTS, AT_ONCE = 200, 8
PROMISED = 0.25
"""Seconds until the upstream's call is closed, on a machine of one's own: told, and not asserted."""
RESET = struct.pack("ii", 1, 0)
ASKED = {"model": "m", "logprobs": True, "top_logprobs": 5}


@pytest.fixture(scope="module")
def world(router: RouterModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running_world(tmp_path_factory.mktemp("aborts"), router) as world:
        yield world


@dataclass(frozen=True)
class Abort:
    """One client: how it asks, how much of its request it sends, how long it stays, and how it leaves."""

    number: int
    text: str
    stream: bool
    sent: float
    """The share of the request's bytes; 1 for most."""
    stays: float
    """Seconds."""
    resets: bool


def aborts(seed: int) -> list[Abort]:
    chance = random.Random(seed)
    return [
        Abort(
            number=number,
            text=chance.choice([EASY, HARD]),
            stream=chance.random() < 0.7,
            sent=chance.choice([1, 1, 1, 1, chance.random()]),
            stays=chance.choice([0, chance.uniform(0, 0.1), chance.uniform(0, 0.3), chance.uniform(0, 0.3)]),
            resets=chance.random() < 0.5,
        )
        for number in range(ABORTS)
    ]


def request_of(world: World, abort: Abort, marker: str) -> bytes:
    body = json.dumps(chat_body(f"{abort.text} {marker}", stream=abort.stream)).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {world.secrets['inference']}\r\ncontent-length: {len(body)}\r\n"
        f"x-stillroom-tags: aborted\r\n\r\n"
    )
    return head.encode() + body


def calls(world: World, marker: str) -> list[Seen]:
    """What the upstreams were asked for this request."""
    seen = [*world.student.seen, *world.teacher.seen]
    return [one for one in seen if one.body["messages"][-1]["content"].endswith(f" {marker}")]


def leave(world: World, abort: Abort, seed: int) -> float | None:
    """Ask and leave. Returns the seconds until the upstream's call was closed, None where none was under way."""
    marker = f"<{seed}.{abort.number}>"
    request = request_of(world, abort, marker)
    with socket.create_connection(("127.0.0.1", world.port), timeout=WAIT_S) as connection:
        connection.sendall(request[: round(len(request) * abort.sent)])
        connection.settimeout(abort.stays or 0.001)
        left_at = time.monotonic() + abort.stays
        while (now := time.monotonic()) < left_at:
            connection.settimeout(left_at - now)
            try:
                if not connection.recv(4096):
                    break
            except TimeoutError:
                break
        if abort.resets:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    began = time.monotonic()
    open_calls = [seen for seen in calls(world, marker) if not seen.over.is_set()]
    for seen in open_calls:
        # a stream has no other end than that the gateway leaves it
        closed = seen.has_left() if seen.body.get("stream") else seen.over.wait(WAIT_S)
        assert closed, f"{abort} left its call open"
    return time.monotonic() - began if open_calls else None


def gateways_tasks() -> int:
    """Tasks of the gateway's loop, the only one here that is uvloop's."""
    tasks = [task for task in asyncio.tasks._all_tasks if not task.done()]
    return sum(isinstance(task.get_loop(), uvloop.Loop) for task in tasks)


def all_leave(world: World, seed: int) -> list[float]:
    """Seconds until each call was closed that was under way."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        took = list(pool.map(lambda abort: leave(world, abort, seed), aborts(seed)))
    return sorted(seconds for seconds in took if seconds is not None)


def endless(logprob: float) -> Script:
    """A stream that nobody sees the end of; a plain answer takes a tenth of a second."""
    words = Script(text="word " * 4_000, logprob=logprob)
    return Script(text="one two", events=tuple(stream_events(ASKED, words)), logprob=logprob, delay=0.1, gap=0.01)


@pytest.mark.parametrize("logprob", [SURE, UNSURE], ids=["trusted", "escalated"])
def test_clients_that_leave_at_random_points_leave_nothing_behind(world: World, logprob: float):
    world.student.reset(endless(logprob))
    world.teacher.reset(endless(SURE))
    seed = round(-100 * logprob)
    all_leave(world, -seed)  # what is opened once for all, is open now
    wait_until(lambda: "stillroom_in_flight_requests 0.0" in world.get("/metrics").text)
    process = psutil.Process()
    sockets, files, tasks = len(process.net_connections()), process.num_fds(), gateways_tasks()
    took = all_leave(world, seed)
    quantiles = [took[min(len(took) - 1, int(len(took) * q))] * 1000 for q in (0.5, 0.9, 0.99, 1)]
    tell("{} of {} calls under way, closed within (p50, p90, p99, max): {:.0f}, {:.0f}, {:.0f}, {:.0f} ms; {} "
         "within {:.0f} ms".format(len(took), ABORTS, *quantiles, sum(s <= PROMISED for s in took), PROMISED * 1000)
    )  # fmt: skip
    assert len(took) > ABORTS / 4
    every = [*world.student.seen, *world.teacher.seen]
    wait_until(lambda: all(seen.over.is_set() for seen in every))
    wait_until(lambda: "stillroom_in_flight_requests 0.0" in world.get("/metrics").text)
    wait_until(lambda: len(process.net_connections()) <= sockets + 2 and gateways_tasks() <= tasks + 2)
    # the store's pool may hold a few connections more than before, of two or three files each
    assert process.num_fds() < files + ABORTS / 5
