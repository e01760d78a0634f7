"""Text, which most answers and most events of a stream are, read and cut down at a fraction of what any other costs.

What only we asked for is cut out of its bytes, and the rest stays as the upstream wrote it.
"""

from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from gateway.answer import Answer, Asked
from gateway.tokens import Token
from gateway.wire import decode_answer, encode

__all__ = ("read_text", "read_whole")


class _Delta(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    content: str | None = None
    role: str | None = None


class _Choice(msgspec.Struct, gc=False):
    delta: _Delta
    index: int = 0
    logprobs: msgspec.Raw | UnsetType = UNSET
    finish_reason: str | None = None


class _Chunk(msgspec.Struct, gc=False):
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


_decode_chunk: Final = msgspec.json.Decoder(_Chunk).decode
_decode_whole: Final = msgspec.json.Decoder(_Whole).decode
_decode_usage: Final = msgspec.json.Decoder(dict[str, Any] | None).decode
_decode_logprobs: Final = msgspec.json.Decoder(_Logprobs | None).decode
LOGPROBS, USAGE = b'"logprobs":', b',"usage":'
HIDDEN: Final = LOGPROBS + b"null"
NULL: Final = msgspec.Raw(b"null")
BEGIN, END = b"data: ", b"\n\n"
ODD: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def read_text(asked: Asked, answer: Answer, events: list[bytes]) -> bytes | None:
    """Events of a chat's text, as one piece for the client, read into ``answer``.

    None, and nothing read, where one is of another kind or written in another way.
    """
    if asked.logprobs or asked.stream_usage or asked.running_usage:
        return None
    texts, tokens, usages, shown = list[str](), list[Token](), list[msgspec.Raw](), list[bytes]()
    reason = None
    try:
        for event in events:
            # one line of data, and no more
            if not event.startswith(BEGIN) or event.count(b"\n") != 2 or not event.endswith(END) or b"\r" in event:
                return None
            chunk = _decode_chunk(event[len(BEGIN) : -len(END)])
            piece = _shown(chunk, event)
            if piece is None:
                return None
            shown.append(piece)
            if chunk.usage is not UNSET:
                usages.append(chunk.usage)
            if not chunk.choices:
                continue
            choice = chunk.choices[0]
            texts.append(choice.delta.content or "")
            reason = choice.finish_reason or reason
            if choice.logprobs is not UNSET and (found := _decode_logprobs(choice.logprobs)) and found.content:
                tokens += found.content
        # vLLM counts on in every chunk
        usage = next((found for found in map(_decode_usage, reversed(usages)) if found), None)
    except ODD:
        return None
    answer.take("".join(texts), tokens, usage, reason)
    return b"".join(shown)


def _shown(chunk: _Chunk, event: bytes) -> bytes | None:
    """A piece of the text, or the usage alone, as the client sees it; None for another kind, or where what only we
    asked for cannot be cut out. Raises one of `ODD`.
    """
    usage = chunk.usage
    if chunk.error is not UNSET:
        return None
    if not chunk.choices:
        return b"" if usage is not UNSET and _decode_usage(usage) else None
    choice = chunk.choices[0]
    if choice.index != 0:
        return None
    shown: bytes | None = event
    if usage is not UNSET:
        shown = _without(event, USAGE, usage, b"")
    if shown is not None and choice.logprobs is not UNSET and choice.logprobs != NULL:
        shown = _without(shown, LOGPROBS, choice.logprobs, HIDDEN)
    return shown


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
    shown = data
    if logprobs is not None and choice.logprobs is not UNSET:
        shown = _without(data, LOGPROBS, choice.logprobs, HIDDEN)
    if shown is not None:
        answer.take(choice.message.content, logprobs and logprobs.content, whole.usage, choice.finish_reason)
    return shown


def _without(data: bytes, name: bytes, value: msgspec.Raw, instead: bytes) -> bytes | None:
    """The last such field replaced; None where it is written in another way.

    A quotation mark inside of a JSON string is escaped, so that no text can look like one.
    """
    at = data.rfind(name)
    begin, end = at + len(name), at + len(name) + len(value)
    return data[:at] + instead + data[end:] if at >= 0 and data[begin:end] == bytes(value) else None
