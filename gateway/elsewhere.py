"""Where the students are that Stillroom did not start: the settings' URLs, or every address of the names in them.

A headless Service of Kubernetes answers for its name with the addresses of the pods that are ready, so that nothing
of Kubernetes' own API is needed. The system's resolver is asked, which knows search domains and the hosts file.
"""

import asyncio
import contextlib
import socket
from typing import Final
from urllib.parse import urlsplit

import structlog

from serving.settings import StudentSettings

__all__ = ("LOOK_S", "Elsewhere", "addresses")

LOOK_S: Final = 5.0
"""How often names are looked up."""

log = structlog.get_logger(__name__)


class Elsewhere:
    """`urls` is None where students are the fleet's, whose places are in the ledger."""

    def __init__(self, settings: StudentSettings) -> None:
        self._found: dict[str, tuple[str, ...]] = {}
        self._lost: set[str] = set()
        self._changed = asyncio.Event()
        self.configure(settings)

    def configure(self, settings: StudentSettings) -> None:
        """Go by these settings from now on."""
        named = () if settings.base_url is None else (settings.base_url, *settings.more_base_urls)
        self._named, self._by_name = tuple(url.rstrip("/") for url in named), settings.discover
        self._changed.set()

    @property
    def urls(self) -> tuple[str, ...] | None:
        """The base URLs of all students, each once."""
        if not self._named:
            return None
        if not self._by_name:
            return self._named
        return tuple(dict.fromkeys(url for named in self._named for url in self._found.get(named, ())))

    async def look(self) -> None:
        """Look the names up once. One that has no address now is known by those that it had."""
        for named in self._named if self._by_name else ():
            try:
                self._found[named] = await asyncio.to_thread(addresses, named)
            except OSError as error:
                if named not in self._lost:
                    log.warning("students_not_found", url=named, error=str(error))
                self._lost.add(named)
            else:
                self._lost.discard(named)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._changed.clear()
            await self.look()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), LOOK_S)


def addresses(url: str) -> tuple[str, ...]:
    """The URL once for each address of its host, in order. Blocks; raises ``OSError`` where there is none."""
    parts = urlsplit(url)
    port = parts.port or 80
    found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    hosts = sorted({str(address[0]) for *_, address in found})
    return tuple(f"http://{f'[{host}]' if ':' in host else host}:{port}{parts.path}" for host in hosts)
