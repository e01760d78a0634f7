"""A mock upstream that costs next to nothing: ``python -m bench.gateway.mock PORT [GAP_MS]``.

A raw asyncio protocol with every answer rendered once. ``max_tokens`` sets the number of tokens, one per chunk of a
stream; each chunk is a write of its own, in a turn of the event loop of its own.
"""

import asyncio
import json
import sys
from functools import lru_cache
from typing import Any, Final, cast

import msgspec
import uvloop

__all__ = ("Mock", "serve")

HEAD: Final = b"HTTP/1.1 200 OK\r\ncontent-type: "
MODELS: Final = {"object": "list", "data": [{"id": "bench", "object": "model", "created": 1, "owned_by": "mock"}]}
PROMPT_TOKENS: Final = 24


class _Usage(msgspec.Struct):
    include_usage: bool = False
    continuous_usage_stats: bool = False


class _Asked(msgspec.Struct):
    stream: bool = False
    max_tokens: int = 16
    logprobs: bool | None = False
    top_logprobs: int | None = None
    stream_options: _Usage | None = None


_decode: Final = msgspec.json.Decoder(_Asked).decode


def _usage(tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": PROMPT_TOKENS,
        "completion_tokens": tokens,
        "total_tokens": PROMPT_TOKENS + tokens,
    }


def _logprobs(count: int, top: int | None) -> dict[str, Any] | None:
    """A sure model's: the first of ``top`` alternatives has nearly all of the mass."""
    if top is None:
        return None
    listed = [{"token": f" t{i}", "logprob": -0.01 if not i else -5.5 - i / 4, "bytes": None} for i in range(top)]
    token = {"token": " word", "logprob": -0.01, "bytes": None, "top_logprobs": listed}
    return {"content": [token] * count}


@lru_cache
def _plain(tokens: int, top: int | None) -> bytes:
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": " word" * tokens},
        "logprobs": _logprobs(tokens, top),
        "finish_reason": "stop",
    }
    body = {
        "id": "chatcmpl-0123456789abcdef",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "bench",
        "choices": [choice],
        "usage": _usage(tokens),
    }
    return _whole(_json(body))


def _json(body: dict[str, Any]) -> bytes:
    """Without white space, as OpenAI's servers and vLLM write it."""
    return json.dumps(body, separators=(",", ":")).encode()


def _whole(body: bytes) -> bytes:
    return HEAD + b"application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body


@lru_cache
def _stream(tokens: int, top: int | None, usage: bool, running: bool) -> tuple[bytes, ...]:
    def chunk(delta: dict[str, str], count: int, finish: str | None, told: bool) -> bytes:
        choice = {
            "index": 0,
            "delta": delta,
            "logprobs": _logprobs(1, top) if told else None,
            "finish_reason": finish,
        }
        return _chunk([choice], _usage(count) if running else None)

    events = [chunk({"role": "assistant", "content": " word"}, 1, None, True)]
    events += [chunk({"content": " word"}, i + 1, None, True) for i in range(1, tokens)]
    events.append(chunk({}, tokens, "stop", False))
    if usage:
        events.append(_chunk([], _usage(tokens)))
    events.append(b"data: [DONE]\n\n")
    framed = [b"%x\r\n%s\r\n" % (len(event), event) for event in events]
    framed[0] = HEAD + b"text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n" + framed[0]
    framed[-1] += b"0\r\n\r\n"
    return tuple(framed)


def _chunk(choices: list[Any], usage: dict[str, int] | None) -> bytes:
    body = {
        "id": "chatcmpl-0123456789abcdef",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": "bench",
        "choices": choices,
    }
    return b"data: " + _json(body if usage is None else body | {"usage": usage}) + b"\n\n"


class Mock(asyncio.Protocol):
    """One connection, requests one after another."""

    def __init__(self, gap_s: float) -> None:
        self._gap_s = gap_s
        self._loop = asyncio.get_running_loop()
        self._buffer = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A gateway connected."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer once the whole request is there."""
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            start = head.find(b"content-length:")
            length = int(head[start + 15 :].split(b"\r\n", 1)[0]) if start >= 0 else 0
            if b"transfer-encoding: chunked" in head:
                body, rest = _unchunked(self._buffer[end + 4 :])
                if body is None:
                    return
            else:
                if len(self._buffer) < end + 4 + length:
                    return
                body, rest = self._buffer[end + 4 : end + 4 + length], self._buffer[end + 4 + length :]
            self._buffer = rest
            self._answer(head, body)

    def _answer(self, head: bytes, body: bytes) -> None:
        if not head.startswith(b"post"):
            self._transport.write(_whole(json.dumps(MODELS).encode()))
            return
        asked = _decode(body)
        top = (asked.top_logprobs or 0) if asked.logprobs else None
        if not asked.stream:
            self._transport.write(_plain(asked.max_tokens, top))
            return
        options = asked.stream_options or _Usage()
        self._write(_stream(asked.max_tokens, top, options.include_usage, options.continuous_usage_stats), 0)

    def _write(self, chunks: tuple[bytes, ...], number: int) -> None:
        if self._transport.is_closing():
            return
        self._transport.write(chunks[number])
        if number + 1 == len(chunks):
            return
        if self._gap_s:
            self._loop.call_later(self._gap_s, self._write, chunks, number + 1)
        else:
            self._loop.call_soon(self._write, chunks, number + 1)


def _unchunked(raw: bytes) -> tuple[bytes | None, bytes]:
    """The body of a chunked request and what follows it; None while it is not whole."""
    body, position = b"", 0
    while (end := raw.find(b"\r\n", position)) >= 0:
        size = int(raw[position:end], 16)
        if len(raw) < end + 4 + size:
            break
        if size == 0:
            return body, raw[end + 4 :]
        body += raw[end + 2 : end + 2 + size]
        position = end + 4 + size
    return None, raw


async def serve(port: int, gap_s: float) -> None:
    """Answer until killed."""
    server = await asyncio.get_running_loop().create_server(lambda: Mock(gap_s), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), float(sys.argv[2]) / 1000 if len(sys.argv) > 2 else 0.0))
