"""What the relay hands back: a whole answer, or a stream."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Final

__all__ = ("CLIENT_GONE", "PlainReply", "StreamReply")

CLIENT_GONE: Final = 499


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
