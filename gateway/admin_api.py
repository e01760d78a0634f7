"""The handlers of ``/admin/v1``: releases, and other modules' handlers."""

from typing import Any

from litestar import Request, Response, get, post

from gateway import (
    audit_api,
    datasets_api,
    erasures_api,
    events_api,
    jobs_api,
    keys_api,
    releases_api,
    replay_api,
    requests_api,
    router_api,
    serving_api,
    webhooks_api,
)  # fmt: skip
from gateway.admin_requests import actor_of, json_answer, run, store_of
from gateway.auth import opt
from gateway.paging import limit_of, listed, text_of
from ledger import release_history, releases

__all__ = ("handlers",)


@get("/admin/v1/releases", opt=opt("read"))
async def list_releases(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Releases, newest first: of one `state`, where it says so."""
    query = request.query_params
    limit, of = limit_of(query), (text_of(query, "after"), text_of(query, "state"))
    return listed(await run(release_history.releases_page, store_of(request), limit + 1, *of), limit)


@post("/admin/v1/releases/{release_id:str}/promote", opt=opt("admin"))
async def promote_release(request: Request[Any, Any, Any], release_id: str) -> Response[bytes]:
    """Make a release live. It takes traffic as soon as a student of it is ready."""
    store = store_of(request)
    await run(releases.promote, store, release_id, actor_of(request))
    return json_answer(await run(releases.get, store, release_id))


@post("/admin/v1/releases/rollback", opt=opt("admin"))
async def rollback_release(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Take the live release back for the one before it."""
    taken_back, live = await run(releases.rollback, store_of(request), actor_of(request))
    return json_answer({"rolled_back": taken_back.id, "live": live})


handlers = [
    *keys_api.handlers, *erasures_api.handlers, *events_api.handlers, *router_api.handlers, *jobs_api.handlers,
    *releases_api.handlers, *requests_api.handlers, *replay_api.handlers, *webhooks_api.handlers, *audit_api.handlers,
    *datasets_api.handlers, *serving_api.handlers, list_releases, promote_release, rollback_release,
]  # fmt: skip
