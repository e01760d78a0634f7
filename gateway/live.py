"""What the gateway knows of the rest of the system: the live release with its router and its ready students, and the
keys. Read from the ledger every half second in a thread; a request sees one snapshot from beginning to end.
"""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

import structlog
from sqlalchemy.exc import SQLAlchemyError

from gateway.budgets import Budgets
from ledger import keys, releases, replicas
from ledger.keys import Key
from ledger.spending import Reading
from ledger.store import Store
from router.model import RouterFileError, RouterModel

__all__ = ("Live", "LiveRelease", "Snapshot")

REFRESH_S = 0.5

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class LiveRelease:
    """A student and its router, switched as one."""

    id: str
    router: RouterModel
    student_urls: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A consistent view for one request."""

    release: LiveRelease | None = None
    keys: dict[str, Key] = field(default_factory=dict[str, Key])


class Live:
    """Keeps `snapshot` fresh. While the store is away the last snapshot stays."""

    def __init__(self, store: Store, student_base_url: str | None, budgets: Budgets) -> None:
        self._store = store
        self.student_base_url = student_base_url
        self._budgets = budgets
        self._routers: dict[str, RouterModel] = {}
        self.snapshot = Snapshot()
        self.store_reachable = False
        self.loaded = False
        """True once the store was read: from then on there is a snapshot to serve with."""

    def load(self) -> Snapshot:
        """Read a new snapshot. Blocks; raises the store's error."""
        active = keys.load_active(self._store)
        champion = releases.live(self._store)
        if champion is None:
            return Snapshot(None, active)
        router = self._router(champion)
        if router is None:
            return Snapshot(self.snapshot.release, active)
        if self.student_base_url is not None:
            urls: tuple[str, ...] = (self.student_base_url,)
        else:
            urls = tuple(
                replica.url
                for replica in replicas.list_replicas(self._store)
                if replica.release_id == champion.id and replica.state == "ready"
            )
        return Snapshot(LiveRelease(champion.id, router, urls), active)

    def _read(self) -> tuple[Snapshot, Reading | None]:
        snapshot = self.load()
        return snapshot, self._budgets.read(snapshot.keys.values())

    def _router(self, release: releases.Release) -> RouterModel | None:
        if release.id not in self._routers:
            try:
                self._routers = {release.id: RouterModel.load(Path(release.folder) / "router")}
            except RouterFileError as error:
                log.error("router_unreadable", release=release.id, error=str(error))
                return None
        return self._routers[release.id]

    async def refresh(self) -> None:
        """Take a new snapshot if the store can be read."""
        try:
            snapshot, spending = await asyncio.to_thread(self._read)
            # a key and what it spent become known at once
            self.snapshot = snapshot
            self._budgets.apply(spending)
            self.store_reachable = self.loaded = True
        except (SQLAlchemyError, OSError) as error:
            if self.store_reachable:
                log.warning("store_unreachable", error=str(error).splitlines()[0])
            self.store_reachable = False

    async def run(self) -> None:
        """Refresh until cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(REFRESH_S)
