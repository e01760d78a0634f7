"""More requests than the gateway takes at once: those beyond are refused at once, the others are answered."""

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace

import httpx
import msgspec
import pytest

from gateway.app import GatewayConfig
from router.model import RouterModel
from tests.gateway_fixtures import World, chat_body, running_world, wait_until
from tests.scripted_upstream import FOREVER, WAIT_S, Script

MAX_IN_FLIGHT, CLIENTS = 4, 24
NOTHING = threading.Event()


def small(config: GatewayConfig) -> GatewayConfig:
    """With a teacher that nobody is impatient with."""
    return replace(
        config,
        gateway=msgspec.structs.replace(config.gateway, max_in_flight=MAX_IN_FLIGHT),
        teacher=msgspec.structs.replace(config.teacher, timeout_seconds=FOREVER, first_byte_timeout_seconds=FOREVER),
    )


@pytest.fixture(scope="module")
def world(router: RouterModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running_world(tmp_path_factory.mktemp("overload"), router, small) as world:
        yield world


async def at_once(world: World, stream: bool, clients: int, until: threading.Event = NOTHING) -> list[httpx.Response]:
    """The answers in the order in which they were over. Sets ``until`` when only as many as are let in are left."""
    over: list[httpx.Response] = []
    async with httpx.AsyncClient(base_url=world.url, headers=world.headers(), timeout=WAIT_S) as client:

        async def ask() -> None:
            body = chat_body(model="teacher", stream=stream)
            over.append(await client.post("/v1/chat/completions", json=body))
            if len(over) == clients - MAX_IN_FLIGHT:
                until.set()

        await asyncio.gather(*(ask() for _ in range(clients)))
    return over


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_what_is_beyond_the_bound_is_refused_at_once_and_the_rest_answered(world: World, stream: bool):
    until = threading.Event()
    world.teacher.reset(Script(text="word " * 40, gap=0.005, until=until))
    answers = asyncio.run(at_once(world, stream, CLIENTS, until))
    answered = [answer for answer in answers if answer.status_code == 200]
    refused = [answer for answer in answers if answer.status_code != 200]
    assert len(answered) == MAX_IN_FLIGHT == len(world.teacher.seen)
    assert answers[-MAX_IN_FLIGHT:] == answered
    for answer in refused:
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (429, "server_is_overloaded")
        assert {"message", "type", "param", "code"} <= error.keys()
        assert int(answer.headers["retry-after"]) >= 1
    assert all(answer.text.endswith("[DONE]\n\n") for answer in answered if stream)
    for answer in answered:
        assert world.row(answer.headers["x-request-id"])["status"] == 200
    wait_until(lambda: "stillroom_in_flight_requests 0.0" in world.get("/metrics").text)


def test_a_gateway_that_was_overloaded_takes_requests_again(world: World):
    world.teacher.reset(Script(delay=0.1))
    asyncio.run(at_once(world, False, CLIENTS))
    answers = asyncio.run(at_once(world, False, MAX_IN_FLIGHT))
    assert [answer.status_code for answer in answers] == [200] * MAX_IN_FLIGHT


def test_an_overloaded_gateway_still_tells_that_it_lives(world: World):
    until = threading.Event()
    world.teacher.reset(Script(until=until))

    async def overload() -> tuple[int, int]:
        asking = asyncio.create_task(at_once(world, False, MAX_IN_FLIGHT))
        await asyncio.to_thread(wait_until, lambda: len(world.teacher.seen) == MAX_IN_FLIGHT)
        health, metrics = await asyncio.to_thread(
            lambda: (world.get("/healthz").status_code, world.get("/metrics").status_code)
        )
        until.set()
        await asking
        return health, metrics

    assert asyncio.run(overload()) == (200, 200)
