"""One ``/metrics`` for the workers of a gateway: whichever is asked reads the others' and adds them up.

Each worker answers its own on a Unix socket in the folder that they meet in. A worker that was replaced begins anew.
"""

import asyncio
import contextlib
import os
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

__all__ = ("Siblings", "merged")

WAIT_S: Final = 2.0
"""A sibling that does not answer in this time is left out."""
CREATED: Final = "_created"

Values = list[float]
RULES: Final[dict[str, Callable[[Values], float]]] = {
    "stillroom_budget_left_least_ratio": min,
    "stillroom_events": max,
    "stillroom_in_flight_requests": sum,
    "stillroom_labels": max,
    "stillroom_labels_agreed": max,
    "stillroom_shared_limits_reachable": min,
    "stillroom_spool_write_failures": sum,
    "stillroom_store_reachable": min,
    "stillroom_teacher_share": fmean,
    "stillroom_upstream_in_flight_requests": sum,
}
"""Where it is not the sum of counters, or the largest of gauges: most of these are of the one store."""


class Siblings:
    """This worker among the others."""

    def __init__(self, folder: Path, render: Callable[[], bytes]) -> None:
        self._folder, self._render = folder, render
        self._own = folder / f"{os.getpid()}.sock"

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncGenerator[None]:
        """Answer them."""

        async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(self._render())
            with contextlib.suppress(OSError):
                await writer.drain()
            writer.close()

        server = await asyncio.start_unix_server(answer, self._own)
        try:
            yield
        finally:
            server.close()
            self._own.unlink(missing_ok=True)

    async def render(self) -> bytes:
        """The metrics of all, in the text exposition format."""
        others = [path for path in sorted(self._folder.glob("*.sock")) if path != self._own]
        found = await asyncio.gather(*map(self._read, others))
        return merged([self._render(), *(text for text in found if text)])

    async def _read(self, path: Path) -> bytes:
        try:
            async with asyncio.timeout(WAIT_S):
                reader, writer = await asyncio.open_unix_connection(path)
                try:
                    return await reader.read(-1)
                finally:
                    writer.close()
        except (OSError, TimeoutError) as error:
            if isinstance(error, ConnectionRefusedError):
                _forget(path)
            return b""


def _forget(killed: Path) -> None:
    """Its socket would be asked each time."""
    killed.unlink(missing_ok=True)


def merged(texts: Sequence[bytes]) -> bytes:
    """Expositions of processes as one; of one process, the same."""
    families: dict[str, Metric] = {}
    values: defaultdict[tuple[str, str, tuple[tuple[str, str], ...]], Values] = defaultdict(list)
    for text in texts:
        for family in text_string_to_metric_families(text.decode()):
            families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                values[family.name, sample.name, tuple(sample.labels.items())].append(sample.value)
    for (name, sample, labels), found in values.items():
        families[name].add_sample(sample, dict(labels), _rule(families[name])(found))
    registry = CollectorRegistry()
    registry.register(_Collected(families.values()))
    return generate_latest(registry)


def _rule(family: Metric) -> Callable[[Values], float]:
    if family.name.endswith(CREATED):
        return min
    return RULES.get(family.name, max if family.type == "gauge" else sum)


class _Collected:
    """What `generate_latest` asks a collector for."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Any]:
        """The families."""
        return self._families
