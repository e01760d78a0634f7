"""The load generator, a process of its own: ``python -m bench.gateway.load`` with a `Plan` as JSON on standard input.

Raw kept-alive sockets, every answer checked for its status and its end. With a rate it is an open loop: a request
that has to wait for a free connection counts from when it was due, so that a stall is not hidden by fewer requests.
"""

import asyncio
import math
import sys
import time
from collections import deque
from typing import Final, cast

import msgspec
import uvloop

from bench.gateway.machine import cpu_seconds, tree

__all__ = ("Plan", "Result", "run")


RESTED_S: Final = 2.0
"""Servers close what nobody uses, after 5 s often."""


class Plan(msgspec.Struct):
    """What to send, and how often."""

    port: int
    request: bytes
    """The whole request as it goes over the wire."""
    connections: int
    requests: int
    warm_up: int
    ending: str
    """How the body of a right answer ends, white space aside."""
    rate: float = 0.0
    """Requests per second; 0: as fast as they are answered."""
    seconds: float = 0.0
    """Without a rate: after so long no more is sent, and what was sent by then is what is measured; 0: no end."""
    pid: int = 0
    """Root of the process tree whose CPU time is read around the measured window."""


class Result(msgspec.Struct):
    """Of the measured window."""

    requests: int
    errors: int
    seconds: float
    p50_ms: float
    p99_ms: float
    first_p50_ms: float
    """To the first byte of the body."""
    cpu_before: float
    cpu_after: float
    error: str = ""

    @property
    def rps(self) -> float:
        """Answers per second."""
        return self.requests / self.seconds


class _Connection(asyncio.Protocol):
    def __init__(self, run: "_Run") -> None:
        self._run = run
        self._body = bytearray()
        self._head = b""
        self._length: int | None = None
        self._due = 0.0
        self._first = 0.0
        self._transport: asyncio.Transport | None = None
        self.rested = time.perf_counter()
        """When it last had nothing to do."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._run.idle.append(self)

    def send(self, due: float) -> None:
        self._due, self._first, self._head = due, 0.0, b""
        self._body.clear()
        assert self._transport is not None
        self._transport.write(self._run.request)

    def close(self) -> None:
        """It is not used again."""
        assert self._transport is not None
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._body += data
        if not self._head:
            end = self._body.find(b"\r\n\r\n")
            if end < 0:
                return
            self._head = bytes(self._body[:end]).lower()
            del self._body[: end + 4]
            start = self._head.find(b"content-length:")
            self._length = int(self._head[start + 15 :].split(b"\r\n", 1)[0]) if start >= 0 else None
        if not self._first and self._body:
            self._first = time.perf_counter()
        if len(self._body) == self._length if self._length is not None else self._body.endswith(b"0\r\n\r\n"):
            self._finish()

    def _finish(self) -> None:
        body = self._body if self._length is not None else self._body.removesuffix(b"\r\n0\r\n\r\n")
        good = self._head.startswith(b"http/1.1 200") and body.rstrip().endswith(self._run.ending)
        self._run.finished(self, self._due, self._first, None if good else bytes(self._head + b"\n" + body))

    def connection_lost(self, exc: Exception | None) -> None:
        self._run.lost(self, repr(exc))


class _Run:
    """All connections of a run, first warming up, then measured."""

    def __init__(self, plan: Plan) -> None:
        self.request, self.ending = plan.request, plan.ending.encode()
        self.idle: list[_Connection] = []
        self._plan = plan
        self._rate = 0.0
        self._to_send = self._open = 0
        self._ends = math.inf
        self._due: deque[float] = deque()
        self._totals: list[float] = []
        self._firsts: list[float] = []
        self._errors: list[str] = []
        self._over = asyncio.Event()

    async def phase(self, requests: int, rate: float) -> None:
        """Send so many and wait for all their answers."""
        self._totals, self._firsts, self._errors = [], [], []
        self._to_send, self._open, self._rate = requests, requests, rate
        self._over.clear()
        self._ends = time.perf_counter() + (self._plan.seconds or math.inf)
        if rate:
            await self._pace(requests, rate)
        else:
            for connection in [self.idle.pop() for _ in range(min(len(self.idle), requests))]:
                self._next(connection)
        await self._over.wait()

    async def _pace(self, requests: int, rate: float) -> None:
        start = time.perf_counter()
        for number in range(requests):
            due = start + number / rate
            if (early := due - time.perf_counter()) > 0:
                await asyncio.sleep(early)
            self._due.append(due)
            if self.idle:
                self._next(self.idle.pop())

    def _next(self, connection: _Connection) -> None:
        if self._rate and self._due:
            connection.send(self._due.popleft())
        elif not self._rate and self._to_send:
            self._to_send -= 1
            connection.send(time.perf_counter())
        else:
            self.idle.append(connection)

    def finished(self, connection: _Connection, due: float, first: float, wrong: bytes | None) -> None:
        """An answer is whole."""
        now = connection.rested = time.perf_counter()
        if wrong is not None:
            self._errors.append(wrong.decode("latin-1")[:300])
        self._totals.append(now - due)
        self._firsts.append(first - due)
        self._open -= 1
        if now >= self._ends and not self._rate:
            self._open -= self._to_send
            self._to_send = 0
        self._next(connection)
        if not self._open:
            self._over.set()

    def lost(self, connection: _Connection, why: str) -> None:
        """A connection that is closed amid a request is the end of the run: keep-alive is what is measured."""
        if connection in self.idle:
            # what waited too long for its next request
            self.idle.remove(connection)
        elif self._open:
            self._errors.append(f"the connection was closed: {why}")
            self._over.set()

    def result(self, seconds: float, before: float, after: float) -> Result:
        """Of the last phase."""
        totals, firsts = sorted(self._totals), sorted(self._firsts)
        return Result(
            requests=len(totals),
            errors=len(self._errors),
            seconds=seconds,
            p50_ms=_quantile(totals, 0.5),
            p99_ms=_quantile(totals, 0.99),
            first_p50_ms=_quantile(firsts, 0.5),
            cpu_before=before,
            cpu_after=after,
            error=self._errors[0] if self._errors else "",
        )


def _quantile(values: list[float], share: float) -> float:
    return values[min(len(values) - 1, int(len(values) * share))] * 1000 if values else 0.0


async def _connect(run: _Run, plan: Plan) -> None:
    """Open what is not open. What has rested for long may be closed in the moment that it is used."""
    loop = asyncio.get_running_loop()
    for connection in [each for each in run.idle if time.perf_counter() - each.rested > RESTED_S]:
        connection.close()
        run.idle.remove(connection)
    for _ in range(plan.connections - len(run.idle)):
        await loop.create_connection(lambda: _Connection(run), "127.0.0.1", plan.port)


async def run(plan: Plan) -> Result:
    """Connect, warm up, measure."""
    run = _Run(plan)
    await _connect(run, plan)
    await run.phase(plan.warm_up, 0.0)
    await _connect(run, plan)
    pids = tree(plan.pid) if plan.pid else []
    before, start = cpu_seconds(pids), time.perf_counter()
    await run.phase(plan.requests, plan.rate)
    seconds, after = time.perf_counter() - start, cpu_seconds(pids)
    return run.result(seconds, before, after)


if __name__ == "__main__":
    found = uvloop.run(run(msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)))
    sys.stdout.buffer.write(msgspec.json.encode(found))
