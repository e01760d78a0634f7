"""Text, which most answers and most events of a stream are, read and cut down at a fraction of what any other costs.

What only we asked for is cut out of its bytes, and the rest stays as the upstream wrote it.
"""

from typing import Annotated, Any, Final, cast

import msgspec
from msgspec import UNSET, UnsetType

from gateway.answer import Answer, Asked
from gateway.sse import frame
from gateway.tokens import Token
from gateway.wire import decode_answer, encode

__all__ = ("read_text", "read_whole")


class _Delta(msgspec.Struct, forbid_unknown_fields=True):
    content: str | None = None
    role: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta
    index: int = 0
    logprobs: msgspec.Raw | UnsetType = UNSET
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    choices: Annotated[list[_Choice], msgspec.Meta(max_length=1)]
    usage: msgspec.Raw | UnsetType = UNSET
    error: msgspec.Raw | UnsetType = UNSET


class _Message(msgspec.Struct):
    content: str
    tool_calls: list[Any] | None = None


class _WholeChoice(msgspec.Struct):
    message: _Message
    index: int = 0
    logprobs: msgspec.Raw | UnsetType = UNSET
    finish_reason: str | None = None


class _Whole(msgspec.Struct):
    choices: tuple[_WholeChoice]
    usage: dict[str, Any] | None = None


class _Logprobs(msgspec.Struct):
    content: list[Token] | None = None


_decode_chunks: Final = msgspec.json.Decoder(_Chunk).decode_lines
_decode_whole: Final = msgspec.json.Decoder(_Whole).decode
_decode_usage: Final = msgspec.json.Decoder(dict[str, Any] | None).decode
_decode_logprobs: Final = msgspec.json.Decoder(_Logprobs | None).decode
HIDDEN: Final = b'"logprobs":null'
NULL: Final = msgspec.Raw(b"null")
BEGIN, BETWEEN, END = b"data: ", b"\n\ndata: ", b"\n\n"
ODD: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def read_text(asked: Asked, answer: Answer, events: list[bytes]) -> bytes | None:
    """Events of a chat's text, as one piece for the client, read into ``answer``.

    None, and nothing read, where one is of another kind or written in another way.
    """
    joined = b"".join(events)
    if asked.logprobs or asked.stream_usage or asked.running_usage or not _is_plain(joined, len(events)):
        return None
    lines = joined[len(BEGIN) : -len(END)]
    try:
        # a line break inside of a JSON string is escaped, so that no text can look like the space between two events
        chunks = _decode_chunks(lines.replace(BETWEEN, b"\n"))
        if len(chunks) != len(events) or not all(map(_is_text, chunks)):
            return None
        logprobs = [token for chunk in chunks for token in _logprobs(chunk)]
        usage = _last_usage(chunks)
    except ODD:
        return None
    shown = joined
    if any(map(_hides, chunks)):
        pieces = [_shown(chunk, data) for chunk, data in zip(chunks, lines.split(BETWEEN), strict=True)]
        if None in pieces:
            return None
        shown = b"".join(cast("list[bytes]", pieces))
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    reason = next((choice.finish_reason for choice in reversed(choices) if choice.finish_reason), None)
    answer.take("".join([choice.delta.content or "" for choice in choices]), logprobs, usage, reason)
    return shown


def _is_plain(joined: bytes, count: int) -> bool:
    """Whether these are so many events of one ``data`` line each."""
    breaks, between = joined.count(b"\n"), joined.count(BETWEEN)
    return joined.startswith(BEGIN) and breaks == 2 * count and between == count - 1 and b"\r" not in joined


def _is_text(chunk: _Chunk) -> bool:
    """Whether it is a piece of the text, or the usage alone. Raises one of `ODD`."""
    if chunk.error is not UNSET:
        return False
    if not chunk.choices:
        return chunk.usage is not UNSET and bool(_decode_usage(chunk.usage))
    return chunk.choices[0].index == 0


def _logprobs(chunk: _Chunk) -> list[Token]:
    """Raises one of `ODD`."""
    raw = chunk.choices[0].logprobs if chunk.choices else UNSET
    found = None if raw is UNSET else _decode_logprobs(raw)
    return (found.content or []) if found else []


def _last_usage(chunks: list[_Chunk]) -> dict[str, Any] | None:
    """vLLM counts on in every chunk. Raises one of `ODD`."""
    for chunk in reversed(chunks):
        usage = None if chunk.usage is UNSET else _decode_usage(chunk.usage)
        if usage:
            return usage
    return None


def _hides(chunk: _Chunk) -> bool:
    """Whether something that only we asked for is in it."""
    return chunk.usage is not UNSET or chunk.choices[0].logprobs not in (UNSET, NULL)


def _shown(chunk: _Chunk, data: bytes) -> bytes | None:
    """The event of such a chunk as the client sees it; None where that cannot be cut out."""
    if not chunk.choices:
        return b""
    logprobs, shown = chunk.choices[0].logprobs, data
    if logprobs is not UNSET:
        shown = _without(shown, b'"logprobs":', logprobs, HIDDEN)
    if chunk.usage is not UNSET:
        shown = _without(shown, b',"usage":', chunk.usage, b"")
    return None if shown is None else frame(shown)


def read_whole(asked: Asked, answer: Answer, data: bytes) -> bytes:
    """A whole answer for the client, read into ``answer``; the same object where nothing is hidden.

    Raises `NotJson` for what is no JSON object, and ``RecursionError``.
    """
    shown = None if asked.logprobs else _read_whole_text(answer, data)
    if shown is not None:
        return shown
    body = decode_answer(data)
    answer.read(body)
    return encode(body) if answer.hide(body, asked) else data


def _read_whole_text(answer: Answer, data: bytes) -> bytes | None:
    """None, and nothing read, where it is of another kind or written in another way."""
    try:
        whole = _decode_whole(data)
        choice = whole.choices[0]
        logprobs = None if choice.logprobs is UNSET else _decode_logprobs(choice.logprobs)
    except ODD:
        return None
    if choice.index != 0 or choice.message.tool_calls:
        return None
    shown = data if logprobs is None else _without(data, b'"logprobs":', choice.logprobs, HIDDEN)
    if shown is not None:
        answer.take(choice.message.content, logprobs and logprobs.content, whole.usage, choice.finish_reason)
    return shown


def _without(data: bytes | None, name: bytes, value: msgspec.Raw | UnsetType, instead: bytes) -> bytes | None:
    """The last such field replaced; None where it is written in another way.

    A quotation mark inside of a JSON string is escaped, so that no text can look like one.
    """
    before, found, after = (data or b"").rpartition(name + bytes(cast("msgspec.Raw", value)))
    return before + instead + after if found else None
