"""One request and its answer on a client's connection: the body in, the answer out in few writes, the client leaving.

It stands between the application and uvicorn's cycle where requests are many (docs/performance.md).
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Final, TypeVar, cast

from litestar import Request
from litestar.connection import ASGIConnection
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from litestar.types import Scope, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

__all__ = (
    "ClientGone", "Exchange", "Peer", "body_of", "exchange_behind", "exchange_of", "headers_of",
    "unless_client_leaves",
)  # fmt: skip

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

    __slots__ = ("_chunked", "_cycle", "_head", "_parts", "_read", "peer")

    def __init__(self, peer: Peer, cycle: RequestResponseCycle) -> None:
        self.peer = peer
        self._cycle = cycle
        self._parts: list[bytes] = []
        self._read = self._chunked = False
        self._head = b""

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
            self.begin_answer(message["status"], [_decoded(header) for header in message["headers"]])
        else:
            await self.write(message["body"], not message["more_body"])

    def begin_answer(self, status: int, headers: Iterable[tuple[str, str]]) -> None:
        """The head of the answer, which goes out with what is written first. Raises ``ValueError`` for a header that
        holds a line break.
        """
        cycle, lines = self._cycle, [f"{name}: {value}\r\n" for name, value in headers]
        text = "".join(lines)
        if text.count("\n") != len(lines) or text.count("\r") != len(lines):
            raise ValueError("a header holds a line break")
        self._chunked = "\r\ncontent-length: " not in f"\r\n{text}"
        if self._chunked:
            text += "transfer-encoding: chunked\r\n"
        if not cycle.keep_alive:
            text += "connection: close\r\n"
        ours = b"".join([b"%b: %b\r\n" % header for header in cycle.default_headers])
        self._head = b"%b%b%b\r\n" % (_status_line(status), ours, text.encode("latin-1", "replace"))

    async def write(self, body: bytes, is_last: bool = False) -> None:
        """Of the answer's body, once the client has room for it."""
        cycle = self._cycle
        if cycle.flow.write_paused and not cycle.disconnected:
            await cycle.flow.drain()
        if cycle.disconnected:
            return
        if self._chunked:
            body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + (LAST_CHUNK if is_last else b"")
        if self._head:
            body, self._head = self._head + body, b""
            cycle.response_started = True
        cycle.transport.write(body)
        if is_last:
            cycle.response_complete = True
            cycle.message_event.set()
            if not cycle.keep_alive:
                cycle.transport.close()
            cycle.on_response()


def exchange_of(scope: Scope) -> Exchange | None:
    """The exchange that a request belongs to; None where another server than ours serves the application."""
    state = scope.get("state")
    return state.get(KEY) if state else None


def exchange_behind(send: Send) -> Exchange | None:
    """The exchange whose own ``send`` this is; None where something stands between, which must see each message."""
    owner = getattr(send, "__self__", None)
    return owner if isinstance(owner, Exchange) else None


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


def _decoded(header: tuple[bytes, bytes]) -> tuple[str, str]:
    return header[0].decode("latin-1"), header[1].decode("latin-1")


@lru_cache(maxsize=64)
def _status_line(status: int) -> bytes:
    known = {each.value: each.phrase for each in HTTPStatus}
    return f"HTTP/1.1 {status} {known.get(status, '')}\r\n".encode()
