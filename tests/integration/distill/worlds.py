"""A temporary home with teacher answers that a tiny model can learn, and a worker's context for it."""

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
import sqlalchemy as sa

from distill.job import JobContext
from distill.settings import DistillSettings, TrainingSettings
from ledger import jobs, schema
from ledger.jobs import Job
from ledger.prices import Price
from ledger.records import Content, RequestRecord
from ledger.requests import insert_records
from ledger.store import Store, open_store, sqlite_url
from router.settings import RouterSettings
from serving.fleet import Fleet
from serving.settings import StudentSettings
from tests.engine_fixtures import SMALL_CACHE

ANSWERS = {"parcel": "tracking", "invoice": "billing", "broken": "damage"}
TRAINING = TrainingSettings(epochs=8, batch_size=16, learning_rate=5e-3, save_steps=5)


def answered(number: int, **changes: Any) -> RequestRecord:
    """A request that the teacher answered; its first word decides the answer."""
    word = list(ANSWERS)[number % len(ANSWERS)]
    content = Content(
        messages=[{"role": "user", "content": f"{word} {number}"}],
        parameters={"temperature": 0, "max_tokens": 8},
        answer=ANSWERS[word],
    )
    values = {"id": f"req_{number}", "created_at": number, "route": "teacher", "reason": "no_release"}
    return RequestRecord(**(values | {"finish_reason": "stop", "content": content} | changes))


@dataclass
class World:
    """A home folder, its ledger, and the settings of its workers."""

    home: Path
    store: Store
    weights: Path
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    _owners: Iterator[int] = field(default_factory=itertools.count)

    def context(self, training: dict[str, Any] | None = None, **distill: Any) -> JobContext:
        """A new worker's context; every call is another owner."""
        settings = {"min_examples": 20, "min_agreement": 0.0, "approval": "auto"} | distill
        return JobContext(
            store=self.store,
            home=self.home,
            distill=DistillSettings(**settings, training=msgspec.structs.replace(TRAINING, **(training or {}))),
            student=self.student,
            router=RouterSettings(agreement_target=0.5, explore_share=1.0),
            teacher_price=Price(request=0.01),
            owner=f"worker-{next(self._owners)}",
            on_progress=lambda kind, data: self.events.append((kind, data)),
        )

    @property
    def student(self) -> StudentSettings:
        """The tiny model."""
        return StudentSettings(weights=str(self.weights), context_tokens=512, device="cpu", engine_args=SMALL_CACHE)

    def fleet(self) -> Fleet:
        """A keeper of this home's students."""
        return Fleet(self.store, self.student, self.home / "logs")

    def claimed(self, context: JobContext) -> Job:
        """A new job, held by the context's owner."""
        job = jobs.create(self.store, "manual", "test", {})
        held = jobs.claim(self.store, context.owner, job.id)
        assert held is not None
        return held

    def let_lease_run_out(self, job: Job) -> None:
        """Half a minute passes."""
        with self.store.write() as connection:
            connection.execute(sa.update(schema.jobs).where(schema.jobs.c.id == job.id).values(lease_until=1))

    def states(self, job: Job) -> list[str]:
        """The states that a job has gone through."""
        return [e["data"]["state"] for e in jobs.events(self.store, job.id) if e["kind"] == "state"]


@pytest.fixture
def world(tmp_path: Path, tiny_model: Path) -> Iterator[World]:
    store = open_store(sqlite_url(tmp_path))
    insert_records(store, [answered(number) for number in range(160)])
    yield World(tmp_path, store, tiny_model)
    store.close()


async def until(condition: Callable[[], Any], seconds: float = 60, every: float = 0.1) -> Any:
    """Wait for a condition and return its value; a failure after some seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = await asyncio.to_thread(condition)
        if value:
            return value
        await asyncio.sleep(every)
    raise AssertionError(f"not within {seconds} s")


def trainers(folder: Path) -> list[psutil.Process]:
    """The processes that train in a job's folder, with their launchers."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        command = process.info["cmdline"] or []
        if "distill.train" in command and str(folder) in command and process.info["status"] != "zombie":
            found.append(process)
    return found
