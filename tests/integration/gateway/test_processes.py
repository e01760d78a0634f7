"""The gateway as a process of its own: killed under load it loses no answered request; told to end, it drains."""

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from ledger import keys, schema
from ledger.store import Store, open_store, sqlite_url
from serving.server import free_port
from tests.gateway_fixtures import TEACHER_KEY, chat_body, wait_until
from tests.scripted_upstream import Script, ScriptedUpstream

CLIENTS, KILLS = 16, 5
SETTINGS = """
home = "{home}"
[gateway]
port = {port}
drain_seconds = 10
requests_per_minute = 0
[teacher]
base_url = "{teacher}"
model = "frontier"
api_key_env = "THE_TEACHERS_KEY"
"""


@dataclass
class Gateway:
    """``stillroom gateway`` over a ledger and a scripted teacher."""

    home: Path
    teacher: ScriptedUpstream
    store: Store
    secret: str
    url: str
    process: subprocess.Popen[bytes] | None = None
    probe: httpx.Client = field(default_factory=httpx.Client)

    def start(self) -> None:
        with (self.home / "gateway.log").open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "stillroom.cli", "--config", str(self.home / "stillroom.toml"), "gateway"],
                stdout=output, stderr=output, env=os.environ | {"THE_TEACHERS_KEY": TEACHER_KEY},
            )  # fmt: skip
        wait_until(self.ready, 30)

    def ready(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return self.probe.get(f"{self.url}/readyz").status_code == 200
        return False

    def end(self, number: signal.Signals) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(20)

    def recorded(self) -> list[str]:
        with self.store.read() as connection:
            return list(connection.execute(sa.select(schema.requests.c.id)).scalars())

    def log(self) -> str:
        return (self.home / "gateway.log").read_text()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    home, teacher, port = tmp_path_factory.mktemp("process"), ScriptedUpstream(), free_port()
    (home / "stillroom.toml").write_text(SETTINGS.format(home=home, port=port, teacher=teacher.url))
    store = open_store(sqlite_url(home))
    _, secret = keys.create(store, "app", ["inference"], "test")
    gateway = Gateway(home, teacher, store, secret, f"http://127.0.0.1:{port}")
    try:
        yield gateway
    finally:
        if gateway.process is not None and gateway.process.poll() is None:
            gateway.process.kill()
            gateway.process.wait()
        gateway.probe.close()
        teacher.close()
        store.close()


async def ask(client: httpx.AsyncClient, stream: bool, answered: list[str]) -> None:
    answer = await client.post("/v1/chat/completions", json=chat_body(stream=stream))
    assert answer.status_code == 200
    if not stream or answer.text.endswith("data: [DONE]\n\n"):
        answered.append(answer.headers["x-request-id"])


async def keep_asking(url: str, secret: str, answered: list[str], stop: asyncio.Event) -> None:
    headers = {"authorization": f"Bearer {secret}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=10) as client:
        while not stop.is_set():
            try:
                await ask(client, random.random() < 0.5, answered)
            except httpx.TransportError:
                await asyncio.sleep(0.2)


async def under_load(gateway: Gateway, kills: int) -> list[str]:
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


def test_no_answered_request_is_lost_or_doubled_by_kill_9(gateway: Gateway):
    gateway.teacher.script = Script(text="one two three", gap=0.005)
    gateway.start()
    answered = asyncio.run(under_load(gateway, KILLS))
    assert len(answered) >= 50 * KILLS
    assert len(set(answered)) == len(answered)
    wait_until(lambda: set(answered) <= set(gateway.recorded()), 10)
    recorded = gateway.recorded()
    assert len(set(recorded)) == len(recorded)
    with gateway.store.read() as connection:
        rolled_up = connection.execute(sa.select(sa.func.sum(schema.usage_hourly.c.requests))).scalar_one()
    assert rolled_up == len(recorded)


@dataclass(frozen=True)
class Drained:
    """A stream that was running when the gateway was told to end."""

    text: str
    refused: bool
    status: int
    recorded: bool
    spool: list[Path]


@pytest.fixture(scope="module")
def drained(gateway: Gateway) -> Drained:
    """SIGTERM to a gateway in the middle of a stream of about two seconds."""
    gateway.teacher.script = Script(text="word " * 20, gap=0.1)
    if gateway.process is None or gateway.process.poll() is not None:
        gateway.start()
    assert gateway.process is not None
    headers = {"authorization": f"Bearer {gateway.secret}"}
    request = {"json": chat_body(stream=True), "headers": headers}
    with httpx.stream("POST", f"{gateway.url}/v1/chat/completions", timeout=10, **request) as answer:
        chunks = answer.iter_text()
        text = next(chunks)
        gateway.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        refused = not gateway.ready()
        text += "".join(chunks)
    status = gateway.process.wait(20)
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


def test_the_log_of_a_process_holds_no_key_and_no_traceback(gateway: Gateway, drained: Drained):
    log = gateway.log()
    assert TEACHER_KEY not in log
    assert gateway.secret not in log
    assert "Traceback" not in log
