"""httpx's transport interface over our own connections, kept alive and pooled for each origin.

httpx's own transport is quadratic in open connections; why not aiohttp's either is in docs/performance.md.
Requests are sent whole; answers are read as they come.
"""

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, Final, TypeAlias

import httpx

from gateway.connection import Connection, Timeouts
from gateway.received import Lean, Whole

__all__ = ("Body", "Client", "Transport")

Origin: TypeAlias = tuple[bytes, bytes, int | None]
"""Scheme, host and port."""
PORTS: Final = {b"http": 80, b"https": 443}
SWEEP_S: Final = 1.0
READ_BYTES: Final = 32 * 1024


@dataclass
class _Pool:
    """The connections to one origin."""

    open: int = 0
    idle: list[Connection] = field(default_factory=list[Connection])
    """The one that was used last is at the end."""
    waiting: "deque[asyncio.Future[Connection | None]]" = field(
        default_factory=deque["asyncio.Future[Connection | None]"]
    )
    """Those who wait for one, first come first served; None hands over the right to open one."""


@dataclass
class Transport(httpx.AsyncBaseTransport):
    """At most ``max_connections`` to each origin; an idle one is closed after ``idle_s`` seconds.

    It belongs to the event loop that its first request runs in.
    """

    tls: ssl.SSLContext
    max_connections: int
    idle_s: float
    _buffer: memoryview = field(default_factory=lambda: memoryview(bytearray(READ_BYTES)))
    _pools: dict[Origin, _Pool] = field(default_factory=dict[Origin, _Pool])
    _sweeping: asyncio.TimerHandle | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send it. Returns when the head of the answer is there. Raises `httpx.TransportError`.

        A kept-alive connection that turns out to be closed, with no byte of an answer, is tried again on a new one.
        """
        timeouts: Timeouts = request.extensions.get("timeout") or {}
        if isinstance(request, _Written):
            written, origin = request.written, request.origin
        else:
            written, origin = _head(request) + await request.aread(), _origin(request.url)
        pool = self._pools.get(origin) or self._new_pool(origin)
        connection = self._idle(pool) or await self._connect(pool, request, timeouts)
        while True:
            answered = False
            try:
                await connection.ask(written, timeouts, request.method == "HEAD")
                answered = True
                return self._response(pool, connection, isinstance(request, _Written))
            except httpx.ReadError:
                if connection.received or not connection.idle_since:
                    raise
            finally:
                if not answered:
                    # a request that was cancelled or failed leaves an answer behind that nobody may read
                    self._drop(pool, connection)
            connection = await self._connect(pool, request, timeouts)

    async def aclose(self) -> None:
        """Close what is idle."""
        if self._sweeping is not None:
            self._sweeping.cancel()
        for pool in self._pools.values():
            while pool.idle:
                self._drop(pool, pool.idle.pop())

    def _response(self, pool: _Pool, connection: Connection, lean: bool) -> httpx.Response:
        headers, status = connection.headers, connection.status
        body = connection.whole()
        if body is None:
            stream = Body(self, pool, connection)
            return Lean(status, headers, stream) if lean else httpx.Response(status, headers=headers, stream=stream)
        self.release(pool, connection)
        return Whole(status, headers, body)

    def _new_pool(self, origin: Origin) -> _Pool:
        if origin[0] not in PORTS:
            raise httpx.UnsupportedProtocol(f"{origin[0].decode()} is not a protocol of ours")
        pool = self._pools[origin] = _Pool()
        return pool

    def _idle(self, pool: _Pool) -> Connection | None:
        oldest = asyncio.get_running_loop().time() - self.idle_s
        while pool.idle:
            connection = pool.idle.pop()
            if not connection.closed and connection.idle_since > oldest:
                return connection
            self._drop(pool, connection)
        return None

    async def _connect(self, pool: _Pool, request: httpx.Request, timeouts: Timeouts) -> Connection:
        connection = await self._turn(pool, timeouts.get("pool"))
        if connection is not None:
            return connection
        loop = asyncio.get_running_loop()
        url = request.url
        host = url.raw_host.decode("ascii")
        tls = self.tls if url.scheme == "https" else None
        name = request.extensions.get("sni_hostname") or host
        connected = False
        try:
            async with asyncio.timeout(timeouts.get("connect")):
                _, connection = await loop.create_connection(
                    lambda: Connection(loop, self._buffer), host, url.port or PORTS[url.raw_scheme],
                    ssl=tls, server_hostname=name if tls else None,
                )  # fmt: skip
            connected = True
        except TimeoutError as error:
            raise httpx.ConnectTimeout("no connection in time") from error
        except OSError as error:
            raise httpx.ConnectError(str(error)) from error
        finally:
            if not connected:
                self._closed(pool)
        return connection

    async def _turn(self, pool: _Pool, seconds: float | None) -> Connection | None:
        """Wait until a connection may be opened, or until one that another request is done with is handed over."""
        if pool.open < self.max_connections:
            pool.open += 1
            return None
        turn: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
        pool.waiting.append(turn)
        try:
            async with asyncio.timeout(seconds):
                return await turn
        except TimeoutError as error:
            self._give_up(pool, turn)
            raise httpx.PoolTimeout("no connection was free in time") from error
        except asyncio.CancelledError:
            self._give_up(pool, turn)
            raise

    def _give_up(self, pool: _Pool, turn: "asyncio.Future[Connection | None]") -> None:
        """What was handed over in the moment of giving up goes to the next in the line."""
        if not turn.done() or turn.cancelled():
            with contextlib.suppress(ValueError):
                pool.waiting.remove(turn)
            return
        connection = turn.result()
        if connection is None:
            self._closed(pool)
        else:
            self.release(pool, connection)

    def release(self, pool: _Pool, connection: Connection) -> None:
        """The answer was read to its end, or is given up."""
        if not connection.reusable:
            self._drop(pool, connection)
            return
        loop = asyncio.get_running_loop()
        connection.rest(loop.time())
        if _hand_over(pool, connection):
            return
        pool.idle.append(connection)
        if self._sweeping is None:
            self._sweeping = loop.call_later(SWEEP_S, self._sweep)

    def _drop(self, pool: _Pool, connection: Connection) -> None:
        connection.close()
        self._closed(pool)

    def _closed(self, pool: _Pool) -> None:
        if not _hand_over(pool, None):
            pool.open -= 1

    def _sweep(self) -> None:
        """Close what has been idle for too long, or was closed by the upstream."""
        loop = asyncio.get_running_loop()
        oldest = loop.time() - self.idle_s
        for pool in self._pools.values():
            kept = [c for c in pool.idle if not c.closed and c.idle_since > oldest]
            gone = [c for c in pool.idle if c.closed or c.idle_since <= oldest]
            pool.idle = kept
            for connection in gone:
                self._drop(pool, connection)
        busy = any(pool.idle for pool in self._pools.values())
        self._sweeping = loop.call_later(SWEEP_S, self._sweep) if busy else None


class Body(httpx.AsyncByteStream):
    """The body of an answer that is still coming in."""

    def __init__(self, transport: Transport, pool: _Pool, connection: Connection) -> None:
        self._transport = transport
        self._pool = pool
        self._connection: Connection | None = connection

    def __aiter__(self) -> AsyncIterator[bytes]:
        """The body as it comes in."""
        if self._connection is None:
            raise httpx.StreamClosed
        return self._connection.chunks()

    @property
    def is_over(self) -> bool:
        """Whether all of it was read."""
        return self._connection is None or self._connection.is_read

    async def aclose(self) -> None:
        """Give the connection back if the answer was read to its end, else close it."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._transport.release(self._pool, connection)


