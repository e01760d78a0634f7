"""``python -m bench.gateway``: measures our gateway and the installed peers in one run.

``--fast`` is the short run, ``--soak N`` sends N requests and watches memory while the store is away for a while,
``--choices`` takes back one choice of the gateway's at a time (with ``--only``: on that route),
``--streams N`` holds N streams open at once, ``--flame FILE`` draws where the CPU time goes (on the route of
``--only``), ``--only NAME`` measures the named subjects alone.
"""

import argparse
import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bench.gateway import choices, machine, report, soak, world
from bench.gateway.flame import flame
from bench.gateway.load import Result
from bench.gateway.peers import PEERS
from bench.gateway.report import Row
from bench.gateway.stillroom_gateway import Route
from bench.gateway.world import Shape, Subject

WORK: Final = Path("var/bench").resolve()
PLAIN, STREAM_16, STREAM_64 = Shape("plain"), Shape("16 chunks", 16, True), Shape("64 chunks", 64, True)
ROUTES: Final = {
    "stillroom teacher": Route(release=False),
    "stillroom teacher, 20 logprobs kept": Route(release=False, harvest=20),
    "stillroom student": Route(release=True),
    "stillroom student, no ledger": Route(release=True, ledger=False),
}
FULL: Final = [(shape, n) for shape in (PLAIN, STREAM_16, STREAM_64) for n in (1, 32, 256)]
FAST: Final = [(PLAIN, 1), (PLAIN, 32), (STREAM_16, 32)]
SHAPES: Final = {PLAIN: 4000, STREAM_16: 1500, STREAM_64: 600}
"""Requests in a window; a fifth of them with one connection, and in the short run."""
WINDOWS, CELL_S = 3, 12.0
"""Of which the best counts, unless one that is slow has taken so long already."""


def _requests(shape: Shape, connections: int, fast: bool) -> int:
    return max(SHAPES[shape] // (5 if fast or connections == 1 else 1), 4 * connections)


def _subjects(upstream: int, only: list[str]) -> Iterator[contextlib.AbstractContextManager[Subject]]:
    for name, route in ROUTES.items():
        if not only or name in only:
            yield world.stillroom(name, route, WORK, upstream)
    for peer in PEERS:
        executable = peer.found()
        if executable and (not only or peer.name in only):
            yield world.peer(peer, executable, WORK, upstream)


def _measure(
    subject: Subject, cells: list[tuple[Shape, int]], straight: dict[tuple[Shape, int], Result], fast: bool
) -> Iterator[Row]:
    for shape, connections in cells:
        requests = _requests(shape, connections, fast)
        results, began = list[Result](), time.monotonic()
        while not results or (not fast and len(results) < WINDOWS and time.monotonic() - began < CELL_S):
            results.append(world.time_load(subject, shape, connections, requests))
        row = report.best(subject, shape, connections, results, straight.get((shape, connections)))
        if subject.pid:
            row.rss_mb = machine.rss_mb(machine.tree(subject.pid))
        yield row


def _half(subject: Subject, saturated: Row, straight: Result) -> Row:
    """At half of the rate that saturates it, requests due at fixed times: what a user would see."""
    rate = saturated.rps / 2
    results = [world.time_load(subject, PLAIN, 32, int(rate * 2) + 64, rate) for _ in range(3)]
    row = report.best(subject, Shape("plain, half rate"), 32, results, straight)
    row.rss_mb = machine.rss_mb(machine.tree(subject.pid))
    return row


def compare(fast: bool, only: list[str]) -> None:
    """The table."""
    cells = FAST if fast else FULL
    rows: list[Row] = []
    with world.mock(WORK) as upstream:
        mock = world.direct(upstream)
        straight = {(shape, n): world.time_load(mock, shape, n, _requests(shape, n, fast)) for shape, n in cells}
        rows += [report.best(mock, shape, n, [found], None) for (shape, n), found in straight.items()]
        calm = world.time_load(mock, PLAIN, 32, 1000, 500.0)
        for starting in _subjects(upstream, only):
            measured: list[Row] = []
            try:
                with starting as subject:
                    measured.extend(_measure(subject, cells, straight, fast))
                    if not fast:
                        measured.append(_half(subject, next(row for row in measured if row.connections == 32), calm))
            except world.NotServing as error:
                print(f"left out, or not measured further: {error}", flush=True)
            rows += measured
            print("\n".join(report.table(measured).splitlines()[2:]), flush=True)
    described = machine.describe()
    report.save(WORK / f"gateway-{described['at'].replace(':', '')}.json", described, rows)
    print(f"\n{json.dumps(described)}\n\n{report.table(rows)}")
    for row in rows:
        if row.note:
            print(f"\n{row.subject}, {row.shape}, {row.connections}: {row.note[:300]!r}")


def main() -> None:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(prog="python -m bench.gateway", description=__doc__)
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--soak", type=int, metavar="N")
    parser.add_argument("--choices", action="store_true")
    parser.add_argument("--streams", type=int, metavar="N")
    parser.add_argument("--flame", type=Path, metavar="FILE")
    options = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    if options.soak:
        soak.soak(WORK, options.soak, ROUTES["stillroom student"])
    elif options.flame:
        flame(WORK, ROUTES[options.only[0] if options.only else "stillroom student"], PLAIN, options.flame)
    elif options.choices:
        route = ROUTES[options.only[0] if options.only else "stillroom student"]
        requests = [(shape, _requests(shape, choices.CONNECTIONS, options.fast)) for shape in (PLAIN, STREAM_16)]
        choices.compare(WORK, route, requests, 2 if options.fast else 5)
    elif options.streams:
        soak.streams(WORK, options.streams, ROUTES["stillroom teacher"])
    else:
        compare(options.fast, options.only)


if __name__ == "__main__":
    main()
