"""A fake student or teacher: a small HTTP server whose answers, log-probabilities, delays and faults a test scripts.

It is a fake because a real model cannot be made to fail at a chosen byte. Nothing of ours is mocked: the gateway
speaks to it over sockets as to any upstream.
"""

import asyncio
import contextlib
import json
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.loop_thread import LoopThread

PROMPT_TOKENS, CACHED_TOKENS = 11, 4
FOREVER = 600.0
"""Seconds: longer than anything in a test waits, so that what ends before was ended by the gateway."""
WAIT_S = 30.0
"""For what happens in a moment, unless the machine is busy. What is waited for ends the wait."""


@dataclass(frozen=True)
class Script:
    """What the upstream does with a request; the default is a good answer."""

    text: str = "Good day to you, dear friend of ours."
    logprob: float = -0.01
    status: int = 200
    body: bytes | None = None
    """Instead of an answer of the chat shape."""
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    """Seconds before the answer begins."""
    gap: float = 0.0
    """Seconds before each event of a stream."""
    until: threading.Event | None = None
    """The answer begins when the test sets it."""
    stall_after: int | None = None
    """Send nothing more after so many events, and stay."""
    cut_after: int | None = None
    """Close the connection after so many events; 0: with the headers sent."""
    raw: bytes | None = None
    """Written instead of any HTTP answer, then the connection is closed."""
    events: tuple[bytes, ...] | None = None
    """Instead of the stream's own events."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Further fields of the answer, or of every chunk."""

    @property
    def tokens(self) -> list[str]:
        words = self.text.split(" ")
        return [words[0], *(f" {word}" for word in words[1:])]


@dataclass
class Seen:
    """One request as it arrived."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    raw: bytes = b""
    """The body to the byte."""
    peer: int = 0
    """The gateway's port: the same for all requests of one connection."""
    left: threading.Event = field(default_factory=threading.Event)
    """Set when the gateway closed the connection before the answer was over."""
    over: threading.Event = field(default_factory=threading.Event)
    """Set when nothing is sent any more: the answer is over, or the gateway left."""

    def has_left(self) -> bool:
        """Wait for the gateway to close the connection. It did not where the answer came to its end."""
        return self.over.wait(WAIT_S) and self.left.is_set()


