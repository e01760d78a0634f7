"""Reading an upstream's event stream: into an `Answer`, and cut down to what the client asked for."""

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from gateway.answer import Answer, Asked
from gateway.errors import UpstreamError
from gateway.sse import DONE, EventTooLarge, event_data, events, frame, is_whole
from gateway.wire import NotJson, decode_object, encode

__all__ = ("hold", "read_stream")


async def read_stream(
    upstream: str, asked: Asked, answer: Answer, chunks: AsyncIterator[bytes]
) -> AsyncGenerator[bytes, None]:
    """The events for the client, each read into ``answer`` before it is yielded. Ends at ``[DONE]``.

    Raises `UpstreamError` for a stream that ends without it, reports an error, or is not made of JSON objects.
    """
    try:
        async for event in events(chunks):
            data = event_data(event)
            if data == DONE:
                return
            if not is_whole(event):
                break
            shown = event if data is None else _shown(upstream, asked, answer, event, data)
            if shown is not None:
                yield shown
    except (EventTooLarge, NotJson) as error:
        raise UpstreamError(upstream, "sent an event that cannot be read") from error
    raise UpstreamError(upstream, "broke its stream off")


async def hold(read: AsyncIterator[bytes], answer: Answer, tokens: int) -> list[bytes]:
    """Hold a stream back until there are enough tokens to judge, or it is over."""
    held: list[bytes] = []
    async for event in read:
        held.append(event)
        if len(answer.logprobs) >= tokens or answer.finish_reason is not None:
            break
    return held


def _shown(upstream: str, asked: Asked, answer: Answer, event: bytes, data: bytes) -> bytes | None:
    body = decode_object(data)
    if isinstance(body.get("error"), dict):
        raise UpstreamError(upstream, "reported an error in its stream")
    answer.read(body)
    if not body.get("choices") and isinstance(body.get("usage"), dict) and not asked.stream_usage:
        return None
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
