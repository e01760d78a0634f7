"""The engine as the operating system meets it: it dies early, is killed, loses its parent, and leaves nothing."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from serving.server import Backoff, EngineError, VllmServer, supervise
from tests.engine_fixtures import READY_SECONDS, family, survivors, tiny_options
from tests.scripted_upstream import WAIT_S

pytestmark = pytest.mark.engine

ROOT = Path(__file__).parents[3]

PARENT = """
import asyncio, sys
from pathlib import Path
from serving.server import Backoff, Patience, VllmServer, supervise
from tests.engine_fixtures import tiny_options

def make():
    return VllmServer(tiny_options(Path(sys.argv[1])), Path(sys.argv[2]))

def tell(health, server):
    print("event", health, server.pid, flush=True)

asyncio.run(supervise(make, tell, asyncio.Event(), Backoff(first=0.1), Patience(interval=0.3)))
"""


@contextlib.contextmanager
def supervising_process(model: Path, log: Path):
    command = [sys.executable, "-c", PARENT, str(model), str(log)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        try:
            yield parent
        finally:
            parent.kill()


def next_event(parent: subprocess.Popen[str]) -> tuple[str, int]:
    """The parent's next ``event`` line; the test's own timeout ends a wait for one that never comes."""
    for line in parent.stdout:
        if line.startswith("event "):
            _, health, pid = line.split()
            return health, int(pid)
    raise AssertionError("the parent ended")


@pytest.mark.timeout(2 * READY_SECONDS)
def test_a_killed_engine_is_started_again_and_a_killed_parent_leaves_no_process(tiny_model, tmp_path):
    with supervising_process(tiny_model, tmp_path / "engine.log") as parent:
        health, launcher = next_event(parent)
        assert health == "ready"
        first = family(launcher)
        assert len(first) >= 3, "launcher, API server and engine core"
        first[1].kill()
        assert next_event(parent) == ("down", launcher)
        health, launcher_again = next_event(parent)
        assert health == "ready"
        assert launcher_again != launcher
        assert survivors(first) == []

        second = family(launcher_again)
        parent.kill()
        assert survivors(second) == []


async def test_an_engine_that_dies_early_says_why_and_where_its_log_is(tmp_path):
    options = tiny_options(tmp_path, extra_args=("--no-such-flag",))
    server = VllmServer(options, tmp_path / "engine.log")
    progress: list[str] = []
    await server.start()
    with pytest.raises(EngineError, match="no-such-flag") as raised:
        await server.wait_ready(READY_SECONDS, progress.append)
    assert str(tmp_path / "engine.log") in str(raised.value)
    assert progress, "a line every few seconds while it loads"
    assert not server.alive


async def test_an_engine_that_is_not_ready_in_time_is_an_error_and_is_stopped_at_once(tmp_path):
    server = VllmServer(tiny_options(tmp_path), tmp_path / "engine.log")
    await server.start()
    with pytest.raises(EngineError, match="not ready after 1 s"):
        await server.wait_ready(1, print)
    processes = family(server.pid)
    # a process that is held takes no SIGTERM, and would be drained for ever
    processes[0].suspend()
    await server.stop(drain_seconds=0)
    assert survivors(processes) == []


async def test_a_server_is_started_only_once(tmp_path):
    server = VllmServer(tiny_options(tmp_path), tmp_path / "engine.log")
    await server.start()
    try:
        with pytest.raises(EngineError, match="make a new one"):
            await server.start()
    finally:
        await server.stop(drain_seconds=0)


async def test_supervision_that_is_stopped_while_the_engine_loads_ends_soon_and_leaves_nothing(tmp_path):
    servers: list[VllmServer] = []
    events: list[str] = []
    stop = asyncio.Event()

    def make() -> VllmServer:
        servers.append(VllmServer(tiny_options(tmp_path), tmp_path / "engine.log"))
        return servers[-1]

    watching = asyncio.create_task(supervise(make, lambda health, _: events.append(health), stop))
    await asyncio.sleep(1)
    processes = family(servers[0].pid)
    stop.set()
    await asyncio.wait_for(watching, WAIT_S)
    assert events == ["down"]
    assert survivors(processes) == []


async def test_supervision_makes_a_new_server_after_each_failed_start(tmp_path):
    servers: list[VllmServer] = []
    stop = asyncio.Event()

    def make() -> VllmServer:
        servers.append(VllmServer(tiny_options(tmp_path), tmp_path / "engine.log"))
        return servers[-1]

    watching = asyncio.create_task(supervise(make, lambda *_: None, stop, Backoff(first=0.1)))
    while len(servers) < 3:
        if servers and servers[-1].alive:
            os.kill(servers[-1].pid, signal.SIGKILL)
        await asyncio.sleep(0.05)
    stop.set()
    await asyncio.wait_for(watching, WAIT_S)
    assert not any(server.alive for server in servers)
    assert len({server.pid for server in servers}) == 3
