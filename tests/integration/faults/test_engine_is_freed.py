"""Clients that leave a real vLLM's answers, many at once: its own count of running requests falls to none."""

import json
import re
import socket
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace

import msgspec
import pytest

from gateway.app import GatewayConfig
from router.model import RouterModel
from tests.engine_fixtures import TinyEngine
from tests.gateway_fixtures import World, chat_body, running_world, wait_until

pytestmark = pytest.mark.engine

CLIENTS = 6
BORNE = 3.0
"""Seconds. 100 ms are promised; two busy cores that also run the engine need more."""


@pytest.fixture(scope="module")
def world(router: RouterModel, tiny_engine: TinyEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    def patient(config: GatewayConfig) -> GatewayConfig:
        limits = {"first_byte_timeout_seconds": 60.0, "timeout_seconds": 60.0}
        return replace(config, student=msgspec.structs.replace(config.student, **limits))

    with running_world(tmp_path_factory.mktemp("freed"), router, patient, f"{tiny_engine.base_url}/v1") as world:
        yield world


def counted(engine: TinyEngine) -> int:
    """Requests that vLLM runs or keeps waiting, by its own metrics."""
    with urllib.request.urlopen(f"{engine.base_url}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found = re.findall(r"^vllm:num_requests_(?:running|waiting)\{[^}]*\} ([0-9.]+)", text, re.MULTILINE)
    assert len(found) >= 2
    return int(sum(map(float, found)))


def ask(world: World, stream: bool) -> socket.socket:
    body = json.dumps(chat_body("Count", model="student", stream=stream, max_tokens=900, ignore_eos=True)).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {world.secrets['inference']}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    connection = socket.create_connection(("127.0.0.1", world.port), timeout=10)
    connection.sendall(head.encode() + body)
    return connection


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_clients_that_leave_free_the_engine(world: World, tiny_engine: TinyEngine, stream: bool):
    connections = [ask(world, stream) for _ in range(CLIENTS)]
    wait_until(lambda: counted(tiny_engine) == CLIENTS, 10)
    for connection in connections:
        connection.close()
    began = time.monotonic()
    wait_until(lambda: counted(tiny_engine) == 0, BORNE)
    assert time.monotonic() - began < BORNE
    assert "stillroom_in_flight_requests 0.0" in world.get("/metrics").text
