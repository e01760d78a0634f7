"""The trainer as a child process of the worker: started, reported on, stopped in time to leave a checkpoint."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from ledger import jobs
from ledger.jobs import Job
from ledger.store import Store
from serving import launch

__all__ = ("TrainingFailed", "run_trainer")

POLL_S: Final = 0.5
CHECKPOINT_S: Final = 30.0

Progress = Callable[[str, dict[str, Any]], None]


class TrainingFailed(Exception):
    """The trainer ended with a failure; the message is its last line."""


@dataclass
class _Reporter:
    """Passes on what the trainer wrote since the last look."""

    folder: Path
    on_progress: Progress
    lines: int = 0
    prepared: bytes = b""

    def look(self) -> None:
        """``prepared.json`` while the frozen layers run, then the lines of ``progress.jsonl``."""
        with contextlib.suppress(FileNotFoundError, msgspec.DecodeError):
            prepared = (self.folder / "prepared.json").read_bytes()
            if prepared != self.prepared:
                self.on_progress("preparing", msgspec.json.decode(prepared))
                self.prepared = prepared
        with contextlib.suppress(FileNotFoundError):
            whole, _, _ = (self.folder / "progress.jsonl").read_bytes().rpartition(b"\n")
            lines = whole.splitlines()
            if len(lines) > self.lines:
                self.on_progress("training", msgspec.json.decode(lines[-1]))
            self.lines = len(lines)


async def run_trainer(store: Store, owner: str, job: Job, folder: Path, on_progress: Progress) -> None:
    """Train by ``folder/train.json`` until the model folder is written. Raises `TrainingFailed`."""
    process = await asyncio.create_subprocess_exec(
        # the launcher ends the trainer when this worker dies: two of them must never share a folder
        sys.executable, "-I", launch.__file__, str(os.getpid()), sys.executable, "-m", "distill.train", str(folder),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "PYTHONWARNINGS": "ignore"},
        start_new_session=True,
    )  # fmt: skip
    errors = asyncio.create_task(_read_errors(process))
    reporter = _Reporter(folder, on_progress)
    try:
        while process.returncode is None:
            reporter.look()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), POLL_S)
        reporter.look()
        if process.returncode:
            why = (await errors).strip().splitlines()
            raise TrainingFailed(
                f"training ended with status {process.returncode}: {why[-1] if why else 'no message'}"
            )
    finally:
        await _stop(process, store, owner, job)
        errors.cancel()


async def _read_errors(process: asyncio.subprocess.Process) -> str:
    return (await process.stderr.read()).decode(errors="replace") if process.stderr else ""


async def _stop(process: asyncio.subprocess.Process, store: Store, owner: str, job: Job) -> None:
    """Let the trainer write its checkpoint, unless nobody is to go on from it or somebody does already."""
    if process.returncode is not None:
        return
    current = await asyncio.to_thread(jobs.get, store, job.id)
    with contextlib.suppress(TimeoutError):
        if current.lease_owner == owner and not current.cancel_requested:
            process.terminate()
            await asyncio.wait_for(process.wait(), CHECKPOINT_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
