"""What is measured of a ledger, each in a process of its own: its peak memory is then that phase's."""

import gc
import itertools
import resource
import statistics
import threading
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import sqlalchemy as sa
from alembic import command

from bench.ledger.filling import batches, fill_days, in_a_hurry
from bench.ledger.migrating import FIRST, migrate_to
from bench.ledger.recount import differences, total_differences
from bench.ledger.server import on_postgres
from bench.ledger.traffic import DAYS, RARE_KEY, RARE_TAG, traffic
from dashboards import overview, overview_tables
from dashboards.ranges import TimeRange
from ledger import explorer, schema
from ledger.explorer import Filters, Place, Wanted
from ledger.ingest import BATCH
from ledger.requests import count, expire_contents, insert_records
from ledger.rollups import DAY_MS
from ledger.store import Store, now_ms, open_store, sqlite_url

__all__ = ("PHASES",)

PLAIN_ROWS: Final = 20_000
"""So many go in as a gateway's do, before and after the filling: in batches of `MANY`, each on the disk."""
MANY, SOME, FEW = BATCH, 100, 20
TIMES: Final = 7

Figures = dict[str, Any]


def insert(home: Path, rows: int) -> Figures:
    """Newer rows than there are, in batches of as many as a tick of the gateway brings: with a busy one, `MANY`."""
    store = open_store(sqlite_url(home))
    held, found = count(store), Figures()
    records = traffic(max(rows, PLAIN_ROWS), now_ms() + held % DAYS * DAY_MS)
    for size in (MANY, SOME, FEW):
        some = list(batches(itertools.islice(records, PLAIN_ROWS * size // MANY), size))
        gc.collect()
        begins, cpu = time.perf_counter(), [_cpu(lambda batch=batch: insert_records(store, batch)) for batch in some]
        seconds, each = time.perf_counter() - begins, sum(map(len, some))
        found[f"{size} at once: cpu_us_per_row"] = sum(cpu) / each * 1e6
        found[f"{size} at once: median cpu_us_per_row"] = statistics.median(cpu) / size * 1e6
        found[f"{size} at once: rows_per_second"] = each / seconds
    return {**found, "held": held}


def fill(home: Path, rows: int) -> Figures:
    """90 days up to now."""
    store = in_a_hurry(open_store(sqlite_url(home)))
    before, begins = count(store), time.monotonic()
    cpu = _cpu(lambda: fill_days(store, rows, now_ms()))
    seconds, new = time.monotonic() - begins, count(store) - before
    store.close()
    size = (home / "ledger.sqlite").stat().st_size
    return {
        "rows": new,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "bytes": size,
        "bytes_per_row": size / (before + new),
    }


def read_overview(home: Path, _rows: int) -> Figures:
    """Everything that the page reads, and its tables, by group: milliseconds the first time, and the median."""
    store, now = open_store(sqlite_url(home)), now_ms()
    found: Figures = {}
    for group in overview_tables.GROUPS:
        for days in (1, DAYS):
            asked = overview.Asked(TimeRange(f"{days}d", now - days * DAY_MS + 1, now), group, 0.9)
            found[f"{group}, {days} d"] = _times(lambda asked=asked: _overview(store, asked))
    return found


def _overview(store: Store, asked: overview.Asked) -> None:
    found = overview.read_figures(store, asked)
    for table in overview_tables.tables(found, asked.group, "", urlencode).values():
        _ = table.plain


def explore(home: Path, _rows: int) -> Figures:
    """Pages of the explorer: the newest ones, and those from the middle of the time on."""
    store, middle = open_store(sqlite_url(home)), now_ms() - DAYS * DAY_MS // 2
    with store.read() as connection:
        some = connection.execute(sa.select(schema.requests.c.id).limit(1)).scalar_one()
    filters = {
        "all": Filters(),
        "one id": Filters(id=some),
        "route": Filters(route="student"),
        "status error": Filters(status="error"),
        "reason budget": Filters(reason="budget"),
        "the rarest key": Filters(key=RARE_KEY),
        "the rarest tag": Filters(tag=RARE_TAG),
        "model": Filters(model="gpt-4o-mini"),
        "score": Filters(score_min=0.999),
        "key, route and tag": Filters(key=RARE_KEY, route="student", tag="batch"),
        "text found often": Filters(text="refund"),
        "text found never": Filters(text="aardvark"),
    }
    found: Figures = {}
    for (name, each), before in itertools.product(filters.items(), (None, Place(middle, ""))):
        wanted = Wanted(before)
        label = name if before is None else f"{name}, from {DAYS // 2} days ago"
        found[label] = _times(lambda each=each, wanted=wanted: explorer.page(store, each, wanted))
    return found


def recount(home: Path, _rows: int) -> Figures:
    """Two days, one of them the newest: every row of the rollups against the requests; and the sums of all days."""
    store, today = open_store(sqlite_url(home)), now_ms() // DAY_MS * DAY_MS
    days = [(today, today + DAY_MS), (today - 40 * DAY_MS, today - 39 * DAY_MS)]
    begins = time.monotonic()
    wrong = [line for since, until in days for line in differences(store, since, until)]
    seconds, totals = time.monotonic() - begins, total_differences(store)
    return {
        "requests": count(store),
        "differences": len(wrong),
        "differences_of_totals": len(totals),
        "seconds": seconds,
        "first": [*wrong, *totals][:1],
    }


def expire(home: Path, _rows: int) -> Figures:
    """The content of the oldest tenth, and how long others waited to write meanwhile."""
    store, waits, done = open_store(sqlite_url(home)), array("d"), threading.Event()
    other = threading.Thread(target=_write_often, args=(store, waits, done))
    other.start()
    begins = time.monotonic()
    deleted = expire_contents(store, now_ms() - (DAYS - DAYS // 10) * DAY_MS)
    seconds = time.monotonic() - begins
    done.set()
    other.join()
    waited = {"waits": len(waits), "wait_median_ms": statistics.median(waits), "wait_longest_ms": max(waits)}
    return {"contents": deleted, "rows_per_second": deleted / seconds, **waited}


def _write_often(store: Store, waits: "array[float]", done: threading.Event) -> None:
    """Take the lock, and note how many ms that took, until all is done."""
    while not done.wait(0.02):
        begins = time.perf_counter()
        with store.write():
            waits.append(1000 * (time.perf_counter() - begins))


def migrate(home: Path, _rows: int) -> Figures:
    """Down to the first schema, and up again."""
    store = open_store(sqlite_url(home))
    down = _timed(lambda: migrate_to(store, command.downgrade, FIRST))
    up = _timed(lambda: migrate_to(store, command.upgrade, "head"))
    took = {"down_seconds": down[0], "down_cpu": down[1], "up_seconds": up[0], "up_cpu": up[1]}
    return {"rows": count(store), **took}


def _times(call: Callable[[], object]) -> Figures:
    took, cpu = zip(*(_timed(call) for _ in range(TIMES)), strict=True)
    medians = {"median_ms": 1000 * statistics.median(took), "median_cpu_ms": 1000 * statistics.median(cpu)}
    return {"first_ms": 1000 * took[0], **medians}


def _timed(call: Callable[[], object]) -> tuple[float, float]:
    """Seconds of the clock and of this process."""
    used, begins = time.process_time(), time.perf_counter()
    call()
    return time.perf_counter() - begins, time.process_time() - used


def _cpu(call: Callable[[], object]) -> float:
    return _timed(call)[1]


def measured(phase: Callable[[Path, int], Figures], home: Path, rows: int) -> Figures:
    """A phase's figures, with this process's peak memory (MiB)."""
    found = phase(home, rows)
    return {**found, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


PHASES: Final[dict[str, Callable[[Path, int], Figures]]] = {
    "insert": insert,
    "fill": fill,
    "insert when full": insert,
    "overview": read_overview,
    "explorer": explore,
    "recount": recount,
    "expire": expire,
    "migrate": migrate,
    "postgres": on_postgres,
}
"""In the order that they are measured in."""
