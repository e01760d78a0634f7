"""The handlers of ``/admin/v1/releases/{release_id}``: one release with what it saved, and its pin."""

import asyncio
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from litestar import Request, Response, get, post

from gateway.admin_requests import actor_of, json_answer, run, store_of
from gateway.auth import opt
from gateway.errors import BadRequest
from ledger import release_history, releases, retention
from ledger.canaries import Canary
from ledger.distilling import Distilling, Payback
from ledger.release_history import Saved
from ledger.releases import Release
from ledger.store import Store

__all__ = ("handlers",)

MOST_COST: Final = Decimal(10**9)
"""In currency units; more is no cost of a training."""


@dataclass(frozen=True, slots=True)
class _Whole:
    """What is answered of a release."""

    release: Release
    saved: Saved | None
    canaries: list[Canary]
    payback: Payback | None


@get("/admin/v1/releases/{release_id:str}", opt=opt("read"))
async def show_release(request: Request[Any, Any, Any], release_id: str) -> Response[bytes]:
    """One release: what it saved, how it was tried, and when its training has paid for itself.

    Payback is of a live release. `training_cost` is in currency units; where it is not given, it is that of the job's
    hours by `student.gpu_hour_cost` with its comparing of answers, or 0 where that is not set.
    """
    asked = request.query_params.get("training_cost")
    cost = None if asked is None else _cost(asked)
    known: Distilling = request.app.state.distilling
    return json_answer(await run(_whole, store_of(request), release_id, known, cost))


def _whole(store: Store, release_id: str, known: Distilling, asked: Decimal | None) -> _Whole:
    release = releases.get(store, release_id)
    cost = asked if asked is not None else release_history.training_cost(store, release, known) or Decimal(0)
    return _Whole(
        release,
        release_history.saved_by_release(store, release_id).get(release_id),
        release_history.trials_of(store, release_id),
        known.payback(store, release.promoted_at or release.created_at, cost) if release.state == "live" else None,
    )


@post("/admin/v1/releases/{release_id:str}/pin", opt=opt("admin"))
async def pin_release(request: Request[Any, Any, Any], release_id: str) -> Response[bytes]:
    """Keep a release's files for good."""
    return await _pinned(request, release_id, pinned=True)


@post("/admin/v1/releases/{release_id:str}/unpin", opt=opt("admin"))
async def unpin_release(request: Request[Any, Any, Any], release_id: str) -> Response[bytes]:
    """Let a release's files go when it is old."""
    return await _pinned(request, release_id, pinned=False)


async def _pinned(request: Request[Any, Any, Any], release_id: str, pinned: bool) -> Response[bytes]:
    store = store_of(request)
    await run(retention.pin, store, release_id, pinned, actor_of(request))
    return json_answer(await asyncio.to_thread(releases.get, store, release_id))


def _cost(text: str) -> Decimal:
    try:
        cost = Decimal(text)
    except InvalidOperation:
        cost = Decimal(-1)
    if not (cost.is_finite() and 0 <= cost <= MOST_COST):
        raise BadRequest("'training_cost' must be a number from 0, in currency units", param="training_cost")
    return cost


handlers = [show_release, pin_release, unpin_release]
