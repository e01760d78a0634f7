"""Child processes that are kept running: started again after a growing pause, ended in order."""

import asyncio
import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from serving import launch

__all__ = ("Part", "keep_running")

STOP_S: Final = 60.0
HEALTHY_S: Final = 30.0
POLL_S: Final = 0.2

Say = Callable[[str], None]


@dataclass
class Part:
    """``stillroom ARGUMENTS`` as a process. Its output goes to ``log``, or where ours does."""

    name: str
    arguments: Sequence[str]
    log: Path | None = None
    takes_settings: bool = False
    """Whether it is told to read its settings again."""
    stage: int = 0
    """Those of one stage end together, lower ones first."""
    process: asyncio.subprocess.Process | None = None
    started: float = 0.0
    failures: int = 0
    restart_at: float = 0.0

    @property
    def running(self) -> asyncio.subprocess.Process | None:
        """Its process, if that has not ended."""
        return self.process if self.process is not None and self.process.returncode is None else None

    @property
    def where(self) -> str:
        """Where to read more."""
        return f" (log: {self.log})" if self.log else ""


async def keep_running(parts: Sequence[Part], told: tuple[asyncio.Event, asyncio.Event], say: Say) -> int:
    """Run the parts until the first event of ``told``; the second has them read their settings again.

    Returns 2 when a part refuses its settings, 0 otherwise.
    """
    status = 0
    stop, reload = told
    while not stop.is_set() and status == 0:
        for part in parts:
            status = status or await _keep(part, say)
        if reload.is_set():
            reload.clear()
            for part in parts:
                if part.takes_settings and part.running is not None:
                    part.running.send_signal(signal.SIGHUP)
        try:
            await asyncio.wait_for(stop.wait(), POLL_S)
        except TimeoutError:
            continue
    for stage in sorted({part.stage for part in parts}):
        await asyncio.gather(*(_stop(part, say) for part in parts if part.stage == stage))
    return status


async def _keep(part: Part, say: Say) -> int:
    now = time.monotonic()
    if part.process is not None and part.process.returncode is not None:
        code = part.process.returncode
        part.process = None
        if code == 2:
            say(f"{part.name} refused to start{part.where}")
            return 2
        part.failures = 1 if now - part.started > HEALTHY_S else part.failures + 1
        pause = min(60.0, 2.0 ** (part.failures - 1)) * random.uniform(0.5, 1)  # noqa: S311 jitter
        part.restart_at = now + pause
        say(f"{part.name} ended with status {code}; again in {pause:.1f} s{part.where}")
    if part.process is None and now >= part.restart_at:
        part.started = now
        await _start(part)
    return 0


async def _start(part: Part) -> None:
    command = [sys.executable, "-I", launch.__file__, str(os.getpid()), sys.executable, "-m", "stillroom.cli"]
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(part.log.open("ab")) if part.log else None
        part.process = await asyncio.create_subprocess_exec(
            *command, *part.arguments,
            stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip


async def _stop(part: Part, say: Say) -> None:
    process = part.running
    if process is None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), STOP_S)
    except TimeoutError:
        say(f"{part.name} did not end in {STOP_S:.0f} s and is killed")
        process.kill()
        await process.wait()
