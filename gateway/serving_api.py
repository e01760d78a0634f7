"""``GET /admin/v1/serving``: the student servers and how busy they are, and whom this gateway leaves alone."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
from litestar import Request, Response, get

from gateway.admin_requests import json_answer, store_of
from gateway.attempts import Attempts
from gateway.auth import opt
from gateway.relay import Relay
from ledger import releases, replicas
from ledger.replicas import Replica
from ledger.store import Store
from serving.engine_metrics import EngineFigures, Rate, Rates, read_figures

__all__ = ("Serving", "ServingReader", "Student", "UpstreamState", "handlers", "shown_url")

CONFIGURED: Final = "configured"
"""The state of a server that is not ours, at ``student.base_url``."""


class Student(msgspec.Struct, frozen=True):
    """One student server as it was last reported (``heartbeat_at``, ms), and what it says of itself, where it does.

    ``state`` is starting, ready, down, draining, swappable or configured. ``rate`` is over the readings of the last
    minute by this gateway process.
    """

    id: str
    release_id: str
    state: str
    at: str
    model: str | None
    heartbeat_at: int | None
    figures: EngineFigures | None
    rate: Rate | None


class UpstreamState(msgspec.Struct, frozen=True):
    """Whom this gateway process asks, and its breaker: ``state`` is closed, open or half_open."""

    name: str
    index: int
    at: str
    model: str
    state: str
    opens_in_seconds: float
    """Until it may be asked again."""


class Serving(msgspec.Struct, frozen=True):
    """``live`` is the ledger's, ``routed`` the release that this gateway process routes by. ``kept``: a process keeps
    the fleet. ``in_flight`` is of this gateway process, ``of_sides`` by side.
    """

    live: str | None
    routed: str | None
    trial: str | None
    kept: bool
    spool_bytes: int
    """Of this gateway process, that the store has not taken yet."""
    spool_refused: int
    """Records that its disk refused since it began."""
    in_flight: int
    of_sides: dict[str, int]
    students: list[Student]
    upstreams: list[UpstreamState]


class ServingReader:
    """Reads the ledger's replicas and each one's own figures; keeps what rates are of."""

    def __init__(self) -> None:
        self._rates = Rates()

    async def read(self, request: Request[Any, Any, Any], with_figures: bool = True) -> Serving:
        """How it stands; without figures no server is asked. Raises the store's error."""
        state = request.app.state
        found, live = await asyncio.to_thread(_stored, store_of(request))
        snapshot = state.live.snapshot
        running = [each for each in found if each.state != "keeper"]
        if (configured := state.live.elsewhere.urls) is not None:
            names = ["student.base_url", *(f"student.base_url {n}" for n in range(2, len(configured) + 1))]
            running = [
                Replica(name, live or "", url, CONFIGURED, 0) for name, url in zip(names, configured, strict=False)
            ]
        urls = sorted({each.url for each in running if each.url}) if with_figures else []
        relay: Relay = state.relay
        client, key = state.lasting.client, relay.student.group.api_key
        read = await asyncio.gather(*(read_figures(client, url, key) for url in urls))
        figures = {url: each for url, each in zip(urls, read, strict=True) if each is not None}
        now = time.monotonic()
        rates = {url: self._rates.add(url, each, now) for url, each in figures.items()}
        return Serving(
            live=live,
            routed=snapshot.release.id if snapshot.release else None,
            trial=snapshot.trial.release.id if snapshot.trial else None,
            kept=any(each.state == "keeper" for each in found),
            spool_bytes=state.lasting.recorder.backlog_bytes,
            spool_refused=state.lasting.recorder.refused,
            in_flight=state.admission.in_flight,
            of_sides={side.name: side.in_flight for side in (relay.teacher, relay.student)},
            students=[_student(each, figures.get(each.url), rates.get(each.url)) for each in running],
            upstreams=[*_upstreams(relay.teacher, now), *_upstreams(relay.student, now)],
        )


@get("/admin/v1/serving", opt=opt("read"))
async def show_serving(request: Request[Any, Any, Any]) -> Response[bytes]:
    """The student servers, how busy they are, and the breakers of this gateway process.

    `figures` are vLLM's own, null where a server does not tell them; `kv_cache` is a share of 1.
    """
    return json_answer(await request.app.state.read_serving(request))


def _stored(store: Store) -> tuple[list[Replica], str | None]:
    live = releases.live(store)
    return replicas.list_replicas(store), live.id if live else None


def _student(replica: Replica, figures: EngineFigures | None, rate: Rate | None) -> Student:
    at, heartbeat = shown_url(replica.url), replica.heartbeat_at or None
    return Student(replica.id, replica.release_id, replica.state, at, replica.model, heartbeat, figures, rate)


def _upstreams(side: Attempts, now: float) -> Iterator[UpstreamState]:
    for each in side.members:
        if each.upstream.base_url:
            at, wait = shown_url(each.upstream.base_url), round(each.breaker.opens_in(now), 1)
            yield UpstreamState(side.name, each.index, at, each.upstream.model, each.breaker.state, wait)


def shown_url(url: str) -> str:
    """Without what a URL may hold that is nobody's business: user, password, query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}" if parts.netloc else ""


handlers = [show_serving]
