"""``python -m bench.ledger --rows 1000000``: fill a ledger in a temporary folder, and measure it.

Prints this machine and Markdown tables, and writes ``var/bench/ledger.json``. 10,000,000 rows take some 10 GB there.
With ``--home`` the ledger is in that folder and stays there; ``--only`` measures some phases, of what is there.
"""

import argparse
import contextlib
import json
import multiprocessing
import shutil
import sqlite3
import tempfile
from pathlib import Path
from typing import Any, Final

from bench.gateway import machine
from bench.ledger.phases import PHASES, measured
from tests.postgres_server import binaries

WORK: Final = Path("var/bench").resolve()
BYTES_PER_ROW: Final = 1_500
"""At the most, with the write-ahead log and the temporary files of the migration."""


def main() -> None:
    """Measure phase after phase."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="requests")
    parser.add_argument("--home", type=Path, help="a folder to keep the ledger in")
    parser.add_argument("--only", nargs="+", choices=PHASES, default=list(PHASES), metavar="PHASE", help=_choices())
    asked = parser.parse_args()
    rows: int = asked.rows
    if "postgres" in asked.only and binaries() is None:
        parser.error("PostgreSQL's server programs (initdb, pg_ctl) are not installed: name other phases with --only")
    WORK.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(asked.home.parent if asked.home else WORK).free
    if "fill" in asked.only and free < rows * BYTES_PER_ROW:
        parser.error(f"{rows:,} rows may take {rows * BYTES_PER_ROW / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free")
    found: dict[str, Any] = {"rows": rows, "machine": machine.describe() | {"sqlite": sqlite3.sqlite_version}}
    with contextlib.ExitStack() as stack:
        folder = asked.home or Path(stack.enter_context(tempfile.TemporaryDirectory(dir=WORK, prefix="ledger-")))
        folder.mkdir(exist_ok=True)
        for name in asked.only:
            # a new process: what the phase before had in memory is not counted
            with multiprocessing.get_context("spawn").Pool(1) as process:
                found[name] = process.apply(measured, (PHASES[name], folder, rows))
            print(f"- {name}: {_said(found[name])}", flush=True)
    (WORK / "ledger.json").write_text(json.dumps(found, indent=1) + "\n")
    print(_report(found))


def _choices() -> str:
    return ", ".join(PHASES)


def _said(figures: dict[str, Any]) -> str:
    single = [f"{name} {value:,.6g}" for name, value in figures.items() if isinstance(value, int | float)]
    return ", ".join(single)


def _report(found: dict[str, Any]) -> str:
    about = ", ".join(f"{name} {value}" for name, value in found["machine"].items())
    lines = [f"\n{found['rows']:,} requests; {about}"]
    for phase in [name for name in ("overview", "explorer") if name in found]:
        lines += ["", f"| {phase} | first, ms | median, ms | CPU, ms |", "|---|---:|---:|---:|"]
        timed = {name: each for name, each in found[phase].items() if isinstance(each, dict)}
        kinds = ("first_ms", "median_ms", "median_cpu_ms")
        rows = [[name, *(f"{each[kind]:.0f}" for kind in kinds)] for name, each in timed.items()]
        lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
