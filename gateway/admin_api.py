"""The handlers of ``/admin/v1``: releases, one request with the reason for its route; and other modules' handlers."""

import asyncio
from typing import Any

from litestar import Request, Response, get, post

from gateway import erasures_api, events_api, jobs_api, keys_api, router_api
from gateway.admin_requests import actor_of, json_answer, run, store_of
from gateway.auth import opt
from gateway.errors import NotFound
from ledger import feedback, labels, releases, requests
from ledger.store import Store
from router.explain import Background, explain
from router.log_report import router_of
from router.policy import Capabilities

__all__ = ("handlers",)


@get("/admin/v1/releases", opt=opt("read"))
async def list_releases(request: Request[Any, Any, Any]) -> Response[bytes]:
    """All releases."""
    return json_answer({"data": await asyncio.to_thread(releases.list_releases, store_of(request))})


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


@get("/admin/v1/requests/{request_id:str}", opt=opt("admin"))
async def show_request(request: Request[Any, Any, Any], request_id: str) -> Response[bytes]:
    """One request: its row, why it took its route, its content where that was kept, its labels and its feedback.

    ``why`` has one sentence each; ``words`` are those that moved the score most.
    """
    capabilities = request.app.state.relay.capabilities
    found = await asyncio.to_thread(_shown, store_of(request), request_id, capabilities)
    if found is None:
        raise NotFound(f"there is no request {request_id!r} in the store (yet)")
    return json_answer(found)


def _shown(store: Store, request_id: str, capabilities: Capabilities) -> dict[str, Any] | None:
    found = requests.get(store, request_id)
    if found is None:
        return None
    row, content = found
    explanation = explain(row, content, Background(router_of(store, row["release_id"]), capabilities))
    return {
        "request": row,
        "content": content,
        "why": explanation.why,
        "words": explanation.words,
        "labels": labels.of_request(store, request_id),
        "feedback": feedback.of_request(store, request_id),
    }


handlers = [
    *keys_api.handlers, *erasures_api.handlers, *events_api.handlers, *router_api.handlers, *jobs_api.handlers,
    list_releases, promote_release, rollback_release, show_request,
]  # fmt: skip
