"""Jobs as their workers meet them: killed, cancelled, contended for, at fault, rejected."""

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from distill.worker import run_claimed, run_worker
from ledger import jobs, releases, replicas, schema
from ledger.releases import ReleaseError
from tests.engine_fixtures import READY_SECONDS, survivors
from tests.integration.distill.worlds import World, trainers, until
from tests.scripted_upstream import WAIT_S

LONG = {"epochs": 4_000, "save_steps": 10}
"""More training than any of these tests waits for."""


def start_worker(world: World, **settings: object) -> subprocess.Popen[bytes]:
    """``stillroom worker`` on this home, as a process of its own."""
    variables = {
        "HOME": world.home,
        "STUDENT__WEIGHTS": world.weights,
        "STUDENT__DEVICE": "cpu",
        "DISTILL__MIN_EXAMPLES": 20,
        "DISTILL__TRAINING__BATCH_SIZE": 16,
        "DISTILL__TRAINING__LEARNING_RATE": 0.005,
        **settings,
    }
    named = {f"STILLROOM_{name}": str(value) for name, value in variables.items()}
    log = (world.home / "worker.log").open("ab")
    with log:
        return subprocess.Popen(
            [sys.executable, "-m", "stillroom.cli", "worker"], env=os.environ | named, stderr=log, cwd=world.home
        )


def progress(folder: Path) -> list[dict[str, float]]:
    path = folder / "progress.jsonl"
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.timeout(2 * READY_SECONDS)
async def test_a_killed_workers_job_is_finished_by_another_and_what_its_gate_rejects_is_never_served(world: World):
    job = jobs.create(world.store, "manual", "test", {})
    folder = world.home / "jobs" / job.id
    # the training that is begun here is what the second worker goes on with: train.json is written once
    worker = start_worker(world, DISTILL__TRAINING__EPOCHS=10, DISTILL__TRAINING__SAVE_STEPS=10)
    try:
        await until(lambda: list(folder.glob("checkpoints/checkpoint-*/trainer_state.json")))
        begun = trainers(folder)
        worker.kill()
        worker.wait()
        killed_at = time.time()
        assert len(begun) == 2, "launcher and trainer"
        assert survivors(begun) == [], "the trainer outlived its worker"
    finally:
        worker.kill()
        worker.wait()
    held = jobs.get(world.store, job.id)
    assert (held.state, jobs.claim(world.store, "too early")) == ("training", None)
    done = max(line["step"] for line in progress(folder))

    world.let_lease_run_out(job)
    context = world.context(min_agreement=1.0)
    claimed = jobs.claim(world.store, context.owner)
    assert claimed is not None and claimed.id == job.id
    stop = asyncio.Event()
    fleet = asyncio.create_task(world.fleet().run(stop))
    try:
        assert await run_claimed(context, claimed) == "rejected"
        ended = jobs.get(world.store, job.id)
        (release,) = releases.list_releases(world.store)
        assert (ended.state, release.state, ended.release_id) == ("rejected", "rejected", release.id)
        assert "floor 100%" in (ended.error or "")
        steps = progress(folder)
        assert steps[-1]["step"] == steps[-1]["steps"]
        again = [line["step"] for line in steps if line["time"] > killed_at]
        assert 0 < min(again) <= done + 1, "goes on from the checkpoint, not from the beginning"
        assert min(again) > 1
        assert not (folder / "checkpoints").exists()

        await until(lambda: not [r for r in replicas.list_replicas(world.store) if r.state != "keeper"], 30)
        assert releases.served(world.store) == []
        with pytest.raises(ReleaseError, match="rejected by its gate"):
            releases.promote(world.store, release.id, "test")
    finally:
        stop.set()
        await fleet
    assert trainers(folder) == []


async def test_cancelling_while_it_trains_ends_the_training_and_leaves_no_release(world: World):
    context = world.context(training=LONG)
    job = world.claimed(context)
    running = asyncio.create_task(run_claimed(context, job))
    await until(lambda: any(kind == "training" for kind, _ in world.events))
    begun = trainers(context.folder(job))
    jobs.cancel(world.store, job.id, "test")
    assert await running == "cancelled"
    reported = [data for kind, data in world.events if kind == "training"]
    assert reported[-1]["step"] < reported[-1]["steps"] / 2
    ended = jobs.get(world.store, job.id)
    assert (ended.state, ended.release_id, ended.lease_owner) == ("cancelled", None, None)
    assert releases.list_releases(world.store) == []
    assert survivors(begun) == []
    assert not list((world.home / "releases").glob("*/*"))
    assert not (context.folder(job) / "checkpoints").exists()
    assert jobs.claim(world.store, "another") is None


