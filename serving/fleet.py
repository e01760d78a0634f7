"""Keeps a ready student for every release that the ledger wants served, and tells the ledger which there are.

The ledger says what should run (the live release, and a candidate under evaluation); this loop starts what is missing
and drains what is no longer wanted, a little after the gateways have turned away from it.
"""

import asyncio
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, cast

import structlog
from sqlalchemy.exc import SQLAlchemyError

from ledger import releases, replicas
from ledger.artifacts import folder_hash
from ledger.releases import Release
from ledger.replicas import Replica
from ledger.store import Store
from serving.engine import Device, EngineOptions, detect_device
from serving.server import Health, VllmServer, free_port, supervise
from serving.settings import StudentSettings
from serving.weights import WeightsError, refuse_code

__all__ = ("Fleet", "engine_options", "keeper_alive")

RECONCILE_S: Final = 0.5
GRACE_S: Final = 3.0
"""A retired student goes on answering for so long: gateways read the ledger every half second."""
MANIFEST: Final = "manifest.json"

log = structlog.get_logger(__name__)


def engine_options(settings: StudentSettings, weights: Path, release: str, port: int) -> EngineOptions:
    """How a student of these settings is started."""
    device = detect_device() if settings.device == "auto" else cast("Device", settings.device)
    return EngineOptions(
        weights=weights,
        served_name=settings.model,
        release=release,
        port=port,
        context_tokens=settings.context_tokens,
        device=device,
        extra_args=settings.engine_args,
    )


def keeper_alive(store: Store) -> bool:
    """Whether some process keeps the fleet."""
    return any(replica.state == "keeper" for replica in replicas.list_replicas(store))


@dataclass(slots=True)
class _Kept:
    release: Release
    stop: asyncio.Event
    task: "asyncio.Task[None]"
    state: str = "starting"
    url: str = ""
    unwanted_since: float | None = None


@dataclass
class Fleet:
    """One machine's students. `run` until the event is set."""

    store: Store
    settings: StudentSettings
    logs: Path
    on_change: Callable[[str, str], None] = lambda _release, _state: None
    _kept: dict[str, _Kept] = field(default_factory=dict[str, _Kept])
    _refused: set[str] = field(default_factory=set[str])

    async def run(self, stop: asyncio.Event) -> None:
        """Reconcile until ``stop``, then drain every student."""
        while not stop.is_set():
            try:
                await self._reconcile()
            except SQLAlchemyError as error:
                log.warning("fleet_store_unreachable", error=str(error).splitlines()[0])
            try:
                await asyncio.wait_for(stop.wait(), RECONCILE_S)
            except TimeoutError:
                continue
        for kept in self._kept.values():
            kept.stop.set()
        await asyncio.gather(*(kept.task for kept in self._kept.values()), return_exceptions=True)
        for release_id in list(self._kept):
            await asyncio.to_thread(replicas.remove, self.store, self._id(release_id))
        await asyncio.to_thread(replicas.remove, self.store, self._id("keeper"))

    async def _reconcile(self) -> None:
        wanted = {release.id: release for release in await asyncio.to_thread(releases.served, self.store)}
        for release in wanted.values():
            if release.id not in self._kept and release.id not in self._refused:
                stop = asyncio.Event()
                self._kept[release.id] = _Kept(release, stop, asyncio.create_task(self._keep(release, stop)))
        now = time.monotonic()
        for release_id, kept in list(self._kept.items()):
            if release_id in wanted:
                kept.unwanted_since = None
            elif kept.unwanted_since is None:
                kept.unwanted_since = now
            elif now - kept.unwanted_since > GRACE_S:
                kept.state = "draining"
                kept.stop.set()
            if kept.task.done():
                if error := kept.task.exception():
                    log.error("student_keeper_failed", release=release_id, error=f"{type(error).__name__}: {error}")
                del self._kept[release_id]
                await asyncio.to_thread(replicas.remove, self.store, self._id(release_id))
        await asyncio.to_thread(self._report)

    async def _keep(self, release: Release, stop: asyncio.Event) -> None:
        """Keep a release's student running, once its files are known to be those that were evaluated."""
        try:
            await asyncio.to_thread(_verify, release)
        except (WeightsError, OSError) as error:
            log.error("release_refused", release=release.id, error=str(error))
            self._refused.add(release.id)
            return

        def server() -> VllmServer:
            options = engine_options(self.settings, Path(release.folder) / "student", release.id, free_port())
            return VllmServer(options, self.logs / f"student-{release.id}.log")

        def changed(health: Health, running: VllmServer) -> None:
            kept = self._kept.get(release.id)
            if kept is not None:
                kept.url = f"{running.url}/v1"
                kept.state = "draining" if stop.is_set() else health
                self.on_change(release.id, kept.state)

        await supervise(server, changed, stop)

    def _report(self) -> None:
        keeper = Replica(self._id("keeper"), "", "", "keeper", 0)
        replicas.report(self.store, keeper)
        for release_id, kept in list(self._kept.items()):
            replicas.report(self.store, Replica(self._id(release_id), release_id, kept.url, kept.state, 0))

    @staticmethod
    def _id(name: str) -> str:
        return f"{socket.gethostname()[:30]}-{name}"


def _verify(release: Release) -> None:
    """Raise `WeightsError` where a release's files are not those that were released."""
    student = Path(release.folder) / "student"
    refuse_code(student)
    if folder_hash(student) != release.content_hash:
        raise WeightsError(f"{student} is not what was released: restore it and start `stillroom serve` again")
