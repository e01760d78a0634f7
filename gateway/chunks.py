"""A chunk of text, which most events of a stream are, read and cut down at a fraction of what any event costs.

What only we asked for is cut out of its bytes, and the rest stays as the upstream wrote it.
"""

from typing import Any, Final, cast

import msgspec
from msgspec import UNSET, UnsetType

from gateway.answer import Answer, Asked
from gateway.sse import frame

__all__ = ("read_text_chunk",)


class _Delta(msgspec.Struct, forbid_unknown_fields=True):
    content: str
    role: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta
    index: int = 0
    logprobs: msgspec.Raw | UnsetType = UNSET
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    choices: tuple[_Choice]
    usage: msgspec.Raw | UnsetType = UNSET
    error: msgspec.Raw | UnsetType = UNSET


_decode: Final = msgspec.json.Decoder(_Chunk).decode
_decode_part: Final = msgspec.json.Decoder(dict[str, Any] | None).decode
ODD: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def read_text_chunk(asked: Asked, answer: Answer, data: bytes) -> bytes | None:
    """The event for the client, read into ``answer``. None, and nothing read, for an event of another kind."""
    if asked.logprobs or asked.stream_usage or asked.running_usage:
        return None
    try:
        chunk = _decode(data)
        choice = chunk.choices[0]
        logprobs = None if choice.logprobs is UNSET else _decode_part(choice.logprobs)
        usage = None if chunk.usage is UNSET else _decode_part(chunk.usage)
    except ODD:
        return None
    if choice.index != 0 or choice.finish_reason is not None or chunk.error is not UNSET:
        return None
    shown = data
    if logprobs is not None:
        # a quotation mark inside of a JSON string is escaped, so that no text can look like this
        shown = _without(shown, b'"logprobs":', choice.logprobs, b'"logprobs":null')
    if chunk.usage is not UNSET:
        shown = _without(shown, b',"usage":', chunk.usage, b"")
    if shown is None:
        return None
    answer.take(choice.delta.content, logprobs, usage)
    return frame(shown)


def _without(data: bytes | None, name: bytes, value: msgspec.Raw | UnsetType, instead: bytes) -> bytes | None:
    """The last such field replaced; None where it is written in another way."""
    before, found, after = (data or b"").rpartition(name + bytes(cast("msgspec.Raw", value)))
    return before + instead + after if found else None
