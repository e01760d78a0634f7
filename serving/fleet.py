"""Keeps a ready student for every release that the ledger wants served, and tells the ledger which there are.

The ledger says what should run (the live release, and a candidate under evaluation); this loop starts what is missing
and drains what is no longer wanted, a little after the gateways have turned away from it. How a release takes over is
``student.swap`` (docs/swapping.md).
"""

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Final

import httpx
import structlog
from sqlalchemy.exc import SQLAlchemyError

from ledger import releases, replicas, student_hours
from ledger.releases import Release
from ledger.replicas import Replica
from ledger.store import Store, now_ms
from serving import readiness
from serving.adapters import Adapters
from serving.plan import Seen, plan
from serving.settings import StudentSettings
from serving.students import GRACE_S, REFUSALS, Student, Students, engine_options
from serving.swap_in_place import Fresh, SwapError, Target, probe, reloadable, swap_in_place
from serving.weights import WeightsError, resolve_weights

__all__ = ("Fleet", "engine_options", "keeper_alive")

RECONCILE_S: Final = 0.5
HOURS_S: Final = 30.0
"""How often the ledger is told how long servers ran: what a killed fleet forgets."""
TURN_S: Final = 1.0
"""By then every gateway has read in the ledger that another release is live."""
BASE: Final = "base"
"""The process that adapters are loaded into."""

log = structlog.get_logger(__name__)


def keeper_alive(store: Store) -> bool:
    """Whether some process keeps the fleet."""
    return any(replica.state == "keeper" for replica in replicas.list_replicas(store))


