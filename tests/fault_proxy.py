"""A fake of the network between the gateway and an upstream: a TCP proxy that fails at a chosen byte.

It is a fake because a real network cannot be made to. Nothing of ours is mocked: bytes cross real sockets.
"""

import asyncio
import contextlib
import socket
import struct
import time
from dataclasses import dataclass
from typing import Literal

from tests.loop_thread import LoopThread

BLOCK = 64 * 1024
SEND_BUFFER = 64 * 1024
HEAD_END = b"\r\n\r\n"
EVENT_END = b"\n\n\r\n"
"""The end of an event that is a chunk of its own, as `ScriptedUpstream` sends them."""
RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Fault:
    """What every connection meets. It strikes an answer ``more`` bytes behind its ``count``-th ``mark``; with none of
    them, before anything was answered or the upstream was even asked.
    """

    then: Literal["pass", "close", "reset", "stall", "half-close", "drip", "refuse"] = "pass"
    mark: bytes = b""
    count: int = 0
    more: int = 0
    insert: bytes = b""
    """Written where the fault strikes."""
    delay: float = 0.0
    """Seconds before the answer's first byte."""
    gap: float = 0.02
    """Seconds before each byte that drips."""

    def strikes_at(self, answer: bytes) -> int | None:
        """The offset in an answer, None while too little of it is there."""
        end = 0
        for _ in range(self.count):
            found = answer.find(self.mark, end)
            if found < 0:
                return None
            end = found + len(self.mark)
        return end + self.more if len(answer) >= end + self.more else None

    @property
    def is_deaf(self) -> bool:
        """Whether the upstream is not even asked."""
        return self.then in ("stall", "reset", "close") and not (self.count or self.more)


GOOD = Fault()


class FaultProxy:
    """The proxy, in a thread of its own. ``url`` is the base URL to configure; ``target`` the upstream's port."""

    def __init__(self, target: int = 0) -> None:
        self.target = target
        self.requests = 0
        """Requests that arrived here, whether the upstream saw them or not."""
        self.passed = 0
        """Bytes of answers that were passed on."""
        self._passed_at = time.monotonic()
        self._fault = GOOD
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = LoopThread()
        self.port = 0
        self._placeholder: socket.socket | None = None
        self._loop.run(self._listen())
        self.url = f"http://127.0.0.1:{self.port}/v1"

    @property
    def fault(self) -> Fault:
        return self._fault

    @fault.setter
    def fault(self, fault: Fault) -> None:
        """Every connection from now on meets this; those that are open are closed."""
        self._loop.run(self._change(fault))

    def quiet_since(self) -> float:
        """Seconds since a byte of an answer was passed on."""
        return time.monotonic() - self._passed_at

    def close(self) -> None:
        self._loop.end(self._change(Fault("refuse")))
        if self._placeholder is not None:
            self._placeholder.close()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]
        # small, so that an answer that the gateway does not read waits at the upstream and not in the kernel
        self._server.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)

    async def _change(self, fault: Fault) -> None:
        refused, self._fault = self._placeholder is not None, fault
        if fault.then == "refuse" and not refused:
            self._server.close()
            # bound and not listening: connections are refused, and nobody else gets the port
            self._placeholder = socket.socket()
            self._placeholder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._placeholder.bind(("127.0.0.1", self.port))
        elif fault.then != "refuse" and self._placeholder is not None:
            self._placeholder.close()
            self._placeholder = None
            await self._listen()
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0.02)  # until the gateway knows

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        fault = self._fault
        self._writers.add(writer)
        try:
            # a handler that ends cancelled is logged as an error, and that is how `close` ends it
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await self._relay(fault, reader, writer)
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _relay(self, fault: Fault, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.read(BLOCK)
        self._count(first)
        if not first:
            return
        asks: asyncio.StreamWriter | None = None
        if fault.is_deaf:
            both = (self._ask(reader, None), self._strike(fault, writer))
        else:
            answers, asks = await asyncio.open_connection("127.0.0.1", self.target)
            asks.write(first)
            both = (self._ask(reader, asks), self._answer(fault, answers, writer))
        tasks = [asyncio.ensure_future(one) for one in both]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if asks is not None:
                asks.close()

    async def _ask(self, reader: asyncio.StreamReader, asks: asyncio.StreamWriter | None) -> None:
        """Pass requests on, or drop them, until the gateway leaves."""
        while data := await reader.read(BLOCK):
            self._count(data)
            if asks is not None:
                asks.write(data)
                await asks.drain()

    async def _answer(self, fault: Fault, answers: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass answers on until the upstream ends them or the fault strikes."""
        begun, seen = False, b""
        while data := await answers.read(BLOCK):
            if not begun:
                await asyncio.sleep(fault.delay)
                begun = True
            if fault.then == "pass":
                await self._pass(writer, data)
                continue
            before, seen = len(seen), seen + data
            strikes_at = fault.strikes_at(seen)
            await self._pass(writer, data[: None if strikes_at is None else max(0, strikes_at - before)])
            if strikes_at is not None:
                if fault.then == "drip":
                    await self._drip(fault, answers, writer, seen[strikes_at:])
                await self._strike(fault, writer)
                return

    async def _drip(
        self, fault: Fault, answers: asyncio.StreamReader, writer: asyncio.StreamWriter, rest: bytes
    ) -> None:
        while rest := rest or await answers.read(BLOCK):
            for byte in rest:
                await asyncio.sleep(fault.gap)
                await self._pass(writer, bytes([byte]))
            rest = b""

    async def _strike(self, fault: Fault, writer: asyncio.StreamWriter) -> None:
        await self._pass(writer, fault.insert)
        if fault.then == "reset":
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            writer.transport.abort()
        elif fault.then == "half-close":
            writer.write_eof()
        if fault.then in ("half-close", "stall"):
            await asyncio.Event().wait()  # until the gateway leaves

    async def _pass(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        if data:
            self.passed += len(data)
            self._passed_at = time.monotonic()
            writer.write(data)
            await writer.drain()

    def _count(self, data: bytes) -> None:
        self.requests += data.startswith(b"POST ")
