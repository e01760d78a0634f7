"""Calling a student or a teacher once: the one place that opens connections to upstreams and maps their faults.

httpx's API over a transport of our own: httpx's is quadratic in open connections. What is tried again, and where, is
`gateway/attempts.py`'s.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

import httpx

from gateway.alarm import Alarm
from gateway.errors import Fault, UpstreamError
from gateway.faults import FAULTS, WHY, upstream_error
from gateway.received import raw_headers
from gateway.transport import Body, Client, Transport
from ledger.prices import Price

if TYPE_CHECKING:
    from gateway.tracing import Attempt

__all__ = ("Question", "Stream", "Upstream", "UpstreamReply", "open_client", "open_stream", "post")

RELAYED_HEADERS: Final = {
    b"openai-processing-ms": "openai-processing-ms",
    b"openai-version": "openai-version",
    b"retry-after": "retry-after",
    b"x-request-id": "x-stillroom-upstream-request-id",
}
"""What a client sees of an upstream's headers, and under which name."""
MAX_CONNECTIONS: Final = 4096
IDLE_S: Final = 4.0
"""Less than the 5 s after which vLLM's server closes an idle connection, so that no request meets a closing one."""
OUR_KEY_REFUSED: Final = (401, 403, 407)
BUSY: Final = (500, 502, 503, 504)
DRAIN_S: Final = 0.05
"""How long the end of a stream is waited for after its last event, so that its connection can be used again."""
DONE_ENDS: Final = (b"[DONE]\n\n", b"[DONE]\r\n\r\n")


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where to ask. ``name`` is ``student`` or ``teacher``."""

    name: str
    base_url: str
    model: str
    api_key: str | None
    timeout: httpx.Timeout
    first_byte_s: float = 120.0
    """From the beginning of a call, connecting included, to its first byte; ``timeout.read`` may be shorter."""
    price: Price | None = None
    """Where it is not the route's."""
    release: str | None = None
    """The release that is asked, by a header: a student must not answer for another."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: JSON for a path below the base URL, with headers, and until when (the loop's clock)."""

    path: str
    body: bytes
    headers: Mapping[str, str]
    deadline: float


@dataclass(frozen=True, slots=True)
class UpstreamReply:
    """A whole answer, 2xx, or a 4xx that is the client's own."""

    status: int
    body: bytes
    headers: dict[str, str]


def open_client() -> httpx.AsyncClient:
    """The client for all upstreams. Redirects are never followed, cookies never kept: requests of many callers
    go over it.
    """
    return Client(transport=Transport(httpx.create_ssl_context(trust_env=False), MAX_CONNECTIONS, IDLE_S))


async def post(client: httpx.AsyncClient, upstream: Upstream, question: Question) -> UpstreamReply:
    """Ask for a whole answer. Raises `UpstreamError` for what is the upstream's fault; a 4xx is returned."""
    alarm = _first_byte_alarm(upstream, question)
    try:
        response = await _send(client, upstream, question, alarm)
        return await _whole(upstream, question, response, alarm)
    finally:
        alarm.stop()


async def open_stream(client: httpx.AsyncClient, upstream: Upstream, question: Question) -> "UpstreamReply | Stream":
    """Ask for a stream, and wait for its first chunk. A 4xx is an `UpstreamReply`. Raises as `post` does."""
    alarm, stream = _first_byte_alarm(upstream, question), None
    try:
        response = await _send(client, upstream, question, alarm)
        if response.status_code >= 400:
            return await _whole(upstream, question, response, alarm)
        opened = Stream(upstream, question, response, alarm)
        await opened.begin()
        alarm.move(question.deadline)
        stream = opened
        return stream
    finally:
        if stream is None:
            alarm.stop()


