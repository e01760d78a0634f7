"""What the handlers of files and of batches share: whose they are, and pages of them."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from litestar import Request

from gateway.errors import BadRequest, NotFound
from ledger.batches import Batch
from ledger.files import File
from ledger.keys import Key
from ledger.store import Store

__all__ = ("key_of", "may_see", "owned", "page_of", "seconds", "whose")

Owned = TypeVar("Owned", File, Batch)
MAX_LISTED = 10_000
DEFAULT_LISTED = 20


def key_of(request: Request[Any, Any, Any]) -> Key | None:
    """The caller's key; None where keys are not asked for."""
    return request.scope["state"].get("key")


def may_see(request: Request[Any, Any, Any], key_id: str | None) -> bool:
    """Whether something of this key is the caller's to see; without keys everyone has all scopes."""
    key = key_of(request)
    return key is None or "admin" in key.scopes or key.id == key_id


async def owned(
    request: Request[Any, Any, Any], get: Callable[[Store, str], Owned | None], name: str, refusal: NotFound
) -> Owned:
    """What has this id. Raises ``refusal`` for another key's as for one that does not exist."""
    thing = None if "\0" in name else await asyncio.to_thread(get, request.app.state.store, name)
    if thing is None or not may_see(request, thing.key_id):
        raise refusal
    return thing


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
