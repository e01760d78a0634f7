"""Long runs: memory and open files while many requests pass and the store is away, and many streams at once."""

import time
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Final

import sqlalchemy as sa

from bench.gateway import machine, world
from bench.gateway.stillroom_gateway import Route
from bench.gateway.world import Shape, Subject
from ledger import schema
from ledger.store import open_store, sqlite_url

__all__ = ("soak", "streams")

WINDOW: Final = 5_000
AWAY_S: Final = 60.0
PLAIN: Final = Shape("plain")


@dataclass
class Sample:
    """The gateway's processes at one moment."""

    rss_mb: float
    files: int

    @staticmethod
    def of(subject: Subject) -> "Sample":
        """Now."""
        pids = machine.tree(subject.pid)
        return Sample(machine.rss_mb(pids), machine.open_files(pids))


def soak(work: Path, requests: int, route: Route) -> None:
    """Send the requests in windows; in the middle the database is out of reach for a minute. Prints a line each."""
    with world.mock(work) as upstream, world.stillroom("soak", route, work, upstream) as subject:
        # the waiting for an empty spool would wait for the store that is away
        subject.spool, spool = None, subject.spool
        home = work / "soak"
        windows = max(requests // WINDOW, 4)
        away: Thread | None = None
        for number in range(windows):
            if number == windows // 2:
                away = Thread(target=_take_away, args=(home / "ledger.sqlite",))
                away.start()
            found = world.time_load(subject, PLAIN, 32, WINDOW)
            sample = Sample.of(subject)
            state = "store away" if away and away.is_alive() else "store there"
            print(
                f"{(number + 1) * WINDOW:>8} requests, {found.errors} errors, {found.rps:,.0f}/s, "
                f"RSS {sample.rss_mb:.1f} MiB, {sample.files} files, {state}",
                flush=True,
            )
        if away:
            away.join()
        subject.spool = spool
        subject.settle()
        _count(home, windows)


def _take_away(database: Path) -> None:
    """Rename it: from then on no connection takes it for the ledger. Its log and index go with it."""
    hidden = [(path, path.with_name(f"away-{path.name}")) for path in database.parent.glob(f"{database.name}*")]
    for path, to in hidden:
        path.rename(to)
    Event().wait(AWAY_S)
    for path, to in hidden:
        to.rename(path)


def _count(home: Path, windows: int) -> None:
    store = open_store(sqlite_url(home))
    deadline = time.monotonic() + 60
    wanted = windows * (WINDOW + WINDOW // 10)
    while True:
        with store.read() as connection:
            found = connection.execute(sa.select(sa.func.count()).select_from(schema.requests)).scalar_one()
        if found == wanted or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    store.close()
    print(f"sent {wanted}, in the ledger {found}")


def streams(work: Path, count: int, route: Route) -> None:
    """So many streams at once, of 64 chunks 20 ms apart, three times in a row."""
    shape = Shape("64 chunks, 20 ms apart", 64, True)
    with world.mock(work, gap_ms=20.0) as upstream, world.stillroom("streams", route, work, upstream) as subject:
        straight = world.time_load(world.direct(upstream), shape, count, count * 2)
        before = Sample.of(subject)
        found = world.time_load(subject, shape, count, count * 3)
        after = Sample.of(subject)
    used = (found.cpu_after - found.cpu_before) / found.requests * 1e6
    print(
        f"{count} streams at once: {found.errors} errors {found.error!r}\n"
        f"whole stream p50 {found.p50_ms:.0f} ms (direct {straight.p50_ms:.0f}), p99 {found.p99_ms:.0f} ms "
        f"(direct {straight.p99_ms:.0f}), first byte p50 {found.first_p50_ms:.1f} ms "
        f"(direct {straight.first_p50_ms:.1f})\nCPU {used:,.0f} µs per stream; "
        f"RSS {before.rss_mb:.0f} -> {after.rss_mb:.0f} MiB, files {before.files} -> {after.files}"
    )
