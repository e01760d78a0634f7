"""The figures of a run: one row per subject, shape and number of connections, as a table and as JSON."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench.gateway.load import Result
from bench.gateway.world import Shape, Subject

__all__ = ("Row", "best", "save", "table")


class Row(msgspec.Struct):
    """The best of some windows. Latency is what the subject adds to a direct call of the same kind."""

    subject: str
    shape: str
    connections: int
    rps: float
    added_p50_ms: float
    added_p99_ms: float
    cpu_us: float | None
    """CPU time of all its processes per request, until its records are in the store."""
    rss_mb: float | None
    errors: int
    note: str = ""


def best(subject: Subject, shape: Shape, connections: int, results: Sequence[Result], straight: Result | None) -> Row:
    """Other work on the machine only ever makes a window worse, so the best one is the nearest to the truth."""
    p50 = min(result.p50_ms for result in results)
    p99 = min(result.p99_ms for result in results)
    used = [(result.cpu_after - result.cpu_before) / max(result.requests, 1) * 1e6 for result in results]
    return Row(
        subject=subject.name,
        shape=shape.name,
        connections=connections,
        rps=max(result.rps for result in results),
        added_p50_ms=p50 - straight.p50_ms if straight else 0.0,
        added_p99_ms=p99 - straight.p99_ms if straight else 0.0,
        cpu_us=min(used) if subject.pid else None,
        rss_mb=None,
        errors=sum(result.errors for result in results),
        note=next((result.error for result in results if result.error), ""),
    )


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    lines = [
        "| subject | answer | connections | requests/s | p50 added, ms | p99 added, ms | CPU µs/request | RSS, MiB |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        cpu = f"{row.cpu_us:,.0f}" if row.cpu_us is not None else ""
        rss = f"{row.rss_mb:.0f}" if row.rss_mb is not None else ""
        wrong = f" ({row.errors} errors)" if row.errors else ""
        lines.append(
            f"| {row.subject}{wrong} | {row.shape} | {row.connections} | {row.rps:,.0f} | {row.added_p50_ms:.2f} "
            f"| {row.added_p99_ms:.2f} | {cpu} | {rss} |"
        )
    return "\n".join(lines)


def save(path: Path, machine: dict[str, Any], rows: Sequence[Row]) -> None:
    """All of it as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode({"machine": machine, "rows": list(rows)})))
