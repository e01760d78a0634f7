"""Everything on one machine: gateway, student fleet and worker as child processes, kept running, ended in order."""

import asyncio
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from serving import launch

__all__ = ("PARTS", "run_all")

PARTS: Final = ("gateway", "serve", "worker")
"""In the order of their end: the gateway drains while students still answer."""
STOP_S: Final = 60.0
HEALTHY_S: Final = 30.0


@dataclass
class _Part:
    name: str
    arguments: list[str]
    process: asyncio.subprocess.Process | None = None
    started: float = 0.0
    failures: int = 0
    restart_at: float = 0.0
    exits: list[int] = field(default_factory=list[int])


async def run_all(
    config: Path | None, logs: Path, told: tuple[asyncio.Event, asyncio.Event], say: Callable[[str], None]
) -> int:
    """Run the parts until the first event of ``told``; the second has the gateway read its settings again.

    A part that ends is started again after a growing pause.

    Returns 2 when a part refuses its settings, 0 otherwise.
    """
    options = ["--config", str(config)] if config else []
    parts = [_Part(name, ["-m", "stillroom.cli", *options, name]) for name in PARTS]
    status = 0
    stop, reload = told
    while not stop.is_set() and status == 0:
        for part in parts:
            status = status or await _keep(part, logs, say)
        if reload.is_set():
            reload.clear()
            _hang_up(parts[0])
        try:
            await asyncio.wait_for(stop.wait(), 0.2)
        except TimeoutError:
            continue
    for part in parts:
        await _stop(part, say)
    return status


async def _keep(part: _Part, logs: Path, say: Callable[[str], None]) -> int:
    now = time.monotonic()
    if part.process is not None and part.process.returncode is not None:
        code = part.process.returncode
        part.process = None
        if code == 2:
            say(f"{part.name} refused to start; see {logs / part.name}.log")
            return 2
        part.failures = 1 if now - part.started > HEALTHY_S else part.failures + 1
        pause = min(60.0, 2.0 ** (part.failures - 1)) * random.uniform(0.5, 1)  # noqa: S311 jitter
        part.restart_at = now + pause
        say(f"{part.name} ended with status {code}; again in {pause:.1f} s (log: {logs / part.name}.log)")
    if part.process is None and now >= part.restart_at:
        part.started = now
        with (logs / f"{part.name}.log").open("ab") as output:
            part.process = await asyncio.create_subprocess_exec(
                sys.executable, "-I", launch.__file__, str(os.getpid()), sys.executable, *part.arguments,
                stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
    return 0


def _hang_up(part: _Part) -> None:
    if part.process is not None and part.process.returncode is None:
        part.process.send_signal(signal.SIGHUP)


async def _stop(part: _Part, say: Callable[[str], None]) -> None:
    process = part.process
    if process is None or process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), STOP_S)
    except TimeoutError:
        say(f"{part.name} did not end in {STOP_S:.0f} s and is killed")
        process.kill()
        await process.wait()