@dataclass
class Fleet:
    """One machine's students. `run` until the event is set."""

    store: Store
    settings: StudentSettings
    logs: Path
    on_change: Callable[[str, str], None] = lambda _release, _state: None
    _fresh: dict[str, Fresh] = field(default_factory=dict[str, Fresh])
    """What servers said that were started with a release's weights; a reload is compared with it."""

    def __post_init__(self) -> None:
        """The parts that keep what runs."""
        cache = self.logs.parent / "cache" / "releases"
        self._students = Students(self.settings, self.logs, cache, self._changed)
        self._adapters = Adapters(cache, self._students.refuse)
        self._reported: set[str] = set()
        self._ran: dict[str, float] = {}
        self._looked = self._told = time.monotonic()

    def _changed(self, release_id: str, state: str) -> None:
        # looked up now: who is told may be named after the fleet is made
        self.on_change(release_id, state)

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
        readiness.tell(self.logs.parent, False)
        await self._turn_away()
        await self._students.end()
        await asyncio.to_thread(self._tell_hours)
        for replica_id in self._reported:
            await asyncio.to_thread(replicas.remove, self.store, replica_id)

    async def _turn_away(self) -> None:
        """Have gateways ask elsewhere before anything ends: a server that drains refuses what comes."""
        for student in self._students.running.values():
            student.ending = True
        try:
            await asyncio.to_thread(self._report, list(self._rows(None)))
        except SQLAlchemyError as error:
            log.warning("fleet_store_unreachable", error=str(error).splitlines()[0])
        if any(student.state == "ready" for student in self._students.running.values()):
            await asyncio.sleep(TURN_S)

    async def _reconcile(self) -> None:
        listed = await asyncio.to_thread(releases.served, self.store)
        wanted = {release.id: release for release in listed if not self._students.is_refused(release.id)}
        champion = next((release for release in listed if release.state == "live"), None)
        live = wanted.get(champion.id) if champion is not None else None
        for kept in (await self._kept_for_rollback(live), await self._kept_until_taken_over(champion)):
            if kept is not None and not self._students.is_refused(kept.id):
                wanted = {kept.id: kept} | wanted
        if self.settings.swap == "adapter":
            await self._follow_adapters(wanted)
        else:
            await self._follow_processes(wanted, live)
        self._students.forget_ended()
        rows = list(self._rows(live))
        await asyncio.to_thread(self._report, rows)
        are_ready = champion is None or any((row.release_id, row.state) == (champion.id, "ready") for row in rows)
        readiness.tell(self.logs.parent, are_ready)
        self._count_hours()
        if self._looked - self._told >= HOURS_S:
            await asyncio.to_thread(self._tell_hours)
            await asyncio.to_thread(replicas.forget_lost, self.store)

    async def _kept_for_rollback(self, live: Release | None) -> Release | None:
        """What a rollback would bring back: an adapter stays ready for it, a server for a while."""
        before = await asyncio.to_thread(releases.rollback_target, self.store) if live else None
        if before is None or live is None or self.settings.swap == "adapter":
            return before
        is_new = live.promoted_at is not None and (
            now_ms() - live.promoted_at < self.settings.keep_previous_seconds * 1000
        )
        running = any(student.name == before.id for student in self._students.running.values())
        return before if self.settings.swap == "blue_green" and is_new and running else None

    async def _kept_until_taken_over(self, live: Release | None) -> Release | None:
        """The release before the live one, where it is served here and gateways still ask its students, on whichever
        machine (`gateway/live.py`).
        """
        here = self._served_here()
        if self.settings.swap == "in_place" or live is None or here <= {live.id}:
            return None
        before = await asyncio.to_thread(releases.live_before, self.store)
        if before is None or before.id not in here:
            return None
        found = await asyncio.to_thread(replicas.list_replicas, self.store)
        return None if replicas.taken_over(found, live.id, before.id) else before

    def _served_here(self) -> set[str]:
        """The releases that have a process that stays, or an adapter, on this machine."""
        if self.settings.swap == "adapter":
            base = self._students.running.get(BASE)
            return set(self._adapters.of(base.server)) if base is not None else set()
        return {student.name for student in self._students.running.values() if not student.stop.is_set()}

    # adapters

    async def _follow_adapters(self, wanted: dict[str, Release]) -> None:
        """One process with the base weights, and an adapter in it for each release."""
        if wanted and BASE not in self._students.running:
            await self._start_base()
        base = self._students.running.get(BASE)
        if base is not None and base.server is not None and base.state == "ready":
            for release_id in await self._adapters.follow(base.server, wanted):
                self.on_change(release_id, "ready")

    async def _start_base(self) -> None:
        models = self.logs.parent / "models"
        try:
            weights = await asyncio.to_thread(resolve_weights, self.settings.weights, models)
        except WeightsError as error:
            log.error("base_weights_refused", error=str(error))
            return
        self._students.keep(BASE, Student(BASE, weights))

    # processes

    async def _follow_processes(self, wanted: dict[str, Release], live: Release | None) -> None:
        running = self._students.running
        ahead = plan(
            self.settings.swap, list(wanted), live.id if live else None, self._seen(), self.settings.replicas
        )
        self._students.end_all_but(ahead.keep)
        for release_id in ahead.start:
            await self._students.start(wanted[release_id])
        if self.settings.swap != "in_place":
            return
        if ahead.main is not None:
            running[ahead.main].main = True
            if ahead.swap is not None and not running[ahead.main].swapping:
                taking_over = self._take_over(running[ahead.main], wanted[ahead.swap])
                running[ahead.main].swap = asyncio.create_task(taking_over)
        for student in running.values():
            await self._probe_fresh(student)

    def _seen(self) -> list[Seen]:
        return [
            Seen(key, student.name, student.state == "ready" and not student.swapping, student.main)
            for key, student in self._students.running.items()
            if not student.stop.is_set()
        ]

    async def _probe_fresh(self, student: Student) -> None:
        known = student.name in self._fresh or student.name != student.started_with
        if known or student.server is None or student.state != "ready" or student.swapping:
            return
        try:
            self._fresh[student.name] = await probe(student.server, student.weights)
        except httpx.HTTPError as error:
            log.warning("student_not_probed", release=student.name, error=repr(error))

    async def _take_over(self, student: Student, release: Release) -> None:
        """Have the main process serve another release: its weights reloaded, or the process started with them."""
        await asyncio.sleep(TURN_S)
        try:
            weights = await asyncio.to_thread(self._students.weights, release)
        except REFUSALS as error:
            self._students.refuse(release, error)
            return
        began, server = time.monotonic(), student.server
        same = await asyncio.to_thread(reloadable, student.weights, weights)
        if server is not None and student.state == "ready" and same:
            target = Target(release.id, weights, self._fresh.get(release.id))
            try:
                await swap_in_place(server, target, self.settings.total_timeout_seconds)
            except SwapError as error:
                log.error("swap_failed", release=release.id, error=str(error))
            else:
                student.name, student.weights = release.id, weights
                log.info("swapped_in_place", release=release.id, seconds=round(time.monotonic() - began, 2))
                return
        await self._restart(student, release.id, weights)

    async def _restart(self, student: Student, name: str, weights: Path) -> None:
        student.name, student.weights, student.state = name, weights, "down"
        await asyncio.sleep(GRACE_S)
        if student.server is not None:
            await student.server.stop(student.server.options.drain_seconds)

    # what the ledger is told

    def _rows(self, live: Release | None) -> Iterator[Replica]:
        yield Replica(self._id("keeper"), "", "", "keeper", 0)
        running = self._students.running
        if self.settings.swap == "adapter":
            base = running.get(BASE)
            if base is not None:
                for name in self._adapters.of(base.server):
                    state = "draining" if base.ending else base.state
                    yield Replica(self._id(name), name, base.url, state, 0, "", name)
            return
        mains = {student.name for student in running.values() if student.main and student.state == "ready"}
        for key, student in running.items():
            # another process serves the same release: the gateways are to turn to it before this one ends
            replaced = student.unwanted_since is not None and student.name in mains
            state = "draining" if replaced or student.swapping or student.ending else student.state
            yield Replica(self._id(key), student.name, student.url, state, 0)
            if student.main and student.state == "ready" and live is not None:
                yield Replica(self._id("next"), "", student.url, replicas.SWAPPABLE, 0)

    def _report(self, rows: list[Replica]) -> None:
        for row in rows:
            replicas.report(self.store, row)
        reported = {row.id for row in rows}
        for replica_id in self._reported - reported:
            replicas.remove(self.store, replica_id)
        self._reported = reported

    def _count_hours(self) -> None:
        """Every process counts since the last look, whatever its state: its machine is paid for."""
        now, before = time.monotonic(), self._looked
        self._looked = now
        for student in self._students.running.values():
            self._ran[student.name] = self._ran.get(student.name, 0.0) + now - before

    def _tell_hours(self) -> None:
        student_hours.add_seconds(self.store, self._ran)
        self._ran, self._told = {}, self._looked

    def _id(self, name: str) -> str:
        """No other machine's: that is what an address is that others reach."""
        address = ip_address(self.settings.address)
        return f"{socket.gethostname()[:30] if address.is_loopback else address}-{name}"
