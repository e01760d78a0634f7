"""What the HTTP client raises, in the words of `gateway/errors.py`."""

import asyncio
from typing import Final

import httpx

from gateway.errors import Fault, UpstreamError

__all__ = ("FAULTS", "WHY", "upstream_error")

FAULTS: Final = (httpx.RequestError, TimeoutError)
"""All that a call can raise."""
WHY: Final[dict[Fault, str]] = {
    "connect": "could not be reached",
    "closed": "closed the connection without an answer",
    "late": "did not answer in time",
    "broken": "broke off, or did not answer in HTTP",
    "deadline": "did not answer before the request's time was over",
}
CLOCK_S: Final = 0.01


def upstream_error(upstream: str, error: Exception, torn: Fault, deadline: float) -> UpstreamError:
    """``torn`` is what a connection means that ended here; ``deadline`` is one of the running loop's clock."""
    fault = _fault(error, torn)
    if fault == "late" and asyncio.get_running_loop().time() >= deadline - CLOCK_S:
        fault = "deadline"
    return UpstreamError(upstream, WHY[fault], fault=fault)


def _fault(error: Exception, torn: Fault) -> Fault:
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout):
        return "connect"
    if isinstance(error, TimeoutError | httpx.TimeoutException):
        return "late"
    return torn if isinstance(error, httpx.NetworkError) else "broken"