class _Written(httpx.Request):
    """A request that is bytes already. Whoever asks for its headers has them parsed."""

    def __init__(self, method: str, target: "_Target", lines: bytes, content: bytes, timeout: httpx.Timeout) -> None:
        self.method, self.url, self.origin = method, target.url, target.origin
        self.written = b"".join((target.begin, b"content-length: %d\r\n" % len(content), lines, b"\r\n", content))
        self.extensions = {"timeout": timeout.as_dict()}

    @cached_property
    def headers(self) -> httpx.Headers:
        """As they were written."""
        lines = self.written.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
        return httpx.Headers([(name, value) for name, _, value in (line.partition(b": ") for line in lines)])


@dataclass(frozen=True, slots=True)
class _Target:
    """A URL, and how a request to it begins."""

    url: httpx.URL
    origin: Origin
    begin: bytes


@lru_cache(maxsize=256)
def _target(method: str, url: httpx.URL | str) -> _Target:
    parsed = httpx.URL(url)
    begin = b"%s %s HTTP/1.1\r\nhost: %s\r\n" % (method.encode("ascii"), parsed.raw_path, parsed.netloc)
    return _Target(parsed, _origin(parsed), begin)


def _origin(url: httpx.URL) -> Origin:
    return url.raw_scheme, url.raw_host, url.port


class Client(httpx.AsyncClient):
    """httpx's client without what the calls to upstreams have no use for, and what costs more than all the rest:
    merged URLs, headers, cookies and parameters, authentication flows, redirects and event hooks.
    """

    def build_request(self, method: str, url: httpx.URL | str, **given: Any) -> httpx.Request:
        """Of ``content`` (bytes), ``headers`` (a mapping of strings) and ``timeout`` (an `httpx.Timeout`)."""
        headers: Mapping[str, str] = given.get("headers") or {}
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()]).encode("ascii")
        if lines.count(b"\n") != len(headers) or lines.count(b"\r") != len(headers):
            raise httpx.LocalProtocolError("a header holds a line break")
        timeout: httpx.Timeout = given.get("timeout") or self.timeout
        return _Written(method, _target(method, url), lines, given.get("content") or b"", timeout)

    async def send(self, request: httpx.Request, *, stream: bool = False, **_given: Any) -> httpx.Response:
        """As the base class does; an answer that is not streamed is read whole."""
        response = await self._transport.handle_async_request(request)
        response.request = request
        if not stream:
            try:
                await response.aread()
            finally:
                # read to its end it is closed already
                await response.aclose()
        return response

    async def post(self, url: httpx.URL | str, **given: Any) -> httpx.Response:
        """Send it and read the whole answer."""
        return await self.send(self.build_request("POST", url, **given))


def _hand_over(pool: _Pool, connection: Connection | None) -> bool:
    """To the first who waits. False if nobody does."""
    while pool.waiting:
        turn = pool.waiting.popleft()
        if not turn.done():
            turn.set_result(connection)
            return True
    return False


def _head(request: httpx.Request) -> bytes:
    """The request's head as bytes. Raises `httpx.LocalProtocolError` for a line break in a header."""
    lines = [b"%s %s HTTP/1.1" % (request.method.encode("ascii"), request.url.raw_path)]
    lines += [b"%s: %s" % header for header in request.headers.raw]
    head = b"\r\n".join(lines)
    if head.count(b"\n") != len(lines) - 1 or head.count(b"\r") != len(lines) - 1:
        raise httpx.LocalProtocolError("a header holds a line break")
    return head + b"\r\n\r\n"
