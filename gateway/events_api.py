"""``GET /admin/v1/events``: what the loop has noticed, as drift."""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from litestar import Request, Response, get

from gateway.admin_requests import json_answer, store_of
from gateway.auth import opt
from gateway.errors import BadRequest
from ledger import events

__all__ = ("MAX_LIMIT", "handlers")

MAX_LIMIT: Final = 1_000


@get("/admin/v1/events", opt=opt("read"))
async def list_events(request: Request[Any, Any, Any]) -> Response[bytes]:
    """The newest events, newest first; of one kind, where ``kind`` says so."""
    query = request.query_params
    found = await asyncio.to_thread(events.newest, store_of(request), _limit(query), query.get("kind"))
    return json_answer({"data": found})


handlers = [list_events]


def _limit(query: Mapping[str, Any]) -> int:
    try:
        limit = int(query.get("limit", 100))
    except ValueError:
        limit = 0
    if not 1 <= limit <= MAX_LIMIT:
        raise BadRequest(f"'limit' must be an integer between 1 and {MAX_LIMIT}", param="limit")
    return limit
