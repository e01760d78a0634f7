"""Jobs whose trainer, worker, disk or store fails under them: each resumes, or ends as failed with its cause."""

import asyncio
import contextlib
import itertools
import json
import os
import resource
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from distill.child import environment
from distill.ranks import RESTARTS
from distill.worker import run_claimed
from ledger import jobs, releases
from ledger.releases import Release
from ledger.requests import insert_records
from ledger.store import now_ms, open_store, sqlite_url
from tests.engine_fixtures import survivors
from tests.integration.distill.test_jobs import LONG, progress, start_worker
from tests.integration.distill.worlds import World, answered, trainers, until
from tests.scripted_upstream import WAIT_S

LONG_ENOUGH = 180.0
"""For a trainer to load torch and to train a little on a machine that does much else; seconds."""


def training(world: World, job: jobs.Job) -> list[psutil.Process]:
    """The launcher and the trainer, once there is a checkpoint to go on from."""
    folder = world.home / "jobs" / job.id
    running = trainers(folder)
    return running if len(running) == 2 and list(folder.glob("checkpoints/checkpoint-*/trainer_state.json")) else []


def killed(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def trainer_of(processes: list[psutil.Process]) -> psutil.Process:
    """The one that trains, not its launcher."""
    return next(process for process in processes if "-I" not in process.info["cmdline"])


def written(release: Release) -> list[tuple[Path, int]]:
    """The files of a release, and when each was written."""
    return sorted((path, path.stat().st_mtime_ns) for path in Path(release.folder).rglob("*") if path.is_file())


@pytest.mark.slow
async def test_a_killed_trainer_goes_on_from_its_checkpoint_and_its_environment_holds_no_secret(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TEACHER_API_KEY", "sk-hunter2")
    monkeypatch.setenv("HF_TOKEN", "hf-hunter2")
    monkeypatch.setenv("STILLROOM_STORE__URL", "postgresql://u:hunter2@db/x")
    context = world.context(training=LONG)
    job = world.claimed(context)
    running = asyncio.create_task(run_claimed(context, job))
    begun = await until(lambda: training(world, job), LONG_ENOUGH)
    for process in begun:
        assert "hunter2" not in str(process.environ())
    assert trainer_of(begun).environ()["OMP_WAIT_POLICY"] == "PASSIVE"
    done = max(line["step"] for line in progress(context.folder(job)))
    killed([trainer_of(begun)])
    again = await until(lambda: trainer_of(training(world, job)) if training(world, job) else None, LONG_ENOUGH)
    assert again.pid not in {process.pid for process in begun}
    await until(lambda: max(line["step"] for line in progress(context.folder(job))) > done + 10, LONG_ENOUGH)
    jobs.cancel(world.store, job.id, "test")
    assert await running == "cancelled"
    restarts = [event["data"] for event in jobs.events(world.store, job.id) if event["kind"] == "restart"]
    assert restarts == [{"ended_by": "SIGKILL", "left": RESTARTS}]
    steps = [event["data"]["step"] for event in jobs.events(world.store, job.id) if event["kind"] == "training"]
    assert sum(later < earlier for earlier, later in itertools.pairwise(steps)) <= 1, "it began anew"


@pytest.mark.parametrize(
    "name", ["TEACHER_API_KEY", "HF_TOKEN", "CUDA_SECRET", "STILLROOM_STORE__URL", "PYTHON_API_KEY"]
)
def test_what_may_be_a_secret_is_withheld_and_what_a_trainer_needs_is_not(name: str):
    kept = environment({name: "x", "PATH": "/bin", "HOME": "/root", "CUDA_VISIBLE_DEVICES": "0", "HF_HOME": "/hf"})
    assert set(kept) == {"PATH", "HOME", "CUDA_VISIBLE_DEVICES", "HF_HOME", "OMP_WAIT_POLICY", "PYTHONWARNINGS"}


async def test_a_trainer_that_is_killed_again_and_again_fails_the_job_with_the_cause(world: World):
    context = world.context(training=LONG)
    job = world.claimed(context)
    running = asyncio.create_task(run_claimed(context, job))
    seen: set[int] = set()
    while not running.done():
        for process in await asyncio.to_thread(trainers, context.folder(job)):
            with contextlib.suppress(psutil.NoSuchProcess):
                if "-I" not in process.info["cmdline"] and process.pid not in seen:
                    seen.add(process.pid)
                    process.kill()
        await asyncio.sleep(0.05)
    assert await running == "failed"
    assert len(seen) == RESTARTS + 1
    ended = jobs.get(world.store, job.id)
    assert (ended.error or "").startswith("training was ended by SIGKILL 4 times, as the system does where memory")
    assert not list((world.home / "releases").glob("*"))


@pytest.mark.slow
async def test_a_worker_killed_while_it_evaluates_is_followed_by_another_that_trains_nothing_again(world: World):
    job = jobs.create(world.store, "manual", "test", {})
    worker = start_worker(world, DISTILL__TRAINING__EPOCHS=1)
    try:
        # nothing serves students here: it waits for one
        await until(lambda: jobs.get(world.store, job.id).state == "evaluating", LONG_ENOUGH)
    finally:
        worker.kill()
        worker.wait()
    (release,) = releases.list_releases(world.store)
    trained = written(release)
    assert jobs.claim(world.store, "too early") is None
    world.let_lease_run_out(job)
    context = world.context()
    claimed = jobs.claim(world.store, context.owner)
    assert claimed is not None
    running = asyncio.create_task(run_claimed(context, claimed))
    await until(lambda: any(kind == "serving" for kind, _ in world.events), LONG_ENOUGH)
    assert written(release) == trained
    assert [each.id for each in releases.list_releases(world.store)] == [release.id]
    jobs.cancel(world.store, job.id, "test")
    assert await asyncio.wait_for(running, WAIT_S) == "cancelled"
    assert (jobs.get(world.store, job.id).state, releases.get(world.store, release.id).state) == (
        "cancelled",
        "rejected",
    )
    assert written(release) == [], "half a release"


async def test_cancelling_while_the_dataset_is_built_ends_the_job_and_its_thread_within_seconds(world: World):
    insert_records(world.store, [answered(number) for number in range(1_000, 13_000)])
    context = world.context()
    job = world.claimed(context)
    running = asyncio.create_task(run_claimed(context, job))
    await until(lambda: jobs.get(world.store, job.id).state == "building")
    jobs.cancel(world.store, job.id, "test")
    assert await asyncio.wait_for(running, WAIT_S) == "cancelled"
    assert jobs.get(world.store, job.id).state == "cancelled"
    assert not (context.folder(job) / "train.json").exists()


# a full disk


@pytest.mark.slow
@pytest.mark.parametrize("bytes_left", [0, 20_000])
async def test_a_trainer_that_may_write_no_more_fails_the_job_as_a_full_disk_and_leaves_no_half_release(
    world: World, bytes_left: int
):
    context = world.context(training=LONG)
    job = world.claimed(context)
    running = asyncio.create_task(run_claimed(context, job))
    begun = await until(lambda: training(world, job), LONG_ENOUGH)
    resource.prlimit(trainer_of(begun).pid, resource.RLIMIT_FSIZE, (bytes_left, bytes_left))
    assert await asyncio.wait_for(running, LONG_ENOUGH) == "failed"
    error = jobs.get(world.store, job.id).error or ""
    assert error.startswith(f"disk full: {world.home} has ")
    assert "make room there" in error
    assert "\n" not in error
    assert not list((world.home / "releases").glob("*"))
    assert not (context.folder(job) / "checkpoints").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with room for a ledger and little more."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=14m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
async def test_a_disk_that_is_really_full_fails_the_job_and_the_ledger_on_it_says_so(
    small_disk: Path, tiny_model: Path
):
    store = open_store(sqlite_url(small_disk))
    insert_records(store, [answered(number) for number in range(160)])
    world = World(small_disk, store, tiny_model)
    context = world.context(training=LONG)
    job = world.claimed(context)
    # a checkpoint of the tiny model takes 40 MB: it does not go on this disk
    assert await asyncio.wait_for(run_claimed(context, job), LONG_ENOUGH) == "failed"
    error = jobs.get(store, job.id).error or ""
    assert error.startswith(f"disk full: {small_disk} has ")
    assert not list((small_disk / "releases").glob("*"))
    store.close()


# a lost store


@pytest.mark.slow
async def test_a_store_that_is_away_for_some_seconds_is_waited_for_while_training_goes_on(world: World):
    context = world.context(training=LONG)
    job = world.claimed(context)
    running = asyncio.create_task(run_claimed(context, job))
    begun = await until(lambda: training(world, job), LONG_ENOUGH)
    ledger, away = world.home / "ledger.sqlite", world.home / "away.sqlite"
    ledger.rename(away)
    before = max(line["step"] for line in progress(context.folder(job)))
    await asyncio.sleep(12)
    assert not running.done()
    back = now_ms()
    away.rename(ledger)
    await until(lambda: (jobs.get(world.store, job.id).lease_until or 0) > held_until(world, job), 30)
    assert {process.pid for process in trainers(context.folder(job))} == {process.pid for process in begun}
    happened = await until(lambda: [step for step in trained_steps(world, job) if step[1] > before], 30)
    assert happened[0][0] < back, "what happened meanwhile is written down, with its time"
    jobs.cancel(world.store, job.id, "test")
    assert await running == "cancelled"


def trained_steps(world: World, job: jobs.Job) -> list[tuple[int, int]]:
    """When the job's row was told of which step."""
    found = jobs.events(world.store, job.id)
    return [(event["at"], event["data"]["step"]) for event in found if event["kind"] == "training"]


def held_until(world: World, job: jobs.Job) -> int:
    return (job.lease_until or 0) + 12_000


@pytest.mark.slow
@pytest.mark.parametrize("how", ["renamed", "locked"])
async def test_a_store_that_is_lost_for_longer_than_a_lease_ends_the_trainer_before_another_worker_may_begin(
    world: World, how: str
):
    context = world.context(training=LONG)
    job = world.claimed(context)
    running = asyncio.create_task(run_claimed(context, job))
    begun = await until(lambda: training(world, job), LONG_ENOUGH)
    ledger, away = world.home / "ledger.sqlite", world.home / "away.sqlite"
    lease = jobs.get(world.store, job.id).lease_until or 0
    with contextlib.ExitStack() as stack:
        if how == "renamed":
            ledger.rename(away)
            stack.callback(away.rename, ledger)
        else:
            other = sqlite3.connect(ledger, isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
            stack.callback(other.close)
        await until(lambda: survivors(begun, 0) == [], 32, every=0.2)
        assert now_ms() < lease + 3_500, "it stopped within the lease that was renewed last"
    assert await asyncio.wait_for(running, 40) == "lost"
    next_ = world.context(training=LONG)
    claimed = await until(lambda: jobs.claim(world.store, next_.owner), 40)
    again = asyncio.create_task(run_claimed(next_, claimed))
    resumed = await until(lambda: training(world, job), LONG_ENOUGH)
    assert not {process.pid for process in resumed} & {process.pid for process in begun}
    jobs.cancel(world.store, job.id, "test")
    assert await again == "cancelled"


@pytest.mark.slow
async def test_a_worker_that_hangs_loses_its_job_and_its_trainer_to_the_next_and_does_not_disturb_it(world: World):
    job = jobs.create(world.store, "manual", "test", {})
    worker = start_worker(world, DISTILL__TRAINING__EPOCHS=400, DISTILL__TRAINING__SAVE_STEPS=5)
    try:
        begun = await until(lambda: training(world, job), LONG_ENOUGH)
        worker.send_signal(signal.SIGSTOP)
        world.let_lease_run_out(job)
        context = world.context()
        claimed = jobs.claim(world.store, context.owner)
        assert claimed is not None
        running = asyncio.create_task(run_claimed(context, claimed))
        await until(lambda: survivors(begun, 0) == [], LONG_ENOUGH)
        taken = await until(lambda: training(world, job), LONG_ENOUGH)
        assert not {process.pid for process in taken} & {process.pid for process in begun}
        worker.send_signal(signal.SIGCONT)
        await asyncio.sleep(6)
        assert {process.pid for process in trainers(world.home / "jobs" / job.id)} == {p.pid for p in taken}
        assert jobs.get(world.store, job.id).lease_owner == context.owner
        jobs.cancel(world.store, job.id, "test")
        assert await running == "cancelled"
        steps = [json.loads(line) for line in (world.home / "worker.log").read_text().splitlines() if line[:1] == "{"]
        assert not [line for line in steps if line.get("event") in ("job_failed", "job_fault")]
    finally:
        worker.kill()
        worker.wait()
