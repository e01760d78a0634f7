"""The gateway as a process of its own: killed under load it loses no answered request; told to end, it drains."""

import asyncio
import random
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.gateway_fixtures import TEACHER_KEY, chat_body, wait_until
from tests.gateway_process import KEY_ENV, GatewayProcess, gateway_process
from tests.scripted_upstream import WAIT_S, Script, ScriptedUpstream

CLIENTS, KILLS = 16, 5
SETTINGS = f"""
drain_seconds = 10
requests_per_minute = 0
[teacher]
base_url = "{{teacher}}"
model = "frontier"
api_key_env = "{KEY_ENV}"
"""


@pytest.fixture(scope="module")
def teacher() -> Iterator[ScriptedUpstream]:
    upstream = ScriptedUpstream()
    yield upstream
    upstream.close()


@pytest.fixture(scope="module")
def gateway(teacher: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with gateway_process(tmp_path_factory.mktemp("process"), SETTINGS.format(teacher=teacher.url)) as gateway:
        yield gateway


async def ask(client: httpx.AsyncClient, stream: bool, answered: list[str]) -> None:
    answer = await client.post("/v1/chat/completions", json=chat_body(stream=stream))
    assert answer.status_code == 200
    if not stream or answer.text.endswith("data: [DONE]\n\n"):
        answered.append(answer.headers["x-request-id"])


async def keep_asking(url: str, secret: str, answered: list[str], stop: asyncio.Event) -> None:
    headers = {"authorization": f"Bearer {secret}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=WAIT_S) as client:
        while not stop.is_set():
            try:
                await ask(client, random.random() < 0.5, answered)
            except httpx.TransportError:
                await asyncio.sleep(0.2)


async def under_load(gateway: GatewayProcess, kills: int) -> list[str]:
    """Ask from many clients while the gateway is killed and started again. Returns the ids of whole answers."""
    answered: list[str] = []
    stop = asyncio.Event()
    clients = [asyncio.create_task(keep_asking(gateway.url, gateway.secret, answered, stop)) for _ in range(CLIENTS)]
    for _ in range(kills):
        enough = len(answered) + 50
        await asyncio.to_thread(wait_until, lambda: len(answered) >= enough, 30)  # noqa: B023 awaited here
        await asyncio.sleep(random.random() * 0.5)
        await asyncio.to_thread(gateway.end, signal.SIGKILL)
        await asyncio.to_thread(gateway.start)
    stop.set()
    await asyncio.gather(*clients)
    return answered


def test_no_answered_request_is_lost_or_doubled_by_kill_9(gateway: GatewayProcess, teacher: ScriptedUpstream):
    teacher.script = Script(text="one two three", gap=0.005)
    gateway.start()
    answered = asyncio.run(under_load(gateway, KILLS))
    assert len(answered) >= 50 * KILLS
    assert len(set(answered)) == len(answered)
    wait_until(lambda: set(answered) <= set(gateway.recorded()))
    recorded = gateway.recorded()
    assert len(set(recorded)) == len(recorded)
    assert gateway.rolled_up() == len(recorded)


@dataclass(frozen=True)
class Drained:
    """A stream that was running when the gateway was told to end."""

    text: str
    refused: bool
    status: int
    recorded: bool
    spool: list[Path]


@pytest.fixture(scope="module")
def drained(gateway: GatewayProcess, teacher: ScriptedUpstream) -> Drained:
    """SIGTERM to a gateway in the middle of a stream of about four seconds."""
    teacher.script = Script(text="word " * 40, gap=0.1)
    if gateway.process is None or gateway.process.poll() is not None:
        gateway.start()
    assert gateway.process is not None
    request = {"json": chat_body(stream=True), "headers": gateway.headers}
    with httpx.stream("POST", f"{gateway.url}/v1/chat/completions", timeout=10, **request) as answer:
        chunks = answer.iter_text()
        text, refused = next(chunks), False
        gateway.process.send_signal(signal.SIGTERM)
        for chunk in chunks:
            refused = refused or (not text.endswith("[DONE]\n\n") and not gateway.ready())
            text += chunk
    status = gateway.process.wait(WAIT_S)
    recorded = answer.headers["x-request-id"] in gateway.recorded()
    return Drained(text, refused, status, recorded, list((gateway.home / "spool").iterdir()))


def test_sigterm_lets_a_running_stream_finish_and_takes_no_new_request(drained: Drained):
    assert drained.text.endswith("data: [DONE]\n\n")
    assert drained.refused


def test_sigterm_moves_the_spool_into_the_store(drained: Drained):
    assert drained.recorded
    assert drained.spool == []


def test_sigterm_ends_with_status_0(drained: Drained):
    assert drained.status == 0


def test_the_log_of_a_process_holds_no_key_and_no_traceback(gateway: GatewayProcess, drained: Drained):
    log = gateway.log()
    assert TEACHER_KEY not in log
    assert gateway.secret not in log
    assert "Traceback" not in log
