"""The two shapes of an answer as ASGI applications, and what watches the client while an upstream works."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from litestar.types import Receive, Scope, Send

from gateway.errors import error_body
from gateway.sse import frame

__all__ = ("ClientGone", "PlainAnswer", "StreamedAnswer", "unless_client_leaves")

T = TypeVar("T")


class ClientGone(Exception):
    """The client closed its connection before it was answered."""


@dataclass(frozen=True, slots=True)
class PlainAnswer:
    """A whole JSON body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Send it."""
        headers = {"content-type": "application/json", **self.headers, "content-length": str(len(self.body))}
        await send({"type": "http.response.start", "status": self.status, "headers": _encoded(headers)})
        await send({"type": "http.response.body", "body": self.body, "more_body": False})


@dataclass(frozen=True, slots=True)
class StreamedAnswer:
    """An event stream. However it ends, the generator is closed before the response is over."""

    headers: Mapping[str, str]
    events: AsyncGenerator[bytes, None]

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Send events as they come, until they end or the client leaves."""
        headers = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache", **self.headers}
        sending = asyncio.ensure_future(self._send(send, headers))
        try:
            await unless_client_leaves(sending, receive)
        except ClientGone:
            pass
        except asyncio.CancelledError:
            # the server's time to drain is over: the client is told, and sees no [DONE]
            body = error_body("The gateway is shutting down.", "server_error", "shutting_down")
            await send({"type": "http.response.body", "body": frame(msgspec.json.encode(body)), "more_body": False})
        finally:
            await self.events.aclose()

    async def _send(self, send: Send, headers: Mapping[str, str]) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": _encoded(headers)})
        async for event in self.events:
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def unless_client_leaves(work: Awaitable[T], receive: Receive) -> T:
    """Await the work; cancel it and raise `ClientGone` when the client disconnects first."""
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            await _cancel(task)
            raise ClientGone
        return task.result()
    finally:
        await _cancel(watch)
        await _cancel(task)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancel(task: "asyncio.Future[Any]") -> None:
    if not task.done():
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def _encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers.items()]
