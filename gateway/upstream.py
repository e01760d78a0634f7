"""Calling a student or a teacher: the one place that opens connections to upstreams and maps their faults.

httpx's API over aiohttp's transport: httpx's own is quadratic in open connections.
"""

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

from gateway.errors import UpstreamError
from gateway.wire import encode

__all__ = ("Upstream", "UpstreamReply", "open_client")

RELAYED_HEADERS: Final = ("openai-processing-ms", "retry-after", "openai-version")
MAX_CONNECTIONS: Final = 4096
IDLE_S: Final = 4.0
"""Less than the 5 s after which vLLM's server closes an idle connection, so that no request meets a closing one."""
OUR_KEY_REFUSED: Final = (401, 403, 407)


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
    """A whole answer, 2xx, or a 4xx that is the client's own."""

    status: int
    body: bytes
    headers: dict[str, str]


def open_client() -> httpx.AsyncClient:
    """The client for all upstreams. Redirects are never followed, cookies never kept: requests of many callers
    go over it.
    """
    tls = httpx.create_ssl_context(trust_env=False)

    def session() -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(limit=MAX_CONNECTIONS, keepalive_timeout=IDLE_S, ssl=tls)
        return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())

    return httpx.AsyncClient(
        transport=AiohttpTransport(verify=tls, client=session),
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
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
    except httpx.RequestError as error:
        # the transport names a connection that was closed a timeout too; the cause tells them apart
        late = isinstance(error.__cause__, TimeoutError)
        why = "did not answer in time" if late else "could not be reached or broke off"
        raise UpstreamError(upstream.name, why) from error
    except aiohttp.ClientError as error:
        # what the transport does not map: an answer that is not HTTP
        raise UpstreamError(upstream.name, "did not answer in HTTP") from error


def _check(upstream: Upstream, response: httpx.Response) -> None:
    """A key of ours that is refused is no fault of the client, who must not see that answer: it may name the key."""
    status = response.status_code
    if status >= 500 or 300 <= status < 400 or status in OUR_KEY_REFUSED:
        why = f"answered with status {status}"
        raise UpstreamError(upstream.name, why, response.headers.get("retry-after"))


def _reply(response: httpx.Response, body: bytes) -> UpstreamReply:
    kept = {name: response.headers[name] for name in RELAYED_HEADERS if name in response.headers}
    return UpstreamReply(response.status_code, body, kept)


async def post(
    client: httpx.AsyncClient, upstream: Upstream, body: dict[str, Any], forwarded: Mapping[str, str]
) -> UpstreamReply:
    """Ask for a whole answer. Raises `UpstreamError` for what is the upstream's fault; a 4xx is returned."""
    async with _faults(upstream):
        response = await client.post(
            f"{upstream.base_url}/chat/completions",
            content=encode(body),
            headers=_headers(upstream, forwarded),
            timeout=upstream.timeout,
        )
    _check(upstream, response)
    return _reply(response, response.content)


@contextlib.asynccontextmanager
async def stream(
    client: httpx.AsyncClient, upstream: Upstream, body: dict[str, Any], forwarded: Mapping[str, str]
) -> AsyncGenerator[UpstreamReply | AsyncIterator[bytes]]:
    """Ask for a stream: yields its raw chunks, or an `UpstreamReply` for a 4xx. Leaving it closes the call.

    Raises `UpstreamError` as `post` does, and while the chunks are read.
    """
    async with _faults(upstream):
        request = client.build_request(
            "POST",
            f"{upstream.base_url}/chat/completions",
            content=encode(body),
            headers=_headers(upstream, forwarded),
            timeout=upstream.timeout,
        )
        response = await client.send(request, stream=True)
    try:
        _check(upstream, response)
        if response.status_code >= 400:
            async with _faults(upstream):
                content = await response.aread()
            yield _reply(response, content)
        else:
            yield _chunks(upstream, response)
    finally:
        await response.aclose()


async def _chunks(upstream: Upstream, response: httpx.Response) -> AsyncIterator[bytes]:
    async with _faults(upstream):
        async for chunk in response.aiter_raw():
            yield chunk
