"""One vLLM process: started, watched until it answers, stopped with its children, restarted when it dies."""

import asyncio
import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx
import structlog

from serving import engine, launch
from serving.address import LOOPBACK, root_url
from serving.engine import EngineOptions

__all__ = ("Backoff", "EngineError", "Health", "Patience", "VllmServer", "free_port", "supervise")

Health = Literal["ready", "down"]

POLL_SECONDS = 0.2
PROGRESS_SECONDS = 3.0
TAIL_LINES = 30
TAIL_BYTES = 64 * 1024
LOG_PREFIX = re.compile(r"^\(\w+ pid=\d+\) [A-Z]+ [-\d]+ [:\d]+ \[[^]]+\] ")
NOISE = ("nanobind:", "- leaked", "- ...", "See https://nanobind", "resource_tracker", "warnings.warn(")
"""Beginnings of what an exiting interpreter writes after the error that ended it."""

log = structlog.get_logger(__name__)


class EngineError(Exception):
    """The engine ended or did not become ready. The message holds its last log lines and the log's path."""


def free_port(address: str = LOOPBACK) -> int:
    """A TCP port of an address of this machine that was free a moment ago. Raises ``OSError`` where it has none."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


class VllmServer:
    """An engine process. Holds no event loop: it may be started in one and stopped in another."""

    def __init__(self, options: EngineOptions, log_path: Path) -> None:
        self.options = options
        self.log_path = log_path
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def url(self) -> str:
        """The server's root, without ``/v1``."""
        return root_url(self.options.address, self.options.port)

    @property
    def pid(self) -> int | None:
        """The launcher's process id, which is also the id of the process group; None before the start."""
        return self._process.pid if self._process else None

    @property
    def alive(self) -> bool:
        """Whether the process runs; it may still be loading, or be stuck."""
        return self._process is not None and self._process.poll() is None

    async def start(self) -> None:
        """Start the process, appending to its log. Raises `EngineError` when it was started before."""
        if self._process is not None:
            raise EngineError("this server was started before: make a new one")
        self._spawn()

    def _spawn(self) -> None:
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        launcher = [sys.executable, "-I", launch.__file__, str(os.getpid())]
        with self.log_path.open("ab") as output:
            self._log_start = output.tell()
            self._process = subprocess.Popen(
                launcher + engine.command(self.options),
                env=engine.environment(self.options, os.environ),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    async def wait_ready(self, timeout: float, on_progress: Callable[[str], None]) -> None:  # noqa: ASYNC109
        """Return when the engine has answered a one-token request; a line to ``on_progress`` at times.

        ``/health`` alone is not enough: vLLM says 200 before its first step, and a model that its kernels do
        not support kills it there. Raises `EngineError` when the process ends, or after ``timeout`` seconds.
        """
        began = time.monotonic()
        next_line = began + PROGRESS_SECONDS
        async with self.trusted_client(timeout=60) as client:
            while not await _answers(client, self.options.served_name):
                now = time.monotonic()
                if not self.alive:
                    self._kill_group()
                    raise EngineError(self._obituary(f"the engine ended after {now - began:.0f} s"))
                if now - began > timeout:
                    raise EngineError(self._obituary(f"the engine is not ready after {timeout:.0f} s"))
                if now >= next_line:
                    news = LOG_PREFIX.sub("", self.tail(1))[:160] or "the interpreter loads vLLM"
                    on_progress(f"{now - began:.0f} s: {news}")
                    next_line = now + PROGRESS_SECONDS
                await asyncio.sleep(POLL_SECONDS)
        on_progress(f"ready after {time.monotonic() - began:.1f} s")

    async def healthy(self) -> bool:
        """Whether ``/health`` answers 200 within five seconds."""
        async with self.trusted_client(timeout=5) as client:
            return self.alive and await _ok(client.get("/health"))

    async def stop(self, drain_seconds: float) -> None:
        """SIGTERM, then up to ``drain_seconds`` for running requests, then SIGKILL to the whole group.

        Stop sending requests first: vLLM answers 500 to those that arrive while it drains.
        """
        if self._process is None:
            return
        if self.alive:
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(self._process.wait, drain_seconds)
        self._kill_group()
        await asyncio.to_thread(self._process.wait)

    def tail(self, lines: int = TAIL_LINES) -> str:
        """The last ``lines`` that say something, of what this process wrote to its log."""
        if not self.log_path.exists():
            return ""
        with self.log_path.open("rb") as file:
            file.seek(max(self._log_start, self.log_path.stat().st_size - TAIL_BYTES))
            text = file.read().decode(errors="replace")
        told = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith(NOISE)]
        return "\n".join(told[-lines:])

    def trusted_client(self, timeout: float) -> httpx.AsyncClient:
        """A client that the guard lets in everywhere (`serving.guard`)."""
        # Plain HTTP on this machine: no proxy of the environment, and no certificates to read each time.
        return httpx.AsyncClient(
            base_url=self.url, timeout=timeout, trust_env=False, verify=False,  # noqa: S501
            headers={"authorization": f"Bearer {self.options.token}"},
        )  # fmt: skip

    def _obituary(self, headline: str) -> str:
        return f"{headline}; its last log lines ({self.log_path}):\n{self.tail()}"

    def _kill_group(self) -> None:
        """SIGKILL to what is left of the group: children outlive a launcher that was killed itself."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)


async def _ok(request: Coroutine[Any, Any, httpx.Response]) -> bool:
    try:
        return (await request).is_success
    except httpx.HTTPError:
        return False


async def _answers(client: httpx.AsyncClient, model: str) -> bool:
    probe = {"model": model, "prompt": [1], "max_tokens": 1}
    return await _ok(client.get("/health")) and await _ok(client.post("/v1/completions", json=probe))


@dataclass(frozen=True)
class Backoff:
    """Waits between restarts, in seconds: doubling from ``first`` to ``most``, drawn from their upper halves.

    An engine that was healthy for ``forget_after`` starts again at ``first``.
    """

    first: float = 1.0
    most: float = 60.0
    forget_after: float = 60.0

    def wait(self, failures: int) -> float:
        """The wait after this many failures in a row (1 or more)."""
        longest = min(self.most, self.first * 2.0 ** min(failures - 1, 32))
        return random.uniform(longest / 2, longest)  # noqa: S311 (jitter, not a secret)


@dataclass(frozen=True)
class Patience:
    """How long `supervise` waits: for readiness, between health checks, and how many may fail in a row."""

    ready: float = 600.0
    interval: float = 2.0
    misses: int = 3
    drain: float = 30.0


async def supervise(
    server_factory: Callable[[], VllmServer],
    on_change: Callable[[Health, VllmServer], None],
    stop: asyncio.Event,
    backoff: Backoff = Backoff(),
    patience: Patience = Patience(),
) -> None:
    """Keep one engine running until ``stop`` is set; then drain it and return.

    Each attempt is a new server of ``server_factory``. ``on_change`` hears ``ready`` when it answers, and
    ``down`` when it ended, stopped answering, never became ready, or is about to be drained.
    """
    failures = 0
    while not stop.is_set():
        server = server_factory()
        healthy_seconds = await _one_life(server, on_change, stop, patience)
        failures = 1 if healthy_seconds >= backoff.forget_after else failures + 1
        if not stop.is_set():
            wait = backoff.wait(failures)
            log.warning("engine_down", log=str(server.log_path), failures=failures, restart_in=round(wait, 1))
            await _sleep(wait, stop)


async def _one_life(
    server: VllmServer,
    on_change: Callable[[Health, VllmServer], None],
    stop: asyncio.Event,
    patience: Patience,
) -> float:
    """Seconds for which the server was healthy. It is stopped in the end, whatever happens."""
    became_ready: float | None = None
    try:
        await server.start()
        if await _ready(server, stop, patience):
            became_ready = time.monotonic()
            on_change("ready", server)
            await _until_down(server, stop, patience)
        return time.monotonic() - became_ready if became_ready is not None else 0.0
    finally:
        on_change("down", server)
        await server.stop(patience.drain if became_ready is not None and stop.is_set() else 0)


async def _ready(server: VllmServer, stop: asyncio.Event, patience: Patience) -> bool:
    """Wait until it is ready or failed, but no longer than until ``stop``."""
    waiting = asyncio.create_task(server.wait_ready(patience.ready, _log_progress))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({waiting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            return False
        await waiting
    except EngineError as error:
        log.warning("engine_failed", error=str(error))
        return False
    else:
        return True
    finally:
        for task in (waiting, stopping):
            task.cancel()
        await asyncio.gather(waiting, stopping, return_exceptions=True)


def _log_progress(line: str) -> None:
    log.info("engine_starting", line=line)


async def _until_down(server: VllmServer, stop: asyncio.Event, patience: Patience) -> None:
    misses = 0
    while misses < patience.misses and server.alive and not stop.is_set():
        await _sleep(patience.interval, stop)
        misses = 0 if await server.healthy() else misses + 1


async def _sleep(seconds: float, stop: asyncio.Event) -> None:
    """Sleep, but wake when ``stop`` is set."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
