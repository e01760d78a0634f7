"""Reading an upstream's event stream: into an `Answer`, and cut down to what the client asked for."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Any, Final

from gateway.answer import Answer, Asked
from gateway.chunks import read_text
from gateway.errors import UpstreamError
from gateway.sse import DONE, EventTooLarge, batches, event_data, frame, is_whole
from gateway.wire import NotJson, decode_answer, encode

__all__ = ("read_stream",)

BROKE_OFF: Final = "broke its stream off"
LAST: Final = frame(DONE)


class _Over(Exception):
    """The stream is at its ``[DONE]``."""


async def read_stream(
    upstream: str, asked: Asked, answer: Answer, chunks: AsyncIterator[bytes], hold: int = 0
) -> AsyncGenerator[bytes, None]:
    """The events for the client, each read into ``answer`` before it is yielded. Ends at ``[DONE]``.

    First come those to hold back, as one piece: until there are ``hold`` tokens to judge, or the answer is over.
    Then, one piece each time, what the upstream sends at once. Raises `UpstreamError` for a stream that ends without
    ``[DONE]``, reports an error, or is not made of JSON objects.
    """
    reader = _Reader(upstream, asked, answer, hold)
    try:
        async for batch in batches(chunks):
            for piece in reader.read(batch):
                yield piece
    except _Over:
        if rest := reader.rest():
            yield rest
        return
    except (UpstreamError, EventTooLarge, NotJson, RecursionError) as error:
        if reader.shows and (rest := reader.rest()):
            yield rest
        if isinstance(error, UpstreamError):
            raise
        raise UpstreamError(upstream, "sent an event that cannot be read") from error
    raise UpstreamError(upstream, BROKE_OFF)


class _Reader:
    """Events in, pieces for the client out."""

    __slots__ = ("_answer", "_asked", "_hold", "_ready", "_upstream", "shows")

    def __init__(self, upstream: str, asked: Asked, answer: Answer, hold: int) -> None:
        self._upstream, self._asked, self._answer, self._hold = upstream, asked, answer, hold
        self._ready: list[bytes] = []
        """Read, and not given out yet."""
        self.shows = not hold
        """Whether nothing is held back any more."""

    def read(self, batch: list[bytes]) -> Iterator[bytes]:
        """The events that came in together. Raises `_Over`, and as `read_stream` does."""
        while batch and not self.shows:
            # a chunk of text is a token
            wanted = max(self._hold - len(self._answer.logprobs), 1)
            self._read_at_once(batch[:wanted])
            batch = batch[wanted:]
            if any(self._ready) and self._is_enough():
                self.shows = True
                yield self.rest()
        if batch:
            self._read_at_once(batch)
        if self.shows and (rest := self.rest()):
            yield rest

    def rest(self) -> bytes:
        """What is ready, as one piece."""
        joined = b"".join(self._ready)
        self._ready.clear()
        return joined

    def _is_enough(self) -> bool:
        return len(self._answer.logprobs) >= self._hold or self._answer.finish_reason is not None

    def _read_at_once(self, batch: list[bytes]) -> None:
        is_last = batch[-1] == LAST
        text = read_text(self._asked, self._answer, batch[:-1] if is_last else batch)
        if text is None:
            for event in batch:
                self._ready.append(self._piece(event))
            return
        self._ready.append(text)
        if is_last:
            raise _Over

    def _piece(self, event: bytes) -> bytes:
        """An event as the client sees it, empty where it does not."""
        data = event_data(event)
        if data == DONE:
            raise _Over
        if not is_whole(event):
            raise UpstreamError(self._upstream, BROKE_OFF)
        return event if data is None else _shown(self._upstream, self._asked, self._answer, event, data)


def _shown(upstream: str, asked: Asked, answer: Answer, event: bytes, data: bytes) -> bytes:
    piece = read_text(asked, answer, [event])
    if piece is not None:
        return piece
    body = decode_answer(data)
    if isinstance(body.get("error"), dict):
        raise UpstreamError(upstream, "reported an error in its stream")
    answer.read(body)
    if not body.get("choices") and isinstance(body.get("usage"), dict) and not asked.stream_usage:
        return b""
    hidden = answer.hide(body, asked)
    return frame(encode(body)) if _hide_usage(body, asked) or hidden else event


def _hide_usage(body: dict[str, Any], asked: Asked) -> bool:
    """Usage beside choices: OpenAI sends null there if usage was asked for at all, and else no such field."""
    if not body.get("choices") or "usage" not in body or asked.running_usage:
        return False
    if not asked.stream_usage:
        del body["usage"]
        return True
    changed = body["usage"] is not None
    body["usage"] = None
    return changed
