"""The processes of one machine: all of Stillroom, or a gateway's workers."""

import asyncio
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from stillroom.processes import Part, keep_running

__all__ = ("run_all", "run_workers")

PARTS: Final = ("gateway", "serve", "worker")
"""In the order of their end: the gateway drains while students still answer."""

Told = tuple[asyncio.Event, asyncio.Event]


async def run_all(config: Path | None, logs: Path, told: Told, say: Callable[[str], None]) -> int:
    """Gateway, student fleet and worker, as `stillroom.processes.keep_running`."""
    parts = [
        Part(name, [*_options(config), name], logs / f"{name}.log", takes_settings=name == "gateway", stage=stage)
        for stage, name in enumerate(PARTS)
    ]
    return await keep_running(parts, told, say)


async def run_workers(config: Path | None, count: int, told: Told, say: Callable[[str], None]) -> int:
    """So many gateway processes that share one port, as `stillroom.processes.keep_running`."""
    with tempfile.TemporaryDirectory(prefix="stillroom-") as siblings:
        command = [*_options(config), "gateway", "--siblings", siblings]
        parts = [Part(f"gateway worker {n + 1}", command, takes_settings=True) for n in range(count)]
        return await keep_running(parts, told, say)


def _options(config: Path | None) -> Sequence[str]:
    return ("--config", str(config)) if config else ()
