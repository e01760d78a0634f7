"""One request and its answer on a client's connection: the body in, the answer out in few writes, the client leaving.

It stands between the application and uvicorn's cycle where requests are many (docs/performance.md).
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Final, TypeVar, cast

from litestar import Request
from litestar.connection import ASGIConnection
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from litestar.types import Scope
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

__all__ = ("ClientGone", "Exchange", "Peer", "body_of", "exchange_of", "headers_of", "unless_client_leaves")

T = TypeVar("T")
KEY: Final = "exchange"
MAX_DIGITS: Final = 18
LAST_CHUNK: Final = b"0\r\n\r\n"


class ClientGone(Exception):
    """The client closed its connection before it was answered."""


class Peer:
    """The client at the other end of a connection, as long as it is there."""

    __slots__ = ("_watchers", "gone")

    def __init__(self) -> None:
        self.gone = False
        self._watchers: set[Callable[[], None]] = set()

    def leave(self) -> None:
        """The connection is closed: tell whoever works for it."""
        self.gone = True
        for watcher in tuple(self._watchers):
            watcher()

    async def unless_it_leaves(self, work: Awaitable[T]) -> T:
        """Await the work; cancel it and raise `ClientGone` when the client disconnects first."""
        worker = cast("asyncio.Task[Any]", asyncio.current_task())
        left = False

        def leave() -> None:
            nonlocal left
            left = True
            worker.cancel()

        self._watchers.add(leave)
        if self.gone:
            leave()
        try:
            return await work
        except asyncio.CancelledError:
            if left:
                raise ClientGone from None
            raise
        finally:
            self._watchers.discard(leave)
            if left:
                worker.uncancel()


class Exchange:
    """What a request's scope carries of its connection; see `exchange_of`."""

    __slots__ = ("_chunked", "_cycle", "_parts", "_read", "_start", "peer")

    def __init__(self, peer: Peer, cycle: RequestResponseCycle) -> None:
        self.peer = peer
        self._cycle = cycle
        self._parts: list[bytes] = []
        self._read = self._chunked = False
        self._start: Any = None

    def begin(self, state: dict[str, Any]) -> None:
        """Be found by `exchange_of`, in the state of the request's scope."""
        state[KEY] = self

    async def body(self, limit: int) -> bytes:
        """The whole body, however often it is asked for. Raises `ClientGone`, and `RequestEntityTooLarge` above
        ``limit`` bytes.
        """
        parts, size = self._parts, 0
        while not self._read:
            message: Any = await self._cycle.receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            parts.append(message["body"])
            size += len(message["body"])
            if size > limit:
                raise RequestEntityTooLarge
            self._read = not message["more_body"]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def send(self, message: Any) -> None:
        """ASGI's ``send``. A head waits for the first of its body, and goes out with it; a body without a length goes
        out in chunks.
        """
        if message["type"] == "http.response.start":
            self._start = message
            return
        cycle = self._cycle
        if cycle.flow.write_paused and not cycle.disconnected:
            await cycle.flow.drain()
        if cycle.disconnected:
            return
        head, body, is_last = b"", message["body"], not message["more_body"]
        if self._start is not None:
            head = self._head(self._start["status"], self._start["headers"])
            self._start = None
            cycle.response_started = True
        if self._chunked:
            body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + (LAST_CHUNK if is_last else b"")
        cycle.transport.write(head + body)
        if is_last:
            cycle.response_complete = True
            cycle.message_event.set()
            if not cycle.keep_alive:
                cycle.transport.close()
            cycle.on_response()

    def _head(self, status: int, headers: list[tuple[bytes, bytes]]) -> bytes:
        cycle = self._cycle
        lines = [_status_line(status), *[b"%b: %b\r\n" % header for header in (*cycle.default_headers, *headers)]]
        self._chunked = not any(name == b"content-length" for name, _ in headers)
        if self._chunked:
            lines.append(b"transfer-encoding: chunked\r\n")
        if not cycle.keep_alive:
            lines.append(b"connection: close\r\n")
        head = b"".join(lines)
        if head.count(b"\n") != len(lines) or head.count(b"\r") != len(lines):
            raise ValueError("a header holds a line break")
        return head + b"\r\n"


def exchange_of(scope: Scope) -> Exchange | None:
    """The exchange that a request belongs to; None where another server than ours serves the application."""
    state = scope.get("state")
    return state.get(KEY) if state else None


async def unless_client_leaves(work: Awaitable[T], scope: Scope) -> T:
    """Await the work; cancel it and raise `ClientGone` when the client of this request disconnects first."""
    exchange = exchange_of(scope)
    return await (work if exchange is None else exchange.peer.unless_it_leaves(work))


async def body_of(request: Request[Any, Any, Any]) -> bytes:
    """A request's whole body. Raises as `Exchange.body` does."""
    exchange, limit = exchange_of(request.scope), request.app.state.max_body_bytes
    if exchange is None:
        return await request.body()
    announced = headers_of(request).get("content-length", "")
    if len(announced) > MAX_DIGITS or (announced.isdecimal() and int(announced) > limit):
        raise RequestEntityTooLarge
    return await exchange.body(limit)


def headers_of(connection: ASGIConnection[Any, Any, Any, Any]) -> Mapping[str, str]:
    """A request's headers by their lower-case names, the first of each name."""
    state = connection.scope["state"]
    found = state.get("headers")
    if found is None:
        firsts_last = reversed(list(connection.scope["headers"]))
        found = state["headers"] = {name.decode("latin-1"): value.decode("latin-1") for name, value in firsts_last}
    return found


@lru_cache(maxsize=64)
def _status_line(status: int) -> bytes:
    known = {each.value: each.phrase for each in HTTPStatus}
    return f"HTTP/1.1 {status} {known.get(status, '')}\r\n".encode()
