"""``GET /admin/v1/events``: what the loop has noticed, as drift."""

import asyncio
from typing import Any

from litestar import Request, Response, get

from gateway.admin_requests import store_of
from gateway.auth import opt
from gateway.paging import limit_of, listed, number_of, text_of
from ledger import events

__all__ = ("handlers",)


@get("/admin/v1/events", opt=opt("read"))
async def list_events(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Events, newest first: of one `kind` or `subject`, where they say so."""
    query = request.query_params
    limit, after = limit_of(query), number_of(query, "after")
    of = text_of(query, "kind"), after, text_of(query, "subject")
    return listed(await asyncio.to_thread(events.newest, store_of(request), limit + 1, *of), limit)


handlers = [list_events]
