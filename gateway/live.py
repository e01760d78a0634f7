"""What the gateway knows of the rest of the system: the live release with its router and its ready students, the
one that is tried beside it, and the keys.

Read from the ledger in a thread, every half second and when another process says that it changed; a request sees one
snapshot from beginning to end.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import structlog
from sqlalchemy.exc import SQLAlchemyError

from gateway.budgets import Budgets
from gateway.call import Call
from gateway.elsewhere import Elsewhere
from gateway.live_release import LiveRelease
from gateway.trial import OnTrial
from ledger import canaries, keys, releases, replicas
from ledger.artifact_store import local_part
from ledger.artifacts import ArtifactError
from ledger.keys import Key
from ledger.set_thresholds import set_on
from ledger.spending import Reading
from ledger.store import Store, now_ms
from router.model import RouterFileError, RouterModel
from router.thresholds import in_force

__all__ = ("Live", "LiveRelease", "Snapshot")

REFRESH_S = 0.5
TOGETHER_S = 0.05
STRANGER_S = 5.0
"""Longest wait of a request whose key is not known, for what is read next."""
MAX_STRANGERS = 4_096

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A consistent view for one request."""

    release: LiveRelease | None = None
    keys: dict[str, Key] = field(default_factory=dict[str, Key])
    trial: OnTrial | None = None

    def release_for(self, call: Call) -> LiveRelease | None:
        """The one that a call's conversation has."""
        trial = self.trial
        is_tried = trial is not None and trial.mode == "canary" and trial.takes(call)
        return trial.release if trial is not None and is_tried else self.release

    def release_of(self, release_id: str | None) -> LiveRelease | None:
        """The one of this id, or None where it is not served any more."""
        served = (self.release, self.trial.release if self.trial else None)
        return next((each for each in served if each is not None and each.id == release_id), None)


class Live:
    """Keeps `snapshot` fresh. While the store is away the last snapshot stays."""

    def __init__(self, store: Store, elsewhere: Elsewhere, budgets: Budgets, cache: Path) -> None:
        self._store, self._cache = store, cache
        self.changed = budgets.shared.changed if budgets.shared else asyncio.Event()
        self.elsewhere = elsewhere
        self._budgets = budgets
        self._routers: dict[str, RouterModel] = {}
        self._unread: set[str] = set()
        self.snapshot = Snapshot()
        self.store_reachable = False
        self.loaded = False
        """True once the store was read: from then on there is a snapshot to serve with."""
        self._next_read = asyncio.Event()
        """Set when a read ends that has not begun yet."""
        self._strangers: dict[str, None] = {}

    async def key_of(self, secret: str) -> Key | None:
        """The key whose secret this is, unless it has expired. One that is not known may have been made a moment ago,
        so what is read next decides: a new key works at once, and a stranger costs the store nothing, and waits once.
        """
        digest = keys.digest(secret)
        found = self.snapshot.keys.get(digest)
        if found is None and digest not in self._strangers:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._next_read.wait(), STRANGER_S)
            found = self.snapshot.keys.get(digest)
            if found is None and self.store_reachable:
                self._strangers[digest] = None
                if len(self._strangers) > MAX_STRANGERS:
                    del self._strangers[next(iter(self._strangers))]
        has_expired = found is not None and found.expires_at is not None and found.expires_at <= now_ms()
        return None if has_expired else found

    def load(self) -> Snapshot:
        """Read a new snapshot. Blocks; raises the store's error."""
        active = keys.load_active(self._store)
        champion = releases.live(self._store)
        if champion is None:
            return Snapshot(None, active)
        urls = self.elsewhere.urls
        if urls is not None:
            router = self._router(champion)
            if router is None:
                return Snapshot(self.snapshot.release, active)
            return Snapshot(_as_set(champion, LiveRelease(champion.id, router, urls)), active)
        running = replicas.list_replicas(self._store)
        answering, urls, model = self._answering(champion, running)
        router = self._router(answering)
        if router is None:
            return Snapshot(self.snapshot.release, active)
        trial = self._trial(champion, running)
        kept = {champion.id, answering.id, trial.release.id if trial else ""}
        self._routers = {name: each for name, each in self._routers.items() if name in kept}
        return Snapshot(_as_set(answering, LiveRelease(answering.id, router, urls, model)), active, trial)

    def _answering(
        self, champion: releases.Release, running: Sequence[replicas.Replica]
    ) -> tuple[releases.Release, tuple[str, ...], str | None]:
        """The champion and where its students are; until it has enough, the release that it takes over from."""
        urls, model = replicas.places(running, champion.id, live=True)
        others = any(each.state == "ready" and each.release_id != champion.id for each in running)
        before = releases.live_before(self._store) if others else None
        if before is None:
            return champion, urls, model
        if replicas.taken_over(running, champion.id, before.id):
            return champion, urls, model
        return before, *replicas.places(running, before.id, live=False)

    def _trial(self, champion: releases.Release, running: Sequence[replicas.Replica]) -> OnTrial | None:
        """What is tried beside the champion; None where it cannot be, and the champion takes all."""
        canary = canaries.current(self._store)
        if canary is None or canary.champion_id != champion.id:
            return None
        urls, model = replicas.places(running, canary.release_id, live=False)
        tried = next((each for each in releases.served(self._store) if each.id == canary.release_id), None)
        router = self._router(tried) if urls and tried is not None else None
        if tried is None or router is None:
            return None
        release = LiveRelease(canary.release_id, router, urls, model, on_trial=True)
        return OnTrial(_as_set(tried, release), canary.mode, canary.share, canary.figures)

    def _read(self) -> tuple[Snapshot, Reading | None]:
        snapshot = self.load()
        return snapshot, self._budgets.read(snapshot.keys.values())

    def _router(self, release: releases.Release) -> RouterModel | None:
        if release.id not in self._routers:
            try:
                self._routers[release.id] = RouterModel.load(local_part(release, "router", self._cache))
            except (RouterFileError, ArtifactError, OSError) as error:
                if release.id not in self._unread:
                    # tried again at every look, and said once
                    self._unread.add(release.id)
                    log.error("router_unreadable", release=release.id, error=str(error))
                return None
            self._unread.discard(release.id)
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
            # said while it is read, it is read again
            self.changed.clear()
            read, self._next_read = self._next_read, asyncio.Event()
            await self.refresh()
            read.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REFRESH_S):
                    await self.changed.wait()
                    # what changes together is read together
                    await asyncio.sleep(TOGETHER_S)


def _as_set(release: releases.Release, live: LiveRelease) -> LiveRelease:
    """By the thresholds that a person has set, where one has."""
    wanted = set_on(release)
    if wanted is None:
        return live
    own = live.router.thresholds
    router = replace(live.router, thresholds=in_force(own, wanted))
    return replace(live, router=router, set_aside=own)
