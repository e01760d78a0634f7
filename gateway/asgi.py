"""The two shapes of an answer as ASGI applications."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass

from litestar.types import Receive, Scope, Send

from gateway.exchange import ClientGone, exchange_behind, unless_client_leaves
from gateway.replies import FAREWELL

__all__ = ("PlainAnswer", "StreamedAnswer")


@dataclass(frozen=True, slots=True)
class PlainAnswer:
    """A whole JSON body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Send it."""
        headers = {"content-type": "application/json", **self.headers, "content-length": str(len(self.body))}
        exchange = exchange_behind(send)
        if exchange is not None:
            exchange.begin_answer(self.status, headers.items())
            await exchange.write(self.body, is_last=True)
            return
        await send({"type": "http.response.start", "status": self.status, "headers": _encoded(headers)})
        await send({"type": "http.response.body", "body": self.body, "more_body": False})


@dataclass(frozen=True, slots=True)
class StreamedAnswer:
    """An event stream. However it ends, the generator is closed before the response is over."""

    headers: Mapping[str, str]
    events: AsyncGenerator[bytes, None]
    farewell: bytes = FAREWELL

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Send events as they come, until they end or the client leaves."""
        headers = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache", **self.headers}
        try:
            await unless_client_leaves(self._send(send, headers), scope)
        except ClientGone:
            pass
        except asyncio.CancelledError:
            # the server's time to drain is over: the client is told, and sees no [DONE]
            await send({"type": "http.response.body", "body": self.farewell, "more_body": False})
        finally:
            await self.events.aclose()

    async def _send(self, send: Send, headers: Mapping[str, str]) -> None:
        exchange = exchange_behind(send)
        if exchange is not None:
            exchange.begin_answer(200, headers.items())
            async for event in self.events:
                await exchange.write(event)
            await exchange.write(b"", is_last=True)
            return
        await send({"type": "http.response.start", "status": 200, "headers": _encoded(headers)})
        async for event in self.events:
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers.items()]
