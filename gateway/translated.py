"""A chat's stream as the events of another API: the loop that every such translation runs in."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Any, Protocol

from gateway.sse import DONE, cut, event_data
from gateway.wire import decode_object, encode

__all__ = ("Translation", "named_event", "translated")


class Translation(Protocol):
    """What was said so far, and the events that stand for it."""

    def read(self, chunk: dict[str, Any]) -> bytes:
        """The events that a chunk stands for, or those that end the stream where it reports an error."""
        ...

    def finish(self) -> Iterator[bytes]:
        """The events at the end, in pieces."""
        ...


async def translated(translation: Translation, chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """After a first, empty one, the events for the client of a chat's stream, which ends with ``[DONE]`` or an error.

    Comments pass; there is no ``[DONE]``.
    """
    try:
        yield b""
        async for event in _single(chunks):
            data = event_data(event)
            if data is None:
                yield event
            elif data == DONE:
                for piece in translation.finish():
                    yield piece
            else:
                shown = translation.read(decode_object(data))
                if shown:
                    yield shown
    finally:
        await chunks.aclose()


async def _single(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """What the relay yields may be several events in one piece."""
    async for piece in chunks:
        for event in cut(piece)[0]:
            yield event


def named_event(kind: str, **fields: Any) -> bytes:
    """An event whose name its data repeats."""
    return b"event: " + kind.encode() + b"\ndata: " + encode({"type": kind, **fields}) + b"\n\n"
