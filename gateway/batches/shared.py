"""What the handlers of files and of batches share: whose they are, and pages of them."""

from collections.abc import Mapping
from typing import Any

from litestar import Request

from gateway.errors import BadRequest
from ledger.keys import Key

__all__ = ("key_of", "may_see", "page_of", "seconds", "whose")

MAX_LISTED = 10_000
DEFAULT_LISTED = 20


def key_of(request: Request[Any, Any, Any]) -> Key | None:
    """The caller's key; None where keys are not asked for."""
    return request.scope["state"].get("key")


def may_see(request: Request[Any, Any, Any], key_id: str | None) -> bool:
    """Whether something of this key is the caller's to see; without keys everyone has all scopes."""
    key = key_of(request)
    return key is None or "admin" in key.scopes or key.id == key_id


def whose(request: Request[Any, Any, Any]) -> str | None:
    """The key whose things a list is of; None for all."""
    key = key_of(request)
    return None if key is None or "admin" in key.scopes else key.id


def page_of(query: Mapping[str, str], default: int = DEFAULT_LISTED) -> tuple[int, str | None]:
    """``limit`` and ``after``. Raises `BadRequest`."""
    text = query.get("limit", str(default))
    limit = int(text) if text.isascii() and text.isdecimal() and len(text) < 6 else 0
    if not 1 <= limit <= MAX_LISTED:
        raise BadRequest(f"'limit' must be an integer between 1 and {MAX_LISTED}", param="limit")
    after = query.get("after") or None
    if after is not None and "\0" in after:
        raise BadRequest("'after' must be an id", param="after")
    return limit, after


def seconds(at_ms: int | None) -> int | None:
    """A time as OpenAI gives it."""
    return None if at_ms is None else at_ms // 1000
