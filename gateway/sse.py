"""Cutting a byte stream into server-sent events without changing a byte."""

from collections.abc import AsyncIterator
from typing import Final

__all__ = ("DONE", "MAX_EVENT_BYTES", "EventTooLarge", "event_data", "events", "frame", "is_whole")

MAX_EVENT_BYTES: Final = 8 * 1024 * 1024
DONE: Final = b"[DONE]"
BLANK_LINES: Final = (b"\n\n", b"\r\n\r\n")


class EventTooLarge(ValueError):
    """An upstream sent an event beyond the bound."""


async def events(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield whole events, each with the blank line that ends it; joined again they are the input.

    What is left at the end without a blank line is yielded as it is. Raises `EventTooLarge`.
    """
    buffer = bytearray()
    async for chunk in chunks:
        searched = max(0, len(buffer) - 3)
        buffer += chunk
        while (end := _event_end(buffer, searched)) is not None:
            yield bytes(buffer[:end])
            del buffer[:end]
            searched = 0
        if len(buffer) > MAX_EVENT_BYTES:
            raise EventTooLarge(f"an event of more than {MAX_EVENT_BYTES} bytes")
    if buffer:
        yield bytes(buffer)


def _event_end(buffer: bytearray, start: int) -> int | None:
    ends = [
        position + len(separator) for separator in BLANK_LINES if (position := buffer.find(separator, start)) >= 0
    ]
    return min(ends) if ends else None


def is_whole(event: bytes) -> bool:
    """False for what a stream that broke off left behind."""
    return event.endswith(BLANK_LINES)


def event_data(event: bytes) -> bytes | None:
    """The joined ``data`` lines of an event; None for a comment or an event without data."""
    lines = [line[5:].removeprefix(b" ") for line in event.splitlines() if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None


def frame(data: bytes) -> bytes:
    """One event of one ``data`` line."""
    return b"data: " + data + b"\n\n"
