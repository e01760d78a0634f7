"""``GET /admin/v1/audit``: who changed what, when, and what it was before and after."""

import asyncio
from typing import Any

from litestar import Request, Response, get

from gateway.admin_requests import store_of
from gateway.auth import opt
from gateway.paging import limit_of, listed, number_of, text_of
from ledger import audit
from ledger.audit import Filters

__all__ = ("handlers",)


@get("/admin/v1/audit", opt=opt("admin"))
async def list_audit(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Entries of the audit, newest first, by filters.

    `action` is a whole one, as `key.rotate`, or what it begins with, as `key`. `since` and `until` are milliseconds
    since 1970. `detail` of a change has `before` and `after`; no entry has a secret, a hash of one, or content.
    """
    query = request.query_params
    names = {name: text_of(query, name) for name in ("actor", "action", "subject")}
    filters = Filters(**names, since=number_of(query, "since"), until=number_of(query, "until"))
    limit, after = limit_of(query), number_of(query, "after")
    return listed(await asyncio.to_thread(audit.entries_page, store_of(request), filters, limit + 1, after), limit)


handlers = [list_audit]