async def test_a_stopped_worker_has_its_trainer_write_a_checkpoint_and_leaves_the_job_to_the_next(world: World):
    jobs.create(world.store, "manual", "test", {})
    context, stop = world.context(training=LONG | {"save_steps": 100_000}), asyncio.Event()
    working = asyncio.create_task(run_worker(context, stop))
    await until(lambda: any(kind == "training" for kind, _ in world.events))
    (job,) = jobs.list_jobs(world.store)
    begun = trainers(context.folder(job))
    stop.set()
    await asyncio.wait_for(working, 40)
    assert survivors(begun) == []
    assert list(context.folder(job).glob("checkpoints/checkpoint-*/trainer_state.json"))
    left = jobs.get(world.store, job.id)
    assert (left.state, left.error) == ("training", None)


async def test_a_trainer_that_fails_fails_the_job_with_its_last_line(world: World):
    context = world.context(training={"max_length": 1, "layers": (0,)})
    job = world.claimed(context)
    assert await run_claimed(context, job) == "failed"
    ended = jobs.get(world.store, job.id)
    assert (ended.state, ended.lease_owner) == ("failed", None)
    assert (ended.error or "").startswith("training ended with status 2: distill.train: ")
    assert "max_length" in (ended.error or "")
    assert releases.list_releases(world.store) == []
    written = json.loads((context.folder(job) / "train.json").read_bytes())
    assert written["layers"] == [0], "the first student of a local folder is cut as the settings say"


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        pytest.param({"min_examples": 5_000}, "are needed (distill.min_examples)", id="too few rows"),
        pytest.param({"holdout_share": 0.0}, "no teacher answer is held out", id="nothing held out"),
    ],
)
async def test_a_dataset_that_cannot_be_built_fails_the_job_with_the_cause(world: World, changes, cause):
    context = world.context(**changes)
    job = world.claimed(context)
    assert await run_claimed(context, job) == "failed"
    assert cause in (jobs.get(world.store, job.id).error or "")
    assert world.states(job) == ["building", "failed"]


async def test_a_fault_that_nobody_foresaw_ends_the_job_instead_of_having_it_tried_for_ever(world: World):
    with world.store.write() as connection:
        connection.execute(sa.update(schema.contents).values(body=b"not zstd"))
    jobs.create(world.store, "manual", "test", {})
    stop = asyncio.Event()
    working = asyncio.create_task(run_worker(world.context(), stop))
    (job,) = jobs.list_jobs(world.store)
    await until(lambda: jobs.get(world.store, job.id).state == "failed", 20)
    stop.set()
    await working
    assert "ZstdError" in (jobs.get(world.store, job.id).error or "")


async def test_a_student_that_somebody_else_serves_fails_the_job_before_anything_is_trained(world: World):
    context = world.context()
    student = type(context.student)(weights=str(world.weights), base_url="http://127.0.0.1:1/v1")
    context = type(context)(**{**vars(context), "student": student})
    job = world.claimed(context)
    assert await run_claimed(context, job) == "failed"
    assert "student.base_url is set" in (jobs.get(world.store, job.id).error or "")
    assert not context.folder(job).exists()


async def test_workers_that_contend_for_jobs_hold_each_of_them_once(world: World):
    made = [jobs.create(world.store, "manual", "test", {}) for _ in range(6)]
    contexts = [world.context(min_examples=5_000) for _ in range(3)]
    stop = asyncio.Event()
    working = [asyncio.create_task(run_worker(context, stop)) for context in contexts]
    await until(lambda: all(jobs.get(world.store, job.id).state == "failed" for job in made), 60)
    stop.set()
    await asyncio.gather(*working)
    assert [world.states(job) for job in made] == [["building", "failed"]] * 6


async def test_a_worker_that_lost_its_lease_stops_and_leaves_the_job_to_its_new_holder(world: World):
    context = world.context(training=LONG)
    job = world.claimed(context)
    running = asyncio.create_task(run_claimed(context, job))
    await until(lambda: any(kind == "training" for kind, _ in world.events))
    begun = trainers(context.folder(job))
    while jobs.claim(world.store, "the other worker", job.id) is None:
        world.let_lease_run_out(job)
    assert await asyncio.wait_for(running, WAIT_S) == "lost"
    assert survivors(begun) == []
    now = jobs.get(world.store, job.id)
    assert (now.state, now.lease_owner) == ("training", "the other worker")
