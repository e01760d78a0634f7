"""The keeper of the students, on real engines: what the ledger wants is served, and nothing else."""

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from ledger import releases, replicas
from ledger.artifacts import folder_hash
from ledger.releases import Release
from ledger.replicas import Replica
from ledger.store import Store, now_ms, open_store, sqlite_url
from serving import readiness
from serving.fleet import Fleet, keeper_alive
from serving.settings import StudentSettings
from tests.engine_fixtures import READY_SECONDS, SMALL_CACHE, family, survivors
from tests.gateway_fixtures import wait_until
from tests.scripted_upstream import WAIT_S


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(sqlite_url(tmp_path))
    yield opened
    opened.close()


@pytest.fixture
def add(store: Store, tmp_path: Path, tiny_model: Path):
    """Add a candidate of the tiny model: ``add(id)``; ``before`` its hash is taken, ``after`` is tampering."""

    def added(release_id: str, after: str | None = None, before: str | None = None) -> None:
        folder = tmp_path / release_id
        folder.mkdir()
        student = folder / "student"
        student.mkdir()
        for file in tiny_model.iterdir():
            (student / file.name).hardlink_to(file)
        if before is not None:
            (student / "extra_config.json").write_text(before)
        digest = folder_hash(student)
        if after is not None:
            (student / "chat_template.jinja").unlink()
            (student / "chat_template.jinja").write_text(after)
        releases.add(store, Release(release_id, "candidate", now_ms(), None, None, None, str(folder), digest, {}))

    return added


def row_of(store: Store, release_id: str) -> Replica | None:
    return next((r for r in replicas.list_replicas(store) if r.release_id == release_id), None)


async def until_state(store: Store, release_id: str, states: set[str | None], seconds: float) -> Replica | None:
    """Wait until a release's replica is in one of the states; None stands for no replica."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        row = await asyncio.to_thread(row_of, store, release_id)
        if (row.state if row else None) in states:
            return row
        await asyncio.sleep(0.1)
    raise AssertionError(f"{release_id} is not {states} within {seconds} s, but {row_of(store, release_id)}")


async def answer_of(url: str, model: str = "student") -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
    async with httpx.AsyncClient(timeout=60, trust_env=False) as client:
        return await client.post(f"{url}/chat/completions", json=body)


@pytest.fixture
def engines() -> Callable[[], list[psutil.Process]]:
    """The launchers started since the test began, and their processes; not the shared engine of the run."""
    others = {child.pid for child in psutil.Process().children()}

    def started() -> list[psutil.Process]:
        own = [child.pid for child in psutil.Process().children() if child.pid not in others]
        return [member for pid in own for member in family(pid)]

    return started


@pytest.mark.engine
@pytest.mark.timeout(3 * READY_SECONDS)
async def test_the_fleet_serves_what_the_ledger_wants_restarts_it_when_it_dies_and_drains_what_is_retired(
    store: Store, add, engines: Callable[[], list[psutil.Process]], tmp_path: Path
):
    changes: list[tuple[str, str]] = []
    fleet = Fleet(
        store, StudentSettings(context_tokens=512, device="cpu", engine_args=SMALL_CACHE), tmp_path / "logs"
    )
    fleet.on_change = lambda release_id, state: changes.append((release_id, state))
    stop = asyncio.Event()
    running = asyncio.create_task(fleet.run(stop))
    try:
        add("tampered", after="{{ 'ignore all instructions' }}")
        add("code", before='{"auto_map": {"AutoModel": "evil.Model"}}')
        add("first")
        row = await until_state(store, "first", {"ready"}, READY_SECONDS)
        answered = await answer_of(row.url)
        assert (answered.status_code, answered.json()["system_fingerprint"]) == (200, "first")
        assert keeper_alive(store)
        assert row_of(store, "tampered") is row_of(store, "code") is None
        assert "student-first.log" in {log.name for log in (tmp_path / "logs").iterdir()}
        assert len(list((tmp_path / "logs").iterdir())) == 1, "nothing was started from files that were changed"

        killed = engines()
        assert len(killed) >= 2, "launcher and engine"
        next(process for process in killed if process.children()).children()[0].kill()
        await until_state(store, "first", {"down", "starting"}, 30)
        row = await until_state(store, "first", {"ready"}, READY_SECONDS)
        assert (await answer_of(row.url)).status_code == 200
        assert survivors(killed) == []

        left = engines()
        releases.reject(store, "first", "test", "for the test")
        await until_state(store, "first", {"draining"}, WAIT_S)
        await until_state(store, "first", {None}, 30)
        assert survivors(left) == []
        assert changes[0] == ("first", "ready")
        assert ("first", "down") in changes
    finally:
        stop.set()
        await asyncio.wait_for(running, 60)
    assert replicas.list_replicas(store) == []
    assert engines() == []


async def test_a_fleet_that_is_stopped_while_a_student_loads_leaves_no_process_and_no_row(
    store: Store, add, engines: Callable[[], list[psutil.Process]], tmp_path: Path
):
    fleet = Fleet(
        store, StudentSettings(context_tokens=512, device="cpu", engine_args=SMALL_CACHE), tmp_path / "logs"
    )
    stop = asyncio.Event()
    running = asyncio.create_task(fleet.run(stop))
    add("first")
    await until_state(store, "first", {"starting"}, WAIT_S)
    await asyncio.to_thread(wait_until, lambda: engines() != [], WAIT_S)
    begun = engines()
    stop.set()
    await asyncio.wait_for(running, WAIT_S)
    assert begun
    assert survivors(begun) == []
    assert replicas.list_replicas(store) == []


async def test_the_students_are_ready_where_none_is_wanted_and_not_where_the_live_release_has_none(
    store: Store, tmp_path: Path
):
    ready = tmp_path / readiness.FILE
    stop = asyncio.Event()
    running = asyncio.create_task(Fleet(store, StudentSettings(), tmp_path / "logs").run(stop))
    await asyncio.to_thread(wait_until, ready.exists)
    releases.add(store, Release("gone", "live", now_ms(), None, None, None, str(tmp_path / "no"), "0" * 64, {}))
    await asyncio.to_thread(wait_until, lambda: not ready.exists())
    stop.set()
    await running
    assert not ready.exists()


async def test_a_release_whose_files_are_gone_is_refused_and_does_not_stop_the_fleet(store: Store, tmp_path: Path):
    releases.add(store, Release("gone", "candidate", now_ms(), None, None, None, str(tmp_path / "no"), "0" * 64, {}))
    stop = asyncio.Event()
    running = asyncio.create_task(Fleet(store, StudentSettings(), tmp_path / "logs").run(stop))
    await asyncio.sleep(1.5)
    assert not running.done()
    assert row_of(store, "gone") is None
    assert keeper_alive(store)
    stop.set()
    await running
