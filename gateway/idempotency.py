"""``Idempotency-Key``: a request that is sent again gets the first one's answer, byte for byte, and costs nothing.

In memory and per process, for 24 hours, within a bound of bytes (the oldest answer goes first).
"""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from litestar.types import ASGIApp, Receive, Scope, Send

from gateway.errors import BadRequest, Conflict, Mismatch

__all__ = ("Idempotency", "KeptAnswer", "Running", "digest_of")

HEADER: Final = "idempotency-key"
MAX_NAME: Final = 255
TTL_S: Final = 24 * 3600.0
MAX_BYTES: Final = 64 * 1024 * 1024
OVERHEAD: Final = 1024
"""Bytes of an entry beside its body, about."""
RELEASED: Final = (401, 403, 429, 499)
"""Refusals that say nothing of the request itself, and the one that nobody saw: asked again, it is done again."""
LAST_EVENTS: Final = (
    b"data: [DONE]", b"event: response.completed", b"event: response.incomplete", b"event: message_stop"
)  # fmt: skip
STALE_HEADERS: Final = b"x-ratelimit-"

Name: TypeAlias = tuple[str, str]
"""The caller's id, and the header's value."""


def digest_of(path: str, body: bytes) -> bytes:
    """What makes two requests the same."""
    return hashlib.sha256(path.encode("utf-8", "surrogatepass") + b"\0" + body).digest()


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """A whole answer, to be sent again."""

    digest: bytes
    until: float
    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Send it, marked as a replay."""
        headers = [*self.headers, (b"x-stillroom-idempotent-replay", b"true")]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": False})

    @property
    def size(self) -> int:
        """Bytes that it takes, about."""
        return len(self.body) + OVERHEAD


@dataclass(slots=True)
class Running:
    """A request under way. `watch` its answer to keep it; `end` it in any case."""

    digest: bytes
    _store: "Idempotency"
    _name: Name

    def end(self) -> None:
        """From here on the same request is done anew, unless its answer was kept."""
        self._store.end(self._name, self)

    def watch(self, answer: ASGIApp) -> ASGIApp:
        """The answer, kept when it is whole, just before its last byte goes out."""

        async def watched(scope: Scope, receive: Receive, send: Send) -> None:
            seen = _Seen()

            async def seeing(message: Any) -> None:
                if seen.saw(message, self._store.max_bytes) and seen.may_be_kept():
                    self._store.keep(self._name, self, seen)
                await send(message)

            try:
                await answer(scope, receive, seeing)
            finally:
                self.end()

        return watched


@dataclass(slots=True)
class _Seen:
    """What went out of an answer so far."""

    status: int = 0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list[tuple[bytes, bytes]])
    chunks: list[bytes] = field(default_factory=list[bytes])
    size: int = 0
    streamed: bool = False

    def saw(self, message: Any, bound: int) -> bool:
        """Take a message in. True when it makes the answer whole."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = [(n, v) for n, v in message["headers"] if not n.startswith(STALE_HEADERS)]
            self.streamed = any(n == b"content-type" and v.startswith(b"text/event-stream") for n, v in self.headers)
            return False
        chunk = message.get("body", b"")
        self.size += len(chunk)
        if self.size > bound:
            self.chunks.clear()
            return False
        self.chunks.append(chunk)
        if self.streamed:
            return chunk.startswith(LAST_EVENTS)
        return not message.get("more_body", False)

    def may_be_kept(self) -> bool:
        """Whether asking again would not be better."""
        return self.status < 500 and self.status not in RELEASED


@dataclass
class Idempotency:
    """The requests under way and the answers kept, oldest first."""

    max_bytes: int = MAX_BYTES
    ttl: float = TTL_S
    clock: Callable[[], float] = time.monotonic
    _running: dict[Name, Running] = field(default_factory=dict[Name, Running])
    _kept: OrderedDict[Name, KeptAnswer] = field(default_factory=OrderedDict[Name, KeptAnswer])
    _bytes: int = 0

    def begin(self, caller: str, name: str, digest: bytes) -> Running | KeptAnswer:
        """Begin a request, or find its answer. Raises `BadRequest`, `Conflict` or `Mismatch`."""
        if not 0 < len(name) <= MAX_NAME:
            raise BadRequest(f"Idempotency-Key must have 1 to {MAX_NAME} characters", param=HEADER)
        entry = (caller, name)
        self._expire()
        found = self._running.get(entry) or self._kept.get(entry)
        if found is None:
            running = self._running[entry] = Running(digest, self, entry)
            return running
        if found.digest != digest:
            raise Mismatch("This Idempotency-Key was used for another request.", param=HEADER)
        if isinstance(found, Running):
            raise Conflict("The request with this Idempotency-Key is still being answered.", param=HEADER)
        return found

    def keep(self, name: Name, running: Running, seen: _Seen) -> None:
        """A whole answer, for the rest of its time. One that was kept already stays."""
        if self._running.pop(name, None) is not running:
            return
        body = b"".join(seen.chunks)
        kept = KeptAnswer(running.digest, self.clock() + self.ttl, seen.status, seen.headers, body)
        self._kept[name] = kept
        self._bytes += kept.size
        while self._bytes > self.max_bytes:
            self._forget()

    def end(self, name: Name, running: Running) -> None:
        """Forget a request under way."""
        if self._running.get(name) is running:
            del self._running[name]

    def _expire(self) -> None:
        now = self.clock()
        while self._kept and next(iter(self._kept.values())).until <= now:
            self._forget()

    def _forget(self) -> None:
        _, oldest = self._kept.popitem(last=False)
        self._bytes -= oldest.size
