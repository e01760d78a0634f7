"""One HTTP/1.1 connection to an upstream: a request is written, its answer is parsed by httptools as it comes in.

Made for many streams at once: no task, no lock and no timer of its own for a request or a chunk. What goes wrong is
raised as httpx's errors. After an error, or when an answer was not read to its end, a connection is not used again.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Final, cast

import httptools
import httpx

__all__ = ("MAX_HEAD_BYTES", "Connection", "Timeouts")

MAX_HEAD_BYTES: Final = 64 * 1024
HIGH_WATER: Final = 32 * 1024
"""Body bytes that may wait for a slow reader; then the socket is not read until they are taken."""
MESSAGES: Final[dict[type[httpx.TransportError], str]] = {
    httpx.ReadError: "the connection was closed before the answer was over",
    httpx.ReadTimeout: "no bytes came in time",
    httpx.WriteTimeout: "the request was not taken in time",
}

Timeouts = dict[str, float | None]
"""httpx's ``timeout`` extension: seconds for ``connect``, ``read``, ``write`` and ``pool``, None for no limit."""


class Connection(asyncio.BufferedProtocol):
    """Use `ask`, then `chunks` to the end; `reusable` says whether another `ask` may follow."""

    def __init__(self, loop: asyncio.AbstractEventLoop, buffer: memoryview) -> None:
        """``buffer`` is read into, and may be shared by all connections of the loop."""
        self._loop, self._buffer = loop, buffer
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._deadline: float | None = None
        self._late: type[httpx.TimeoutException] = httpx.ReadTimeout
        self._read_timeout: float | None = None
        self._write_paused = self._read_paused = False
        self._body: list[bytes] = []
        self._error: Exception | None = None
        self._asked = self._keep_alive = False
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.head_complete = self.complete = self.closed = False
        self.received = False
        """Whether any byte came back for the request."""
        self.idle_since = 0.0
        """When it was last used, in the loop's time; 0 for a new one."""
        self._waiting_bytes = self._head_bytes = 0
        self._head_only = False

    # what the pool and the transport call

    async def ask(self, request: bytes, timeouts: Timeouts, head_only: bool = False) -> None:
        """Write a whole request and wait for the head of its answer. Raises `httpx.TransportError`."""
        if self.closed or self._transport is None:
            raise httpx.ReadError(MESSAGES[httpx.ReadError])
        self.headers = []
        self.status = self._head_bytes = 0
        self.head_complete = self.complete = self.received = self._keep_alive = False
        self._asked, self._head_only = True, head_only
        self._read_timeout = timeouts.get("read")
        self._transport.write(request)
        while self._write_paused and not self.head_complete:
            await self._wait(timeouts.get("write"), httpx.WriteTimeout)
        while not self.head_complete:
            await self._wait(self._read_timeout, httpx.ReadTimeout)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes in. Raises `httpx.TransportError`."""
        while True:
            if self._body:
                yield self._take()
            elif self.complete:
                return
            else:
                await self._wait(self._read_timeout, httpx.ReadTimeout)

    def whole(self) -> bytes | None:
        """The rest of the body, if all of it is there already."""
        return self._take() if self.complete else None

    @property
    def reusable(self) -> bool:
        """Whether the answer is over and the connection stays open."""
        return self.is_read and self._keep_alive and not self.closed

    @property
    def is_read(self) -> bool:
        """Whether the answer is over, and all of it taken."""
        return self.complete and not self._body

    def rest(self, now: float) -> None:
        """Between two requests: whatever comes in now ends the connection."""
        self._asked = self.received = False
        self.idle_since = now
        self._resume_reading()

    def close(self) -> None:
        """Close it at once, whatever is under way."""
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            self._transport.abort()

    # waiting

    async def _wait(self, seconds: float | None, late: type[httpx.TimeoutException]) -> None:
        """Until something happened."""
        if self._error is not None:
            raise self._error
        self._waiter = self._loop.create_future()
        self._arm(seconds, late)
        try:
            await self._waiter
        finally:
            self._waiter = None
        if self._error is not None:
            raise self._error

    def _arm(self, seconds: float | None, late: type[httpx.TimeoutException]) -> None:
        """Set the deadline. The timer stays from wait to wait, and looks at the deadline only when it fires."""
        self._late = late
        if seconds is None:
            self._deadline = None
            return
        self._deadline = self._loop.time() + seconds
        if self._timer is not None:
            if self._timer.when() <= self._deadline:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(self._deadline, self._look_at_deadline)

    def _look_at_deadline(self) -> None:
        self._timer = None
        if self._waiter is None or self._deadline is None:
            return
        if self._loop.time() < self._deadline:
            self._timer = self._loop.call_at(self._deadline, self._look_at_deadline)
            return
        error = self._late(MESSAGES[self._late])
        error.__cause__ = TimeoutError()
        self._fail(error)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, error: Exception) -> None:
        if self._error is None:
            self._error = error
        self._wake()
        self.close()

    def _take(self) -> bytes:
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body.clear()
        self._waiting_bytes = 0
        self._resume_reading()
        return body

    def _resume_reading(self) -> None:
        if self._read_paused and self._transport is not None and not self.closed:
            self._read_paused = False
            self._transport.resume_reading()

    # what the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self._transport = cast("asyncio.Transport", transport)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 its interface
        """Where the next bytes go."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Feed the parser."""
        if not self._asked or self.complete:
            # bytes that nobody asked for
            self.close()
            return
        self.received = True
        if not self.head_complete:
            self._head_bytes += nbytes
        try:
            self._parser.feed_data(self._buffer[:nbytes])
        except httptools.HttpParserError as error:
            if not self.complete:
                self._fail(httpx.RemoteProtocolError(f"not HTTP: {error}"))
            self.close()
            return
        if not self.head_complete and self._head_bytes > MAX_HEAD_BYTES:
            self._fail(httpx.RemoteProtocolError("the head of the answer is too large"))
        elif self._waiting_bytes > HIGH_WATER and not self._read_paused and self._transport is not None:
            self._read_paused = True
            self._transport.pause_reading()

    def eof_received(self) -> None:
        """The end of a body without a length; anything else is cut short. The transport closes itself."""
        if self.head_complete and not self.complete and self._ends_with_connection():
            self.complete = True
            self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """Closed by either side."""
        self.closed = True
        if not self.complete and self._error is None:
            self._error = httpx.ReadError(MESSAGES[httpx.ReadError])
            self._error.__cause__ = exc
        self._wake()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def pause_writing(self) -> None:
        """The peer does not read."""
        self._write_paused = True

    def resume_writing(self) -> None:
        """It does again."""
        self._write_paused = False
        self._wake()

    # what the parser calls

    def on_message_begin(self) -> None:
        """An answer begins; a second one is nobody's."""
        if self.complete:
            self._keep_alive = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; one that follows a chunked body is a trailer, which nobody asked for."""
        if not self.head_complete:
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The head is there. An informational answer is followed by the real one."""
        if self.complete:
            return
        status = self._parser.get_status_code()
        if status < 200:
            self.headers = []
            return
        self.status = status
        self.head_complete = True
        self._keep_alive = self._parser.should_keep_alive() and not self._head_only
        if self._head_only:
            self.complete = True
        self._wake()

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        if not self.complete:
            self._body.append(body)
            self._waiting_bytes += len(body)
            self._wake()

    def on_message_complete(self) -> None:
        """The answer is over, unless it was an informational one."""
        if self.head_complete:
            self.complete = True
            self._wake()

    def _ends_with_connection(self) -> bool:
        return not any(name.lower() in (b"content-length", b"transfer-encoding") for name, _ in self.headers)
