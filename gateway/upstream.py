"""Calling a student or a teacher: the one place that opens connections to upstreams and maps their faults.

httpx's API over aiohttp's transport: httpx's own is quadratic in open connections.
"""

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx
import msgspec
from httpx_aiohttp import AiohttpTransport

from gateway.errors import UpstreamError

__all__ = ("Upstream", "UpstreamReply", "open_client")

RELAYED_HEADERS: Final = ("openai-processing-ms", "retry-after", "openai-version")
MAX_ERROR_BYTES: Final = 64 * 1024

_encoder = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where to ask. ``name`` is ``student`` or ``teacher``."""

    name: str
    base_url: str
    model: str
    api_key: str | None
    timeout: httpx.Timeout


@dataclass(frozen=True, slots=True)
class UpstreamReply:
    """A whole answer, 2xx or 4xx."""

    status: int
    body: bytes
    headers: dict[str, str]


def open_client() -> httpx.AsyncClient:
    """The client for all upstreams. Redirects are never followed."""
    return httpx.AsyncClient(
        transport=AiohttpTransport(limits=httpx.Limits(max_connections=4096, max_keepalive_connections=512)),
        follow_redirects=False,
        trust_env=False,
    )


def _headers(upstream: Upstream, forwarded: Mapping[str, str]) -> dict[str, str]:
    headers = {"content-type": "application/json", "accept-encoding": "identity", **forwarded}
    if upstream.api_key:
        headers["authorization"] = f"Bearer {upstream.api_key}"
    return headers


@contextlib.asynccontextmanager
async def _faults(upstream: Upstream) -> AsyncGenerator[None]:
    try:
        yield
    except httpx.TimeoutException as error:
        raise UpstreamError(upstream.name, "did not answer in time") from error
    except httpx.TransportError as error:
        raise UpstreamError(upstream.name, "could not be reached or broke off") from error


def _check(upstream: Upstream, response: httpx.Response) -> None:
    if response.status_code >= 500 or 300 <= response.status_code < 400:
        raise UpstreamError(
            upstream.name,
            f"answered with status {response.status_code}",
            response.status_code,
            response.headers.get("retry-after"),
        )


async def post(
    client: httpx.AsyncClient, upstream: Upstream, body: dict[str, Any], forwarded: Mapping[str, str]
) -> UpstreamReply:
    """Ask for a whole answer. Raises `UpstreamError` for what is the upstream's fault; a 4xx is returned."""
    async with _faults(upstream):
        response = await client.post(
            f"{upstream.base_url}/chat/completions",
            content=_encoder.encode(body),
            headers=_headers(upstream, forwarded),
            timeout=upstream.timeout,
        )
    _check(upstream, response)
    kept = {name: response.headers[name] for name in RELAYED_HEADERS if name in response.headers}
    return UpstreamReply(response.status_code, response.content, kept)


@contextlib.asynccontextmanager
async def stream(
    client: httpx.AsyncClient, upstream: Upstream, body: dict[str, Any], forwarded: Mapping[str, str]
) -> AsyncGenerator[UpstreamReply | AsyncIterator[bytes]]:
    """Ask for a stream: yields its raw chunks, or an `UpstreamReply` for a 4xx. Leaving it closes the call."""
    async with _faults(upstream):
        request = client.build_request(
            "POST",
            f"{upstream.base_url}/chat/completions",
            content=_encoder.encode(body),
            headers=_headers(upstream, forwarded),
            timeout=upstream.timeout,
        )
        response = await client.send(request, stream=True)
    try:
        _check(upstream, response)
        if response.status_code >= 400:
            async with _faults(upstream):
                content = await response.aread()
            kept = {name: response.headers[name] for name in RELAYED_HEADERS if name in response.headers}
            yield UpstreamReply(response.status_code, content[:MAX_ERROR_BYTES], kept)
        else:
            yield _chunks(upstream, response)
    finally:
        await response.aclose()


async def _chunks(upstream: Upstream, response: httpx.Response) -> AsyncIterator[bytes]:
    async with _faults(upstream):
        async for chunk in response.aiter_raw():
            yield chunk
