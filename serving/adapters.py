"""The adapters that a base server should serve and does: loaded by release, unloaded when no longer wanted."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import structlog

from ledger.artifact_store import local_part
from ledger.releases import Release
from serving.server import VllmServer
from serving.students import GRACE_S, REFUSALS
from serving.swap_adapter import ADAPTER, AdapterError, load_adapter, unload_adapter

__all__ = ("Adapters",)

log = structlog.get_logger(__name__)


@dataclass
class Adapters:
    """What one base server has loaded. A server that was started anew has nothing."""

    cache: Path
    refuse: Callable[[Release, Exception], None]
    loaded: dict[str, float | None] = field(default_factory=dict[str, "float | None"])
    """By release: since when it is not wanted."""
    _server: VllmServer | None = None

    async def follow(self, server: VllmServer, wanted: Mapping[str, Release]) -> list[str]:
        """Load what is missing, and unload what has not been wanted for a while. Returns what is new."""
        if self._server is not server:
            self._server, self.loaded = server, {}
        new = [release for release in wanted.values() if release.id not in self.loaded]
        added = [release.id for release in new if await self._load(server, release)]
        now = time.monotonic()
        for name, since in list(self.loaded.items()):
            if name in wanted:
                self.loaded[name] = None
            elif since is None:
                self.loaded[name] = now
            elif now - since > GRACE_S:
                del self.loaded[name]
                await self._unload(server, name)
        return added

    def of(self, server: VllmServer | None) -> list[str]:
        """The releases that this server has an adapter of."""
        return list(self.loaded) if server is self._server else []

    async def _load(self, server: VllmServer, release: Release) -> bool:
        try:
            student = await asyncio.to_thread(local_part, release, "student", self.cache)
            await load_adapter(server, release.id, student / ADAPTER)
        except (*REFUSALS, AdapterError) as error:
            self.refuse(release, error)
            return False
        except httpx.HTTPError as error:
            log.warning("adapter_not_loaded", release=release.id, error=repr(error))
            return False
        self.loaded[release.id] = None
        return True

    async def _unload(self, server: VllmServer, name: str) -> None:
        try:
            await unload_adapter(server, name)
        except (AdapterError, httpx.HTTPError) as error:
            log.warning("adapter_not_unloaded", release=name, error=str(error))