class Stream:
    """An answer under way: iterate over its raw chunks, and `close` it however that ends.

    Iterating raises `UpstreamError`.
    """

    __slots__ = ("_alarm", "_chunks", "_closed", "_first", "_last", "_question", "_response", "attempt", "broken",
                 "headers", "on_close", "upstream")  # fmt: skip

    def __init__(self, upstream: Upstream, question: Question, response: httpx.Response, alarm: Alarm) -> None:
        self.upstream = upstream
        self.headers = _relayed(response)
        self.broken = False
        """Whether it broke off: it failed, or was over without ``[DONE]``."""
        self.on_close: Callable[[Stream], None] | None = None
        self.attempt: Attempt | None = None
        """Its span, where requests are traced."""
        self._question, self._response, self._alarm = question, response, alarm
        # not by httpx's way through generators: nothing is decoded
        self._chunks = aiter(cast("httpx.AsyncByteStream", response.stream))
        self._first: bytes | None = None
        self._last = b""
        self._closed = False

    @property
    def first(self) -> bytes | None:
        """The first chunk, as long as it was not read."""
        return self._first

    async def begin(self) -> None:
        """Wait for the first chunk. What breaks off before it is as good as a connection closed without an answer."""
        try:
            self._first = await self._next("closed")
        except StopAsyncIteration:
            raise UpstreamError(self.upstream.name, WHY["closed"], fault="closed") from None
        finally:
            if self._first is None:
                await self.close()

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Itself."""
        return self

    async def __anext__(self) -> bytes:
        """The next chunk."""
        if self._first is not None:
            first, self._first = self._first, None
            return first
        try:
            return await self._next("broken")
        except StopAsyncIteration:
            self.broken = not self._last.endswith(DONE_ENDS)
            raise
        except UpstreamError:
            self.broken = True
            raise

    async def _next(self, torn: Fault) -> bytes:
        try:
            with self._alarm:
                self._last = await anext(self._chunks)
        except FAULTS as error:
            raise upstream_error(self.upstream.name, error, torn, self._question.deadline) from error
        return self._last

    async def close(self) -> None:
        """End the call. A stream that was read to its ``[DONE]`` leaves a connection that can be used again."""
        if self._closed:
            return
        self._closed = True
        self._alarm.stop()
        if self.on_close is not None:
            self.on_close(self)
        if self.attempt is not None:
            self.attempt.over(self.broken)
        try:
            if self._last.endswith(DONE_ENDS) and not self.broken:
                await self._drain()
        finally:
            await self._response.aclose()

    async def _drain(self) -> None:
        body = self._response.stream
        if isinstance(body, Body) and body.is_over:
            return
        with contextlib.suppress(*FAULTS):
            async with asyncio.timeout(DRAIN_S):
                async for _ in self._chunks:
                    pass


def _first_byte_alarm(upstream: Upstream, question: Question) -> Alarm:
    return Alarm(min(asyncio.get_running_loop().time() + upstream.first_byte_s, question.deadline))


async def _send(client: httpx.AsyncClient, upstream: Upstream, question: Question, alarm: Alarm) -> httpx.Response:
    """Until the head of the answer is there. Raises `UpstreamError`, for a status that is not the client's too."""
    request = client.build_request(
        "POST",
        upstream.base_url + question.path,
        content=question.body,
        headers=_headers(upstream, question.headers),
        timeout=upstream.timeout,
    )
    try:
        with alarm:
            response = await client.send(request, stream=True)
    except FAULTS as error:
        raise upstream_error(upstream.name, error, "closed", question.deadline) from error
    try:
        _check(upstream, response)
    except UpstreamError:
        await response.aclose()
        raise
    return response


async def _whole(upstream: Upstream, question: Question, response: httpx.Response, alarm: Alarm) -> UpstreamReply:
    alarm.move(question.deadline)
    try:
        with alarm:
            body = await response.aread()
    except FAULTS as error:
        raise upstream_error(upstream.name, error, "broken", question.deadline) from error
    finally:
        await response.aclose()
    return UpstreamReply(response.status_code, body, _relayed(response))


def _headers(upstream: Upstream, forwarded: Mapping[str, str]) -> dict[str, str]:
    headers = {"content-type": "application/json", "accept-encoding": "identity", **forwarded}
    if upstream.api_key:
        headers["authorization"] = f"Bearer {upstream.api_key}"
    if upstream.release:
        headers["x-stillroom-release"] = upstream.release
    return headers


def _relayed(response: httpx.Response) -> dict[str, str]:
    return {
        RELAYED_HEADERS[found]: value.decode("latin-1")
        for name, value in raw_headers(response)
        if (found := name.lower()) in RELAYED_HEADERS
    }


def _check(upstream: Upstream, response: httpx.Response) -> None:
    """A key of ours that is refused is no fault of the client, who must not see that answer: it may name the key."""
    status = response.status_code
    if status >= 500 or 300 <= status < 400 or status in OUR_KEY_REFUSED:
        fault: Fault = "refused" if status < 500 else "busy" if status in BUSY else "failed"
        why = f"answered with status {status}"
        raise UpstreamError(upstream.name, why, response.headers.get("retry-after"), fault)
