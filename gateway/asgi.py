"""The two shapes of an answer as ASGI applications, and what watches the client while an upstream works."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

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
        try:
            await unless_client_leaves(self._send(send, headers), receive)
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
    watch = _Watch(receive)
    try:
        return await work
    except asyncio.CancelledError:
        if watch.client_left:
            raise ClientGone from None
        raise
    finally:
        watch.end()


class _Watch:
    """A task that cancels the task which made it, when the client is gone."""

    def __init__(self, receive: Receive) -> None:
        self._watched = cast("asyncio.Task[Any]", asyncio.current_task())
        self._task = asyncio.get_running_loop().create_task(self._run(receive))
        self.client_left = False

    async def _run(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.client_left = True
        self._watched.cancel()

    def end(self) -> None:
        if self.client_left:
            self._watched.uncancel()
        else:
            self._task.cancel()


def _encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers.items()]
