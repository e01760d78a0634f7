"""``GET /admin/v1/datasets``: what jobs, and ``distill data``, took from the ledger."""

from typing import Any

from litestar import Request, Response, get

from gateway.admin_requests import run, store_of
from gateway.auth import opt
from gateway.errors import BadRequest
from gateway.paging import limit_of, listed, text_of
from ledger import datasets

__all__ = ("handlers",)

FLAGGED = {"true": True, "false": False}


@get("/admin/v1/datasets", opt=opt("read"))
async def list_datasets(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Datasets, newest first: of one `job`; by `flagged` those that hold what was erased since, or the others."""
    query = request.query_params
    flagged = query.get("flagged")
    if flagged not in (None, *FLAGGED):
        raise BadRequest("'flagged' must be true or false", param="flagged")
    wanted = datasets.Filters(text_of(query, "job"), None if flagged is None else FLAGGED[flagged])
    limit, after = limit_of(query), text_of(query, "after")
    return listed(await run(datasets.datasets_page, store_of(request), wanted, limit + 1, after), limit)


handlers = [list_datasets]
