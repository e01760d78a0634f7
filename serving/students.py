"""The server processes of this machine's students: each verified, started, kept running, drained in the end."""

import asyncio
import itertools
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, cast

import structlog

from ledger.artifact_store import local_part
from ledger.artifacts import ArtifactError
from ledger.releases import Release
from serving.address import AddressError, key_asked_for
from serving.engine import Device, EngineOptions, Parallel, detect_device, share_of, visible_gpus
from serving.server import Health, VllmServer, free_port, supervise
from serving.settings import StudentSettings
from serving.weights import WeightsError, refuse_code

__all__ = ("GRACE_S", "REFUSALS", "Student", "Students", "check_address", "engine_options")

GRACE_S: Final = 3.0
"""A retired student goes on answering for so long: gateways read the ledger every half second."""
AGAIN_S: Final = 2.0
AGAIN_MOST_S: Final = 300.0
REFUSALS: Final = (ArtifactError, WeightsError, OSError)

log = structlog.get_logger(__name__)


def check_address(settings: StudentSettings) -> None:
    """Raises `AddressError` where this machine's students could not listen as it is set."""
    key_asked_for(settings)
    try:
        free_port(settings.address)
    except OSError as error:
        raise AddressError(
            f"student.address = {settings.address!r}: this machine cannot listen there ({error.strerror})"
        ) from error


def engine_options(settings: StudentSettings, weights: Path, release: str, port: int, slot: int = 0) -> EngineOptions:
    """How a student of these settings is started, at this place among those of the machine. Raises `AddressError`."""
    device = detect_device() if settings.device == "auto" else cast("Device", settings.device)
    parallel = Parallel(
        settings.tensor_parallel, settings.pipeline_parallel, settings.data_parallel, settings.executor
    )
    # Ray gives its own processes their GPUs
    is_shared = settings.replicas > 1 and device == "cuda" and settings.executor == "mp"
    gpus = share_of(slot, parallel.gpus, visible_gpus()) if is_shared else ()
    return EngineOptions(
        weights=weights,
        served_name=settings.model,
        release=release,
        port=port,
        context_tokens=settings.context_tokens,
        device=device,
        extra_args=settings.engine_args,
        swap=settings.swap,
        lora_rank=settings.max_lora_rank,
        parallel=parallel,
        gpus=gpus,
        threads=max(1, len(os.sched_getaffinity(0)) // settings.replicas),
        address=settings.address,
        key=key_asked_for(settings),
    )


def _key(release_id: str, number: int) -> str:
    return release_id if number == 1 else f"{release_id}.{number}"


@dataclass(eq=False)
class Student:
    """A process. ``name`` and ``weights`` are those of its next start; ``state`` is a replica's."""

    name: str
    weights: Path
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    task: "asyncio.Task[None] | None" = None
    server: VllmServer | None = None
    state: str = "starting"
    started_with: str = ""
    main: bool = False
    unwanted_since: float | None = None
    swap: "asyncio.Task[None] | None" = None
    """Under way."""
    number: int = 1
    """Among those that were started for its release."""
    slot: int = 0
    """Its place on the machine, whose GPUs are shared out by it."""
    ending: bool = False
    """Whether gateways are told to ask elsewhere."""

    @property
    def url(self) -> str:
        """The API's base, once there is a server."""
        return f"{self.server.url}/v1" if self.server else ""

    @property
    def swapping(self) -> bool:
        """Whether other weights are being loaded into it."""
        return self.swap is not None and not self.swap.done()


@dataclass
class Students:
    """All of them, by key."""

    settings: StudentSettings
    logs: Path
    cache: Path
    on_change: Callable[[str, str], None] = lambda _release, _state: None
    running: dict[str, Student] = field(default_factory=dict[str, Student])
    _refused: dict[str, tuple[float, float]] = field(default_factory=dict[str, tuple[float, float]])
    """By release: until when, and for how long."""

    def weights(self, release: Release) -> Path:
        """A release's student on this machine, known to be the one that was released. Blocks.

        Raises one of `REFUSALS`.
        """
        folder = local_part(release, "student", self.cache)
        refuse_code(folder)
        return folder

    async def start(self, release: Release) -> None:
        """Keep a process for a release from now on, unless its files are refused."""
        try:
            weights = await asyncio.to_thread(self.weights, release)
        except REFUSALS as error:
            self.refuse(release, error)
            return
        number = next(n for n in itertools.count(1) if _key(release.id, n) not in self.running)
        taken = {student.slot for student in self.running.values()}
        slot = next(n for n in itertools.count() if n not in taken)
        self.keep(_key(release.id, number), Student(release.id, weights, number=number, slot=slot))

    def refuse(self, release: Release, error: Exception) -> None:
        """Do not try this release again: never, where its folder is here; else for a while that grows, since another
        machine's worker may be putting its files, or their manifest, where all can fetch them.
        """
        log.error("release_refused", release=release.id, error=str(error))
        _, before = self._refused.get(release.id, (0.0, AGAIN_S / 2))
        pause = math.inf if Path(release.folder).is_dir() else min(2 * before, AGAIN_MOST_S)
        self._refused[release.id] = (time.monotonic() + pause, pause)

    def is_refused(self, release_id: str) -> bool:
        """Whether it is not to be tried now."""
        until, _ = self._refused.get(release_id, (0.0, 0.0))
        return time.monotonic() < until

    def keep(self, key: str, student: Student) -> None:
        """Keep a process running until its ``stop`` is set."""

        def server() -> VllmServer:
            port = free_port(self.settings.address)
            options = engine_options(self.settings, student.weights, student.name, port, student.slot)
            student.server = VllmServer(options, self.logs / f"student-{_key(student.name, student.number)}.log")
            student.started_with = student.name
            return student.server

        def changed(health: Health, _server: VllmServer) -> None:
            student.state = "draining" if student.stop.is_set() else health
            self.on_change(student.name, student.state)

        self.running[key] = student
        student.task = asyncio.create_task(supervise(server, changed, student.stop))

    def end_all_but(self, kept: frozenset[str]) -> None:
        """End the processes that are not to be kept, a little after the gateways have turned away from them."""
        now = time.monotonic()
        for key, student in self.running.items():
            if key in kept:
                student.unwanted_since = None
            elif student.unwanted_since is None:
                student.unwanted_since = now
            elif now - student.unwanted_since > GRACE_S:
                student.state = "draining"
                student.stop.set()

    def forget_ended(self) -> list[str]:
        """Drop the processes whose keeper has returned, and give their keys."""
        ended = [key for key, student in self.running.items() if student.task and student.task.done()]
        for key in ended:
            task = self.running.pop(key).task
            if task and (error := task.exception()):
                log.error("student_keeper_failed", key=key, error=f"{type(error).__name__}: {error}")
        return ended

    async def end(self) -> None:
        """Drain all and wait for them."""
        for student in self.running.values():
            student.stop.set()
            if student.swap:
                student.swap.cancel()
        tasks = [each for student in self.running.values() for each in (student.task, student.swap) if each]
        await asyncio.gather(*tasks, return_exceptions=True)
