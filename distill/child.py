"""The trainer as a child process of the worker: started, reported on, stopped in time to leave a checkpoint.

One trainer holds a job's folder, by a lock that ends with it. Whoever holds the job's lease may end another's trainer
there: that one's worker has lost the lease and does not know it yet.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
from sqlalchemy.exc import SQLAlchemyError

from distill.ranks import RESTARTS, STARTS
from ledger import jobs
from ledger.jobs import Job
from ledger.store import Store, now_ms
from serving import launch

__all__ = ("TrainingFailed", "command", "environment", "run_trainer")

POLL_S: Final = 0.5
CHECKPOINT_S: Final = 20.0
ASK_S: Final = 2.0
HELD_S: Final = 30.0
PAUSE_S: Final = 1.0
INHERITED: Final = (
    "CUDA_", "HF_", "HIP_", "HOME", "LANG", "LC_", "LD_", "LOGNAME", "MKL_", "NCCL_", "NVIDIA_", "OMP_", "PATH",
    "PYTHON", "PYTORCH_", "RAY_", "ROCR_", "TMPDIR", "TORCH", "TRITON_", "TZ", "USER", "VIRTUAL_ENV", "VLLM_", "XDG_",
)  # fmt: skip
"""Beginnings of the names of variables that a trainer gets: no key, no token, no database's URL."""
SECRETS: Final = ("KEY", "PASSWORD", "SECRET", "TOKEN")
"""What is withheld of those: names that have one of these as a word."""

SHARED: Final = {"torchrun": "distill.torchrun", "ray": "distill.on_ray"}
"""The module that starts several trainers, by ``distill.engine``."""

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
    starts: int = sys.maxsize
    """Of Ray's workers, as known; at first any, for those that were counted may be another run's."""

    def look(self) -> None:
        """``prepared.json`` while the frozen layers run, the lines of ``progress.jsonl``, and what Ray redoes."""
        with contextlib.suppress(FileNotFoundError):
            starts = (self.folder / STARTS).stat().st_size
            if starts > max(1, self.starts):
                self.on_progress("restart", {"ended_by": "the loss of a worker", "left": RESTARTS + 2 - starts})
            self.starts = starts
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


def environment(base: Mapping[str, str]) -> dict[str, str]:
    """The trainer's environment: what it needs of ``base`` (usually ``os.environ``), our settings over it."""
    kept = {
        name: value
        for name, value in base.items()
        if name.startswith(INHERITED) and not set(name.upper().split("_")).intersection(SECRETS)
    }
    return kept | {"OMP_WAIT_POLICY": "PASSIVE", "PYTHONWARNINGS": "ignore"}


async def run_trainer(store: Store, owner: str, job: Job, folder: Path, on_progress: Progress) -> None:
    """Train by ``folder/train.json`` until the model folder is written.

    A trainer that is killed goes on from its checkpoint, `RESTARTS` times. Raises `TrainingFailed`, and `JobError`
    where the job is no longer this owner's.
    """
    for left in range(RESTARTS, -1, -1):
        await asyncio.to_thread(jobs.heartbeat, store, job.id, owner)
        status, why = await _run_once(store, owner, job, _Reporter(folder, on_progress))
        if status == 0:
            return
        number = -status if status < 0 else status - 128
        if number <= 0:
            raise TrainingFailed(f"training ended with status {status}: {why}")
        if not left:
            raise TrainingFailed(
                f"training was ended by {_name(number)} {RESTARTS + 1} times"
                + (", as the system does where memory runs out: lower distill.training.batch_size or max_length"
                   if number == signal.SIGKILL else "")
            )  # fmt: skip
        on_progress("restart", {"ended_by": _name(number), "left": left})
        await asyncio.sleep(PAUSE_S)


def _name(number: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"


async def _run_once(store: Store, owner: str, job: Job, reporter: _Reporter) -> tuple[int, str]:
    """One run of the trainer: its exit status (above 128: of a signal) and the last line of what it said."""
    process = await _start(reporter.folder)
    errors = asyncio.create_task(_read_errors(process))
    try:
        while process.returncode is None:
            reporter.look()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), POLL_S)
        reporter.look()
        said = (await errors).strip().splitlines() if process.returncode else []
        # of several processes the first to fail takes the others with it
        own = [line for line in said if line.startswith("distill.train: ")]
        return process.returncode, (own or said[-1:] or ["no message"])[0]
    finally:
        await _stop(process, store, owner, job)
        errors.cancel()


async def _start(folder: Path) -> asyncio.subprocess.Process:
    lock = await _locked(folder / "trainer.lock")
    config = json.loads((folder / "train.json").read_bytes())
    try:
        process = await asyncio.create_subprocess_exec(
            # the launcher ends the trainer when this worker dies, and holds the lock as long as it lives
            sys.executable, "-I", launch.__file__, str(os.getpid()), *command(folder, config),
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
            env=environment(os.environ), start_new_session=True, pass_fds=(lock,),
        )  # fmt: skip
        os.pwrite(lock, f"{socket.gethostname()} {process.pid} \n".encode(), 0)
        return process
    finally:
        os.close(lock)


def command(folder: Path, config: Mapping[str, Any]) -> list[str]:
    """The trainer of a job's folder, by its ``train.json``."""
    module = SHARED.get(config.get("engine", "local"))
    if module is not None:
        return [sys.executable, "-m", module, str(folder), str(config["processes"])]
    return [sys.executable, "-m", "distill.train", str(folder)]


async def _locked(path: Path) -> int:
    """The lock of a job's folder, as an open file; a trainer that holds it is ended. Raises `TrainingFailed`."""
    until = time.monotonic() + HELD_S
    with contextlib.ExitStack() as closing:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        closing.callback(os.close, handle)
        while not _took(handle):
            if time.monotonic() > until:
                raise TrainingFailed(f"another worker's trainer still holds {path.parent} after {HELD_S:.0f} s")
            _end_holder(os.pread(handle, 300, 0).decode(errors="replace"))
            await asyncio.sleep(POLL_S / 5)
        closing.pop_all()
        return handle


def _took(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _end_holder(line: str) -> None:
    host, _, rest = line.partition(" ")
    group = rest.partition(" ")[0]
    if host == socket.gethostname() and group.isdecimal() and int(group) > 1:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(int(group), signal.SIGKILL)


async def _read_errors(process: asyncio.subprocess.Process) -> str:
    return (await process.stderr.read()).decode(errors="replace") if process.stderr else ""


async def _stop(process: asyncio.subprocess.Process, store: Store, owner: str, job: Job) -> None:
    """Let the trainer write its checkpoint, unless nobody is to go on from it or somebody does or may do already."""
    if process.returncode is not None:
        return
    with contextlib.suppress(TimeoutError, SQLAlchemyError):
        current = await asyncio.wait_for(asyncio.to_thread(jobs.get, store, job.id), ASK_S)
        lease_ms = (current.lease_until or 0) - now_ms()
        if current.lease_owner == owner and not current.cancel_requested and lease_ms > CHECKPOINT_S * 1000:
            process.terminate()
            await asyncio.wait_for(process.wait(), CHECKPOINT_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
