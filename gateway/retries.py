"""What may be tried again, and after which pause."""

import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from gateway.errors import Fault, UpstreamError
from gateway.upstream import Stream, UpstreamReply
from gateway.wire import NotJson, decode_object

__all__ = ("is_gone", "is_good", "is_retried", "pause_before", "seconds_until")

BACKOFF_S: Final = 0.1
MAX_BACKOFF_S: Final = 2.0
GONE: Final[frozenset[Fault]] = frozenset({"connect", "closed"})
RETRIED: Final = GONE | {"busy"}
TOO_MANY: Final = 429
NO_QUOTA: Final = "insufficient_quota"


def is_retried(reply: UpstreamReply | Stream | UpstreamError) -> bool:
    """Whether another attempt may bring more: nothing was generated yet, and the request is not what is wrong."""
    if isinstance(reply, UpstreamError):
        return reply.fault in RETRIED
    return isinstance(reply, UpstreamReply) and reply.status == TOO_MANY and not _is_out_of_quota(reply.body)


def is_gone(reply: UpstreamReply | Stream | UpstreamError) -> bool:
    """Whether nobody was there to take the request, or who had it is no more."""
    return isinstance(reply, UpstreamError) and reply.fault in GONE


def is_good(reply: UpstreamReply | Stream | UpstreamError) -> bool:
    """Whether nothing else is to be waited for."""
    return not isinstance(reply, UpstreamError) and not is_retried(reply)


def pause_before(
    reply: UpstreamReply | Stream | UpstreamError, attempt: int, longest_retry_after_s: float
) -> float | None:
    """Seconds before the same upstream is asked again, after ``attempt`` attempts; None: it is not.

    Exponential with full jitter, and no less than its ``retry-after``. A 429 must say when.
    """
    if isinstance(reply, Stream):
        return None
    failed = isinstance(reply, UpstreamError)
    wanted = seconds_until(reply.retry_after if failed else reply.headers.get("retry-after"))
    if wanted is None:
        if not failed:
            return None
        wanted = 0.0
    if wanted > longest_retry_after_s:
        return None
    longest = min(MAX_BACKOFF_S, BACKOFF_S * 2.0 ** (attempt - 1))
    return max(wanted, random.uniform(0, longest))  # noqa: S311 no secret


def seconds_until(retry_after: str | None) -> float | None:
    """How long an upstream wants to be left alone: a number of seconds, or a date. None where it does not say."""
    if retry_after is None:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        return _until_date(retry_after)
    # neither NaN nor a time before now is one to wait for
    return max(0.0, seconds) if seconds == seconds else None


def _until_date(text: str) -> float | None:
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())


def _is_out_of_quota(body: bytes) -> bool:
    try:
        error = decode_object(body).get("error")
    except NotJson:
        return False
    return isinstance(error, dict) and NO_QUOTA in (error.get("code"), error.get("type"))