class ScriptedUpstream:
    """The server, in a thread of its own. ``url`` is the base URL to configure."""

    def __init__(self, address: str = "127.0.0.1", port: int = 0) -> None:
        self.script = Script()
        self.first: list[Script] = []
        self.seen: list[Seen] = []
        self._loop = LoopThread()
        self._server = self._loop.run(asyncio.start_server(self._serve, address, port))
        self.port = self._server.sockets[0].getsockname()[1]
        # by name: cookies are kept for names, not for addresses
        self.url = f"http://localhost:{self.port}/v1"

    def reset(self, script: Script | None = None, first: Iterable[Script] = ()) -> None:
        """Forget what was seen, and follow this script, after those that are first, each for one request."""
        self.script, self.first, self.seen = script or Script(), list(first), []

    def close(self) -> None:
        async def end() -> None:
            self._server.close()

        self._loop.end(end())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # a handler that ends cancelled is logged as an error, and that is how `close` ends it
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head: bytes | None = await reader.readuntil(b"\r\n\r\n")
            while head is not None:
                head = await self._exchange(head, reader, writer)
        writer.close()

    async def _exchange(
        self, raw_head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bytes | None:
        """Answer a request. Returns the next one's head, None where the connection is to be closed."""
        head, *lines = raw_head.decode("latin-1").strip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        raw = await reader.readexactly(int(headers.get("content-length", 0)))
        seen = Seen(head.split(" ")[1], headers, json.loads(raw or b"{}"), raw, writer.get_extra_info("peername")[1])
        self.seen.append(seen)
        script = self.first.pop(0) if self.first else self.script
        answering = asyncio.ensure_future(self._answer(writer, seen, script))
        # read on meanwhile: that is how it is known at once that the gateway left
        coming = asyncio.ensure_future(reader.readuntil(b"\r\n\r\n"))
        try:
            await asyncio.wait((answering, coming), return_when=asyncio.FIRST_COMPLETED)
            if not answering.done() or isinstance(answering.exception(), ConnectionError):
                seen.left.set()
                return None
            seen.over.set()
            return await coming if answering.result() else None
        finally:
            seen.over.set()
            for task in (answering, coming):
                task.cancel()
            await asyncio.gather(answering, coming, return_exceptions=True)

    async def _answer(self, writer: asyncio.StreamWriter, seen: Seen, script: Script) -> bool:
        """Whether the connection stays open."""
        await asyncio.sleep(script.delay)
        while script.until is not None and not script.until.is_set():  # noqa: ASYNC110 set by another thread
            await asyncio.sleep(0.01)
        if script.raw is not None:
            writer.write(script.raw)
            await writer.drain()
            return False
        stream = bool(seen.body.get("stream")) and script.body is None and script.status == 200
        kind = "text/event-stream" if stream else "application/json"
        length = {"transfer-encoding": "chunked"} if stream else {}
        headers = {"content-type": kind, **length, **script.headers}
        if not stream:
            body = script.body if script.body is not None else json.dumps(answer_to(seen, script)).encode()
            headers["content-length"] = str(len(body))
        lines = [f"HTTP/1.1 {script.status} X", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        writer.write("\r\n".join(lines).encode("latin-1"))
        if not stream:
            writer.write(body)
            await writer.drain()
            return True
        for number, event in enumerate(script.events or stream_events(seen.body, script)):
            if number == script.cut_after:
                await writer.drain()
                return False
            await asyncio.sleep(FOREVER if number == script.stall_after else script.gap)
            writer.write(f"{len(event):x}\r\n".encode() + event + b"\r\n")
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True


def event(value: Any) -> bytes:
    return b"data: " + (value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n\n"


def usage(completion: int) -> dict[str, Any]:
    return {
        "prompt_tokens": PROMPT_TOKENS,
        "completion_tokens": completion,
        "total_tokens": PROMPT_TOKENS + completion,
        "prompt_tokens_details": {"cached_tokens": CACHED_TOKENS},
    }


def token_logprobs(token: str, logprob: float, top: int) -> dict[str, Any]:
    """One entry of ``logprobs.content``, as OpenAI gives it."""
    tops = [(token, logprob), *((f"alt{i}", -4.0 - i) for i in range(1, top))][:top]
    listed = [{"token": t, "logprob": p, "bytes": list(t.encode())} for t, p in tops]
    return {"token": token, "logprob": logprob, "bytes": list(token.encode()), "top_logprobs": listed}


def _logprobs(body: dict[str, Any], script: Script, tokens: list[str]) -> dict[str, Any] | None:
    asked = body.get("logprobs")
    if asked is None or asked is False:
        return None
    top = asked if "prompt" in body else body.get("top_logprobs") or 0
    return {"content": [token_logprobs(token, script.logprob, top) for token in tokens], "refusal": None}


def answer_to(seen: Seen, script: Script) -> dict[str, Any]:
    if seen.path == "/tokenize":
        return {"count": PROMPT_TOKENS, "max_model_len": 2_000, "tokens": list(range(PROMPT_TOKENS))}
    return whole_answer(seen.body, script)


def whole_answer(body: dict[str, Any], script: Script) -> dict[str, Any]:
    message = {"role": "assistant", "content": script.text, "refusal": None}
    choice = {
        "index": 0,
        "message": message,
        "logprobs": _logprobs(body, script, script.tokens),
        "finish_reason": "stop",
    }
    choices = [choice | {"index": i} for i in range(2 if body.get("n") == 2 else 1)]
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": body["model"]}
    return as_asked(body, {**head, "choices": choices, "usage": usage(len(script.tokens)), **script.extra})


def as_asked(body: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    """A chat's answer or chunk, in the older shape where it was asked for by a prompt."""
    if "prompt" not in body:
        return answer
    return answer | {"object": "text_completion", "choices": [_older(choice) for choice in answer["choices"]]}


def _older(choice: dict[str, Any]) -> dict[str, Any]:
    said = choice.get("message") or choice.get("delta") or {}
    logprobs, tokens = None, (choice["logprobs"] or {}).get("content")
    if tokens is not None:
        logprobs = {
            "text_offset": list(range(len(tokens))),
            "token_logprobs": [token["logprob"] for token in tokens],
            "tokens": [token["token"] for token in tokens],
            "top_logprobs": [{top["token"]: top["logprob"] for top in token["top_logprobs"]} for token in tokens],
        }
    kept = {name: choice[name] for name in ("index", "finish_reason")}
    return kept | {"text": said.get("content") or "", "logprobs": logprobs}


def stream_events(body: dict[str, Any], script: Script) -> Iterator[bytes]:
    options = body.get("stream_options") or {}
    running = options.get("continuous_usage_stats")
    base = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": body["model"],
        **script.extra,
    }
    if options.get("include_usage"):
        base["usage"] = None

    def chunk(delta: dict[str, Any], tokens: list[str], count: int, finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        if tokens:
            choice["logprobs"] = _logprobs(body, script, tokens)
        return event(as_asked(body, base | {"choices": [choice]} | ({"usage": usage(count)} if running else {})))

    yield chunk({"role": "assistant", "content": ""}, [], 0)
    for number, token in enumerate(script.tokens, 1):
        yield chunk({"content": token}, [token], number)
    yield chunk({}, [], len(script.tokens), "stop")
    if options.get("include_usage"):
        yield event(base | {"choices": [], "usage": usage(len(script.tokens))})
    yield event(b"[DONE]")
