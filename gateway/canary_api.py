"""``/admin/v1/canary``: the release that is tried beside the live one."""

import asyncio
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, get, post
from msgspec import Meta

from gateway.admin_requests import actor_of, as_shape, body_of, json_answer, run, store_of
from gateway.auth import opt
from gateway.errors import BadRequest
from ledger import canaries, releases
from ledger.canaries import Canary, Mode, Trial
from ledger.store import Store

__all__ = ("NewCanary", "handlers")


class NewCanary(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of ``POST /admin/v1/canary``."""

    release: str
    mode: Mode = "canary"
    share: Annotated[float, Meta(gt=0, le=1)] = 0.1


@get("/admin/v1/canary", opt=opt("read"))
async def show_canary(request: Request[Any, Any, Any]) -> Response[bytes]:
    """The canary that is open, or the one before where none is: its figures, and how it ended. Null before any."""
    return json_answer({"canary": await asyncio.to_thread(canaries.newest, store_of(request))})


@post("/admin/v1/canary", opt=opt("admin"))
async def start_canary(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Try a release on a share of the conversations, or as a shadow."""
    wanted = as_shape(await body_of(request), NewCanary)
    trial = Trial(wanted.mode, wanted.share)
    begun = await run(canaries.start, store_of(request), wanted.release, trial, actor_of(request))
    return json_answer({"canary": begun}, 201)


@post("/admin/v1/canary/stop", opt=opt("admin"))
async def stop_canary(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Take the release back that is tried; the champion has all the traffic again."""
    store = store_of(request)
    canary = await _open(store)
    await run(canaries.finish, store, canary, "stopped", actor_of(request))
    return json_answer({"canary": await asyncio.to_thread(canaries.newest, store)})


@post("/admin/v1/canary/promote", opt=opt("admin"))
async def promote_canary(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Make the release live that is tried, whatever its figures say."""
    store = store_of(request)
    canary = await _open(store)
    await run(releases.promote, store, canary.release_id, actor_of(request), "canary")
    return json_answer({"canary": await asyncio.to_thread(canaries.newest, store)})


async def _open(store: Store) -> Canary:
    canary = await asyncio.to_thread(canaries.current, store)
    if canary is None:
        raise BadRequest("no canary is open")
    return canary


handlers = [show_canary, start_canary, stop_canary, promote_canary]
