"""The processes of a measurement: the mock, the gateway under test, the load generator; each pinned to its core."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from bench.gateway import machine, peers, stillroom_gateway
from bench.gateway.load import Plan, Result

__all__ = ("NotServing", "Shape", "Subject", "direct", "mock", "peer", "request_bytes", "stillroom", "time_load")

START_S: Final = 240.0
SETTLE_S: Final = 20.0
WINDOW_S: Final = 3.0
"""A slow peer sends fewer requests, so that the whole comparison takes minutes."""
ROOT: Final = Path(__file__).parents[2]


class NotServing(SystemExit):
    """A subject that did not start, or does not do what is to be measured."""


@dataclass(frozen=True)
class Shape:
    """What a request asks for: a whole answer, or a stream of ``chunks`` tokens."""

    name: str
    chunks: int = 16
    stream: bool = False


@dataclass
class Subject:
    """What is measured: something that listens on a port."""

    name: str
    port: int
    pid: int = 0
    """Root of its process tree; 0 for the mock itself, whose CPU is not counted."""
    path: str = "/v1/chat/completions"
    headers: dict[str, str] = field(default_factory=dict)
    model: str = "auto"
    spool: Path | None = None
    """Where our own gateway's records wait for the store."""

    def settle(self) -> None:
        """Wait until what was recorded is in the store, so that its cost is counted with the requests."""
        deadline = time.monotonic() + SETTLE_S
        while self.spool and self._backlog() and time.monotonic() < deadline:
            time.sleep(0.02)

    def _backlog(self) -> int:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/metrics")
        with urllib.request.urlopen(request, timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        shown = [line for line in lines if line.startswith("stillroom_spool_backlog_bytes ")]
        return int(float(shown[0].split()[1]))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def _pinned(command: list[str], core: int) -> list[str]:
    return ["taskset", "--cpu-list", str(core), *command]


@contextlib.contextmanager
def _running(command: list[str], core: int, log: Path, environment: dict[str, str]) -> Iterator[int]:
    with log.open("ab") as output:
        process = subprocess.Popen(
            _pinned(command, core), stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=ROOT,
            env=os.environ | environment,
        )  # fmt: skip
    try:
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(url: str, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.05)
    raise NotServing(f"{url} did not answer within {START_S:.0f} s; see {log}")


@contextlib.contextmanager
def mock(work: Path, gap_ms: float = 0.0) -> Generator[int]:
    """The upstream. Yields its port."""
    port, log = _free_port(), work / "mock.log"
    command = [sys.executable, "-m", "bench.gateway.mock", str(port), str(gap_ms)]
    with _running(command, machine.cores()[1], log, {}):
        _wait(f"http://127.0.0.1:{port}/v1/models", log)
        yield port


def direct(upstream: int) -> Subject:
    """The mock itself: what everything else is compared with."""
    return Subject("direct", upstream)


@contextlib.contextmanager
def stillroom(
    name: str, route: stillroom_gateway.Route, work: Path, upstream: int, command: list[str] | None = None
) -> Generator[Subject]:
    """Our gateway on one of its routes, in a home of its own. ``command`` is another way to start it."""
    home, port = work / name.replace(" ", "-"), _free_port()
    shutil.rmtree(home, ignore_errors=True)
    settings, secret = stillroom_gateway.prepare(home, route, port, upstream, work / "router")
    log = work / f"{home.name}.log"
    started = [*command, str(settings)] if command else stillroom_gateway.command(route, settings)
    with _running(started, machine.cores()[0], log, {}) as pid:
        _wait(f"http://127.0.0.1:{port}/readyz", log)
        headers = {"authorization": f"Bearer {secret}"}
        subject = Subject(name, port, pid, headers=headers, spool=home / "spool")
        _check_route(subject, "student" if route.release else "teacher")
        yield subject


def _check_route(subject: Subject, wanted: str) -> None:
    """Raises `NotServing` where the gateway takes another way than the one to be measured."""
    _, _, body = request_bytes(subject, Shape("plain")).partition(b"\r\n\r\n")
    headers = {"content-type": "application/json", **subject.headers}
    request = urllib.request.Request(f"http://127.0.0.1:{subject.port}{subject.path}", body, headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        taken, reason = answer.headers["x-stillroom-route"], answer.headers["x-stillroom-reason"]
    if taken != wanted:
        raise NotServing(f"{subject.name} answers by the {taken} ({reason}), not by the {wanted}")


@contextlib.contextmanager
def peer(chosen: peers.Peer, executable: str, work: Path, upstream: int) -> Generator[Subject]:
    """Another gateway."""
    folder, port = work / chosen.name, _free_port()
    folder.mkdir(parents=True, exist_ok=True)
    started = chosen.start(executable, folder, port, upstream)
    log = folder / "log"
    with _running(started.command, machine.cores()[0], log, started.environment) as pid:
        _wait(f"http://127.0.0.1:{port}{started.ready}", log)
        yield Subject(chosen.name, port, pid, started.path, started.headers, started.model)


def request_bytes(subject: Subject, shape: Shape) -> bytes:
    """A request as it goes over the wire."""
    body: dict[str, Any] = {
        "model": subject.model,
        "messages": [
            {"role": "system", "content": stillroom_gateway.SYSTEM},
            {"role": "user", "content": stillroom_gateway.QUESTION},
        ],
        "max_tokens": shape.chunks,
        "temperature": 0.2,
    }
    raw = msgspec.json.encode(body | {"stream": True} if shape.stream else body)
    headers = {
        "host": f"127.0.0.1:{subject.port}",
        "content-type": "application/json",
        "accept": "*/*",
        "user-agent": "stillroom-bench",
        **subject.headers,
        "content-length": str(len(raw)),
    }
    lines = [f"POST {subject.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode() + raw


def time_load(subject: Subject, shape: Shape, connections: int, requests: int, rate: float = 0.0) -> Result:
    """Warm up, then measure, where no rate is given each for `WINDOW_S` at the longest. CPU time is read when all of
    it is in the ledger, before and after.
    """
    plan = Plan(
        port=subject.port,
        request=request_bytes(subject, shape),
        connections=connections,
        requests=requests,
        warm_up=max(connections * 2, requests // 10),
        ending="data: [DONE]" if shape.stream else "}",
        rate=rate,
        seconds=WINDOW_S,
        pid=subject.pid,
    )
    subject.settle()
    generator = subprocess.run(
        _pinned([sys.executable, "-m", "bench.gateway.load"], machine.cores()[1]),
        input=msgspec.json.encode(plan), stdout=subprocess.PIPE, check=False, cwd=ROOT, timeout=600,
    )  # fmt: skip
    if generator.returncode:
        raise NotServing(f"{subject.name} with {connections} connections, {shape.name}: the load generator failed")
    found = msgspec.json.decode(generator.stdout, type=Result)
    if subject.pid:
        subject.settle()
        found.cpu_after = machine.cpu_seconds(machine.tree(subject.pid))
    return found
