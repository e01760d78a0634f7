"""The handlers of ``/admin/v1/webhooks``: what was sent to whom, and sending it again."""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from litestar import Request, Response, get, post

from gateway.admin_requests import actor_of, json_answer, store_of
from gateway.auth import opt
from gateway.errors import BadRequest, NotFound
from ledger import outbox
from ledger.outbox import STATES, OutboxError

__all__ = ("MAX_LIMIT", "handlers")

MAX_LIMIT: Final = 1_000
MAX_DIGITS: Final = 9


@get("/admin/v1/webhooks/deliveries", opt=opt("read"))
async def list_deliveries(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Deliveries to webhooks, newest first: of one `endpoint` or in one `state`, those behind the id `before`.

    ``next`` is where the next page begins (``before``), null at the end.
    """
    query = request.query_params
    limit, state = _number(query, "limit", 100), query.get("state")
    if not 1 <= limit <= MAX_LIMIT:
        raise BadRequest(f"'limit' must be an integer between 1 and {MAX_LIMIT}", param="limit")
    if state not in (None, *STATES):
        raise BadRequest(f"'state' must be one of {', '.join(STATES)}", param="state")
    before = _number(query, "before", 0) if "before" in query else None
    store, endpoint = store_of(request), query.get("endpoint")
    # one more than is shown says whether there is another page
    found = await asyncio.to_thread(outbox.deliveries, store, limit + 1, before, endpoint, state)
    shown = found[:limit]
    return json_answer({"data": shown, "next": str(shown[-1].id) if len(found) > limit else None})


@post("/admin/v1/webhooks/deliveries/{delivery_id:str}/retry", opt=opt("admin"), status_code=200)
async def retry_delivery(request: Request[Any, Any, Any], delivery_id: str) -> Response[bytes]:
    """Send a delivery again at once, under the same message id, whatever came of it before."""
    if not _is_number(delivery_id):
        raise NotFound("there is no such delivery")
    try:
        await asyncio.to_thread(outbox.retry, store_of(request), actor_of(request), int(delivery_id))
    except OutboxError as error:
        raise NotFound(f"there is no delivery {delivery_id}") from error
    return json_answer({"id": int(delivery_id), "state": "pending"})


def _number(query: Mapping[str, Any], name: str, default: int) -> int:
    text = str(query.get(name, default))
    if not _is_number(text):
        raise BadRequest(f"'{name}' must be a whole number", param=name)
    return int(text)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS


handlers = [list_deliveries, retry_delivery]
