"""The loop as a whole, by real processes: traffic, a job, a release that goes live under load, and an orderly end."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest

from ledger import keys, releases, requests
from ledger.store import Store, open_store, sqlite_url
from router.comparators import same_text
from serving.server import free_port
from tests.e2e.scripted_teacher import ANSWERS, scripted_teacher
from tests.engine_fixtures import survivors

CONFIG = """
home = "{home}"

[gateway]
port = {port}
requests_per_minute = 0

[teacher]
base_url = "{teacher}"
model = "scripted"
top_logprobs = 5
price = {{ request = 0.015 }}

[student]
weights = "{weights}"
context_tokens = 512
device = "cpu"
price = {{ request = 0.002 }}

[router]
agreement_target = 0.5
explore_share = 0.1

[distill]
approval = "auto"
min_examples = 20
min_agreement = 0.0

[distill.training]
epochs = 12
batch_size = 16
learning_rate = 0.005
"""

BREATH_S = 0.05


@dataclass(frozen=True)
class Seen:
    """What a client saw of one request."""

    id: str
    text: str
    answer: str
    route: str
    reason: str
    release: str | None

    @property
    def right(self) -> bool:
        """Whether it is what the teacher says."""
        return same_text(self.answer, ANSWERS[self.text.split()[0]])


@dataclass
class Client:
    """An application that uses the official client, and an operator with the same key."""

    openai: openai.AsyncOpenAI
    admin: httpx.AsyncClient
    failed: list[str] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    _number: Iterator[int] = field(default_factory=count)

    async def ask(self) -> Seen | None:
        """Ask the next request; a failure is kept in ``failed``."""
        number = next(self._number)
        # the numbers come round again: what is promised of later traffic is promised of traffic like the first
        text = f"{list(ANSWERS)[number % len(ANSWERS)]} {number % 200}"
        try:
            raw = await self.openai.chat.completions.with_raw_response.create(
                model="auto", messages=[{"role": "user", "content": text}], temperature=0, max_tokens=8
            )
        except openai.OpenAIError as error:
            self.failed.append(f"{text}: {error}")
            return None
        answer = raw.parse().choices[0].message.content or ""
        header = raw.headers
        route, reason = header["x-stillroom-route"], header["x-stillroom-reason"]
        self.seen.append(Seen(header["x-request-id"], text, answer, route, reason, header.get("x-stillroom-release")))
        return self.seen[-1]

    async def ask_until(self, stop: asyncio.Event) -> None:
        """One request after another, and a breath between: without it they starve the engine that is starting."""
        while not stop.is_set():
            await self.ask()
            await asyncio.sleep(BREATH_S)

    async def job(self, job_id: str) -> dict[str, Any]:
        """A job with its events."""
        return (await self.admin.get(f"/jobs/{job_id}")).json()


@pytest.fixture(scope="module")
def teacher() -> Iterator[str]:
    with scripted_teacher() as url:
        yield url


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(sqlite_url(tmp_path))
    yield opened
    opened.close()


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def up(tmp_path: Path, teacher: str, tiny_model: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """``stillroom up``, killed in the end if the test did not end it."""
    config = tmp_path / "stillroom.toml"
    config.write_text(CONFIG.format(home=tmp_path, port=port, teacher=teacher, weights=tiny_model))
    with (tmp_path / "up.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "stillroom.cli", "--config", str(config), "up"],
            stdout=log, stderr=log, env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"},
        )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(60)


@pytest.fixture
async def client(up: subprocess.Popen[bytes], store: Store, port: int) -> AsyncIterator[Client]:
    _, secret = keys.create(store, "e2e", ("inference", "read", "admin"), "test")
    root = f"http://127.0.0.1:{port}"
    admin = httpx.AsyncClient(
        base_url=f"{root}/admin/v1", headers={"authorization": f"Bearer {secret}"}, trust_env=False, timeout=30
    )
    async with admin, openai.AsyncOpenAI(base_url=f"{root}/v1", api_key=secret, max_retries=0) as official:
        await until(lambda: is_ready(root), 60)
        yield Client(official, admin)


def is_ready(root: str) -> bool:
    try:
        return httpx.get(f"{root}/readyz", trust_env=False).is_success
    except httpx.HTTPError:
        return False


async def until(condition: Callable[[], Any], seconds: float) -> None:
    """Wait for a condition; a failure after some seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if await asyncio.to_thread(condition):
            return
        await asyncio.sleep(0.2)
    raise AssertionError(f"not within {seconds} s")


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_traffic_becomes_a_release_that_takes_over_under_load_without_a_failed_request(
    up: subprocess.Popen[bytes], client: Client, store: Store, tmp_path: Path
):
    for _ in range(11):
        await asyncio.gather(*(client.ask() for _ in range(20)))
    assert client.failed == []
    assert {(seen.route, seen.reason, seen.release) for seen in client.seen} == {("teacher", "no_release", None)}
    await until(lambda: requests.count(store) == 220, 30)

    made = await client.admin.post("/jobs", json={"note": "e2e"})
    assert made.status_code == 202
    release_id = await live_under_load(client, made.json()["id"])
    assert client.failed == [], "a request failed during the swap"

    by_student = [seen for seen in client.seen if seen.route == "student"]
    assert by_student
    assert {(seen.reason, seen.release) for seen in by_student} == {("confident", release_id)}
    assert sum(seen.right for seen in by_student) >= 0.5 * len(by_student)
    assert all(seen.right for seen in client.seen if seen.route == "teacher")
    release = releases.get(store, release_id)
    assert release.state == "live"
    assert release.summary["thresholds"]["agreement_lower_bound"] >= 0.5

    refused = await client.admin.post("/releases/rollback")
    assert refused.status_code == 400
    assert refused.json()["error"]["message"] == (
        f"release {release_id} is the first one; set router.enabled = false to send everything to the teacher"
    )

    processes = [psutil.Process(up.pid), *psutil.Process(up.pid).children(recursive=True)]
    assert len(processes) > 8, "up, three launchers, three parts, an engine and its launcher"
    up.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(up.wait, 60) == 0, (tmp_path / "up.log").read_text()
    assert survivors(processes) == []
    missing = [seen.id for seen in client.seen if requests.get(store, seen.id) is None]
    assert missing == [], "an answered request is not in the ledger"
    usage = requests.usage_by(store, ["reason"])
    assert sum(u.requests for (reason,), u in usage.items() if reason != "explore") == len(client.seen)


async def live_under_load(client: Client, job_id: str) -> str:
    """Follow a job; from its evaluation on, until the student has answered for some seconds, four clients ask on."""
    stop, load = asyncio.Event(), list[asyncio.Task[None]]()
    try:
        while True:
            shown = await client.job(job_id)
            state = shown["job"]["state"]
            if state == "evaluating" and not load:
                load = [asyncio.create_task(client.ask_until(stop)) for _ in range(4)]
            if state not in ("queued", "building", "training", "evaluating"):
                break
            await asyncio.sleep(0.3)
        assert state == "live", shown["job"]["error"]
        await until(lambda: client.seen[-1].route == "student", 20)
        await asyncio.sleep(3)
    finally:
        stop.set()
        await asyncio.gather(*load)
    return shown["job"]["release_id"]
