"""Clients that leave a real vLLM's answers, many at once: its own count of running requests falls to none."""

import json
import re
import socket
import urllib.request
from collections.abc import Iterator
from dataclasses import replace

import msgspec
import pytest

from gateway.app import GatewayConfig
from router.model import RouterModel
from tests.engine_fixtures import TinyEngine
from tests.gateway_fixtures import World, chat_body, running_world, wait_until
from tests.scripted_upstream import WAIT_S

pytestmark = pytest.mark.engine

CLIENTS, TOKENS = 6, 900


@pytest.fixture(scope="module")
def world(router: RouterModel, tiny_engine: TinyEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    def patient(config: GatewayConfig) -> GatewayConfig:
        limits = {"first_byte_timeout_seconds": 60.0, "timeout_seconds": 60.0}
        return replace(config, student=msgspec.structs.replace(config.student, **limits))

    with running_world(tmp_path_factory.mktemp("freed"), router, patient, f"{tiny_engine.base_url}/v1") as world:
        yield world


def counted(engine: TinyEngine, metric: str = r"num_requests_(?:running|waiting)") -> int:
    """By vLLM's own metrics; requests that it runs or keeps waiting."""
    with urllib.request.urlopen(f"{engine.base_url}/metrics", timeout=WAIT_S) as answer:
        text = answer.read().decode()
    found = re.findall(rf"^vllm:{metric}\{{[^}}]*\}} ([0-9.e+]+)", text, re.MULTILINE)
    assert found
    return int(sum(map(float, found)))


def ask(world: World, stream: bool) -> socket.socket:
    body = json.dumps(chat_body("Count", model="student", stream=stream, max_tokens=TOKENS, ignore_eos=True)).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {world.secrets['inference']}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    connection = socket.create_connection(("127.0.0.1", world.port), timeout=WAIT_S)
    connection.sendall(head.encode() + body)
    return connection


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_clients_that_leave_free_the_engine(world: World, tiny_engine: TinyEngine, stream: bool):
    before = counted(tiny_engine, "generation_tokens_total")
    connections = [ask(world, stream) for _ in range(CLIENTS)]
    wait_until(lambda: counted(tiny_engine) == CLIENTS)
    for connection in connections:
        connection.close()
    wait_until(lambda: counted(tiny_engine) == 0)
    # nothing was generated to its end
    assert counted(tiny_engine, "generation_tokens_total") - before < CLIENTS * TOKENS
    assert "stillroom_in_flight_requests 0.0" in world.get("/metrics").text
