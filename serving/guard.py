"""Stands before vLLM's own API, in vLLM's process (``--middleware``): which release answers, and who may change it.

A server that takes other weights while it runs must not answer for the wrong release. A request that names its
release (``x-stillroom-release``, as the gateway does) waits here until that one is served, or gets 503; while a swap
is under way every request waits. Each answer's ``system_fingerprint`` is the release that gave it. Administrative
routes, which vLLM leaves open, need the token of the process that started it. Off loopback every route asks for the
students' key, health and metrics too: whoever has a reason to ask for these has the key or the token.

Only the standard library is imported: this module is loaded by another program.
"""

import asyncio
import contextlib
import hmac
import json
import os
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, TypeAlias

__all__ = ("KEY_VARIABLE", "MARK", "RELEASE_PATH", "RELEASE_VARIABLE", "TOKEN_VARIABLE", "ReleaseGuard")

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Message, Receive, Send], Awaitable[None]]

RELEASE_PATH: Final = "/stillroom/release"
RELEASE_VARIABLE: Final = "STILLROOM_GUARD_RELEASE"
"""The release at the start; empty where each model name is a release (adapters)."""
TOKEN_VARIABLE: Final = "STILLROOM_GUARD_TOKEN"  # noqa: S105 the name of a variable
KEY_VARIABLE: Final = "STILLROOM_GUARD_KEY"
"""What whoever asks has to know; unset on loopback."""
MARK: Final = "stillroom-release-is-stamped-here"
"""What vLLM is told to put as its fingerprint, so that it can be found."""
ANSWERING: Final = frozenset({"/v1/chat/completions", "/v1/completions"})
OPEN: Final = ANSWERING | {"/health", "/metrics", "/ping", "/tokenize", "/v1/models", "/version"}
HOLD_S: Final = 5.0
"""Longest wait for a release; the gateway asks the teacher then."""
STAMP: Final = f'"system_fingerprint":"{MARK}"'.encode()
MODEL: Final = re.compile(rb'"model":"([^"\\]*)"')
LAST: Final = b'"finish_reason":"'
CHOICES: Final = b'"choices":['


class ReleaseGuard:
    """The middleware. One per server process; it lives in the server's event loop."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._token = _bearer(os.environ[TOKEN_VARIABLE])
        key = os.environ.get(KEY_VARIABLE)
        self._key = _bearer(key) if key else None
        self._release = os.environ[RELEASE_VARIABLE]
        self._closed = False
        self._under_way = 0
        self._news = asyncio.Condition()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One request, a websocket, or the server's own lifespan."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers, path = dict(scope["headers"]), scope["path"]
        sent: bytes = headers.get(b"authorization", b"")
        trusted = hmac.compare_digest(sent, self._token)
        if not trusted and self._key is not None and not hmac.compare_digest(sent, self._key):
            await _turn_away(scope, send)
        elif scope["type"] != "http":
            await self._app(scope, receive, send)
        elif path not in OPEN and not trusted:
            await _answer(send, 403, {"error": "administrative route"})
        elif path == RELEASE_PATH:
            await self._change(receive, send)
        elif path not in ANSWERING or trusted:
            await self._app(scope, receive, self._stamped(send))
        elif await self._admitted(headers.get(b"x-stillroom-release", b"").decode("latin-1")):
            try:
                await self._app(scope, receive, self._stamped(send))
            finally:
                await self._left()
        else:
            await _answer(send, 503, {"error": f"release {self._release} is served, not the one asked for"})

    async def _admitted(self, named: str) -> bool:
        """Count a request in once its release is served; False where that does not come."""

        def served() -> bool:
            return not self._closed and (not named or not self._release or named == self._release)

        async with self._news:
            try:
                await asyncio.wait_for(self._news.wait_for(served), HOLD_S)
            except TimeoutError:
                return False
            self._under_way += 1
            return True

    async def _left(self) -> None:
        async with self._news:
            self._under_way -= 1
            self._news.notify_all()

    async def _change(self, receive: Receive, send: Send) -> None:
        """``{"release": null, "seconds": s}`` lets none in and waits for all to leave; ``{"release": id}`` opens."""
        wanted: dict[str, Any] = json.loads(await _body(receive))
        async with self._news:
            self._closed = wanted["release"] is None
            if self._closed:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._news.wait_for(lambda: not self._under_way), wanted["seconds"])
            else:
                self._release = wanted["release"]
            self._news.notify_all()
        await _answer(send, 200, {"release": self._release, "under_way": self._under_way})

    def _stamped(self, send: Send) -> Send:
        """``send`` with the mark in the body replaced. The head of a whole answer waits for its body's new length."""
        waiting: list[Message] = []

        async def stamping(message: Message) -> None:
            if message["type"] == "http.response.start" and any(
                n == b"content-length" for n, _ in message["headers"]
            ):
                waiting.append(message)
                return
            if message["type"] == "http.response.body":
                body: bytes = message.get("body", b"")
                if STAMP in body:
                    message = {**message, "body": body.replace(STAMP, self._stamp_of(body))}
                elif LAST in body:
                    # vLLM stamps a stream's last event, which a client that asked for no usage does not see
                    message = {**message, "body": body.replace(CHOICES, self._stamp_of(body) + b"," + CHOICES, 1)}
                for head in waiting:
                    await send(_resized(head, len(message.get("body", b"")) - len(body)))
                waiting.clear()
            await send(message)

        return stamping

    def _stamp_of(self, body: bytes) -> bytes:
        named = MODEL.search(body)
        release = self._release.encode() or (named.group(1) if named else b"")
        return b'"system_fingerprint":"%s"' % release


def _resized(head: Message, more: int) -> Message:
    headers = [(n, str(int(v) + more).encode() if n == b"content-length" else v) for n, v in head["headers"]]
    return {**head, "headers": headers}


async def _body(receive: Receive) -> bytes:
    parts: list[bytes] = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


def _bearer(secret: str) -> bytes:
    return f"Bearer {secret}".encode()


async def _turn_away(scope: Message, send: Send) -> None:
    """Whoever has no key: nothing is read of what they sent."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
    else:
        await _answer(send, 401, {"error": "this server asks for a key"})


async def _answer(send: Send, status: int, body: dict[str, Any]) -> None:
    raw = json.dumps(body).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(raw)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": raw})
