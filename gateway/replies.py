"""What the relay hands back: a whole answer, or a stream."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Final

from gateway.errors import error_body
from gateway.sse import frame
from gateway.wire import encode

__all__ = ("CLIENT_GONE", "FAREWELL", "SHUTTING_DOWN", "PlainReply", "StreamReply")

CLIENT_GONE: Final = 499
SHUTTING_DOWN: Final = error_body("The gateway is shutting down.", "server_error", "shutting_down")
FAREWELL: Final = frame(encode(SHUTTING_DOWN))
"""The last event of a stream that the gateway has no time to end; there is no ``[DONE]`` after it."""


@dataclass(frozen=True, slots=True)
class PlainReply:
    """A whole answer for the client."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class StreamReply:
    """A stream for the client, its route settled before the first byte."""

    headers: dict[str, str]
    events: AsyncGenerator[bytes, None]
    farewell: bytes = FAREWELL
