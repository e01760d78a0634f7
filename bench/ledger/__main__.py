"""``python -m bench.ledger --rows 1000000``: fill a ledger in a temporary folder, and measure it.

Prints this machine and Markdown tables, and writes ``var/bench/ledger.json``. 10,000,000 rows take some 10 GB there.
"""

import argparse
import json
import multiprocessing
import shutil
import sqlite3
import tempfile
from pathlib import Path
from typing import Any, Final

from bench.gateway import machine
from bench.ledger.phases import PHASES, measured

WORK: Final = Path("var/bench").resolve()
BYTES_PER_ROW: Final = 1_500
"""At the most, with the write-ahead log and the temporary files of the migration."""


def main() -> None:
    """Measure phase after phase."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="requests")
    rows = parser.parse_args().rows
    WORK.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(WORK).free
    if free < rows * BYTES_PER_ROW:
        parser.error(f"{rows:,} rows may take {rows * BYTES_PER_ROW / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free")
    found: dict[str, Any] = {"rows": rows, "machine": machine.describe() | {"sqlite": sqlite3.sqlite_version}}
    with tempfile.TemporaryDirectory(dir=WORK, prefix="ledger-") as folder:
        for name, phase in PHASES.items():
            # a new process: what the phase before had in memory is not counted
            with multiprocessing.get_context("spawn").Pool(1) as process:
                found[name] = process.apply(measured, (phase, Path(folder), rows))
            print(f"- {name}: {_said(found[name])}", flush=True)
    (WORK / "ledger.json").write_text(json.dumps(found, indent=1) + "\n")
    print(_report(found))


def _said(figures: dict[str, Any]) -> str:
    single = [f"{name} {value:,.6g}" for name, value in figures.items() if isinstance(value, int | float)]
    return ", ".join(single)


def _report(found: dict[str, Any]) -> str:
    about = ", ".join(f"{name} {value}" for name, value in found["machine"].items())
    lines = [f"\n{found['rows']:,} requests; {about}"]
    for phase in ("overview", "explorer"):
        lines += ["", f"| {phase} | first, ms | median, ms |", "|---|---:|---:|"]
        timed = {name: each for name, each in found[phase].items() if isinstance(each, dict)}
        lines += [f"| {name} | {each['first_ms']:.0f} | {each['median_ms']:.0f} |" for name, each in timed.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
