"""Reading an upstream's event stream: into an `Answer`, and cut down to what the client asked for."""

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Final

from gateway.answer import Answer, Asked
from gateway.chunks import read_text_chunk
from gateway.errors import UpstreamError
from gateway.sse import DONE, EventTooLarge, batches, event_data, frame, is_whole
from gateway.wire import NotJson, decode_answer, encode

__all__ = ("read_stream",)

BROKE_OFF: Final = "broke its stream off"


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
    shown: list[bytes] = []
    held = False
    try:
        async for batch in batches(chunks):
            for event in batch:
                piece = _piece(upstream, asked, answer, event)
                shown.append(piece)
                if piece and not held and (len(answer.logprobs) >= hold or answer.finish_reason is not None):
                    held = True
                    yield _joined(shown)
            if held and any(shown):
                yield _joined(shown)
    except _Over:
        if any(shown):
            yield _joined(shown)
        return
    except (UpstreamError, EventTooLarge, NotJson, RecursionError) as error:
        if held and any(shown):
            yield _joined(shown)
        if isinstance(error, UpstreamError):
            raise
        raise UpstreamError(upstream, "sent an event that cannot be read") from error
    raise UpstreamError(upstream, BROKE_OFF)


def _joined(events: list[bytes]) -> bytes:
    """The events as one piece; the list is empty then."""
    joined = b"".join(events)
    events.clear()
    return joined


def _piece(upstream: str, asked: Asked, answer: Answer, event: bytes) -> bytes:
    """An event as the client sees it, empty where it does not."""
    data = event_data(event)
    if data == DONE:
        raise _Over
    if not is_whole(event):
        raise UpstreamError(upstream, BROKE_OFF)
    return event if data is None else _shown(upstream, asked, answer, event, data)


def _shown(upstream: str, asked: Asked, answer: Answer, event: bytes, data: bytes) -> bytes:
    piece = read_text_chunk(asked, answer, data)
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
