"""Cutting a byte stream into server-sent events without changing a byte."""

from collections.abc import AsyncIterator
from typing import Final

__all__ = ("DONE", "MAX_EVENT_BYTES", "EventTooLarge", "batches", "cut", "event_data", "frame", "is_whole")

MAX_EVENT_BYTES: Final = 8 * 1024 * 1024
DONE: Final = b"[DONE]"
BLANK_LINES: Final = (b"\n\n", b"\r\n\r\n")


class EventTooLarge(ValueError):
    """An upstream sent an event beyond the bound."""


async def batches(chunks: AsyncIterator[bytes]) -> AsyncIterator[list[bytes]]:
    """Yield the events that came in together, each with the blank line that ends it; joined again they are the input.

    What is left at the end without a blank line is yielded as it is. Raises `EventTooLarge`.
    """
    rest = bytearray()
    async for chunk in chunks:
        data: bytes | bytearray = chunk
        if rest:
            searched = max(0, len(rest) - 3)
            rest += chunk
            data = rest if any(rest.find(blank, searched) >= 0 for blank in BLANK_LINES) else b""
        if data:
            found, left = cut(bytes(data))
            rest = bytearray(left)
            if found:
                yield found
        if len(rest) > MAX_EVENT_BYTES:
            raise EventTooLarge(f"an event of more than {MAX_EVENT_BYTES} bytes")
    if rest:
        yield [bytes(rest)]


def cut(data: bytes) -> tuple[list[bytes], bytes]:
    """The whole events in some bytes, and what is left after them."""
    found: list[bytes] = []
    start = 0
    if b"\r" not in data:
        # one byte is looked for at several times the speed of two
        at = 0
        while (at := data.find(b"\n", at) + 1) > 0:
            if data.startswith(b"\n", at):
                found.append(data[start : at + 1])
                start = at = at + 1
        return found, data[start:]
    while (end := _event_end(data, start)) is not None:
        found.append(data[start:end])
        start = end
    return found, data[start:]


def _event_end(data: bytes, start: int) -> int | None:
    ends = [position + len(separator) for separator in BLANK_LINES if (position := data.find(separator, start)) >= 0]
    return min(ends) if ends else None


def is_whole(event: bytes) -> bool:
    """False for what a stream that broke off left behind."""
    return event.endswith(BLANK_LINES)


def event_data(event: bytes) -> bytes | None:
    """The joined ``data`` lines of an event; None for a comment or an event without data."""
    if event.startswith(b"data: ") and event.find(b"\n") == len(event) - 2 and b"\r" not in event:
        return event[6:-2]
    lines = [line[5:].removeprefix(b" ") for line in event.splitlines() if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None


def frame(data: bytes) -> bytes:
    """One event of one ``data`` line."""
    return b"data: " + data + b"\n\n"
