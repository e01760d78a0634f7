"""``/admin/v1/router``: what the router would do under other thresholds, by the ledger; and setting them."""

from typing import Annotated, Any

import msgspec
from litestar import Request, Response, delete, get, put
from msgspec import Meta

from gateway.admin_requests import actor_of, as_shape, body_of, json_answer, run, store_of
from gateway.auth import opt
from gateway.errors import BadRequest, Unavailable
from gateway.live import Live
from ledger import releases, set_thresholds
from ledger.releases import Release, ReleaseError
from ledger.rollups import DAY_MS
from ledger.set_thresholds import Bar, Bars, SetThresholds
from ledger.store import Store, now_ms
from router.estimators import Estimator, Prices
from router.log_report import Asked, log_report
from router.thresholds import Thresholds, bars_of, in_force, keeps_guarantee

__all__ = ("DEFAULT_DAYS", "NewThresholds", "ThresholdsState", "curve", "handlers")

DEFAULT_DAYS = 30


class _Query(msgspec.Struct, forbid_unknown_fields=True):
    since: Annotated[int, Meta(ge=0, le=2**53)] | None = None
    release: str | None = None
    estimator: Estimator = "dr"
    points: Annotated[int, Meta(ge=2, le=1_001)] = 101


class NewThresholds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of ``PUT /admin/v1/router/thresholds``: bars of probabilities, which nothing passes above 1."""

    hard: Bar
    confident: Bar
    confident_end: Bar
    sure: Bar | None = None
    """Where it is not given it stays as it is, but never below ``hard``."""
    release: str | None = None
    """The release they are meant for: where another one is live, nothing is changed."""
    accept_without_guarantee: bool = False


class ThresholdsState(msgspec.Struct, frozen=True):
    """The live release's thresholds."""

    release: str
    in_force: Thresholds
    own: Thresholds
    """Those it came with."""
    set: SetThresholds | None
    """Those that a person has set in their place."""
    guaranteed: bool
    """Whether those in force keep the release's target with its confidence, as it was shown on held-out requests."""


@get("/admin/v1/router/curve", opt=opt("read"))
async def curve(request: Request[Any, Any, Any]) -> Response[bytes]:
    """The cost-quality curve of the live release, from the log alone.

    ``since`` is milliseconds since the epoch (30 days ago by default), ``release`` another release's id or ``all``.
    Each point has its 95 % interval.
    """
    try:
        wanted = msgspec.convert(dict(request.query_params), _Query, strict=False)
    except msgspec.ValidationError as error:
        raise BadRequest(f"We could not read the query of your request: {error}") from error
    state = request.app.state
    pricing = state.relay.pricing
    since = now_ms() - DEFAULT_DAYS * DAY_MS if wanted.since is None else wanted.since
    prices = Prices(pricing.student, pricing.teacher)
    asked = Asked(prices, state.release_cache, since, wanted.release, wanted.estimator, wanted.points)
    return json_answer(await run(log_report, store_of(request), asked))


@get("/admin/v1/router/thresholds", opt=opt("read"))
async def show_thresholds(request: Request[Any, Any, Any]) -> Response[bytes]:
    """The thresholds in force, and those that the live release came with."""
    return json_answer(await run(_state, store_of(request), request.app.state.live))


@put("/admin/v1/router/thresholds", opt=opt("admin"))
async def set_router_thresholds(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Have the live release decide by these thresholds, in every gateway process within a second.

    Where none is below the release's own its guarantee holds for them too. Others are refused (``guarantee_lost``)
    unless ``accept_without_guarantee`` is true. They stay with the release until they are set again or undone.
    """
    wanted = as_shape(await body_of(request), NewThresholds)
    live: Live = request.app.state.live
    found = await run(_set, store_of(request), live, wanted, actor_of(request))
    await live.refresh()
    return json_answer(found)


@delete("/admin/v1/router/thresholds", opt=opt("admin"), status_code=200)
async def undo_router_thresholds(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Have the live release decide by the thresholds it came with again."""
    live: Live = request.app.state.live
    found = await run(_undo, store_of(request), live, actor_of(request))
    await live.refresh()
    return json_answer(found)


def _set(store: Store, live: Live, wanted: NewThresholds, actor: str) -> ThresholdsState:
    release, own = _live(store, live)
    if wanted.release not in (None, release.id):
        message = f"these thresholds are meant for {wanted.release}, and {release.id} is live; load the page again"
        raise BadRequest(message, param="release", code="release_changed")
    bars = _bars(wanted, in_force(own, set_thresholds.set_on(release)))
    guaranteed = keeps_guarantee(own, bars)
    if not (guaranteed or wanted.accept_without_guarantee):
        raise BadRequest(_lost(release, own), param="accept_without_guarantee", code="guarantee_lost")
    kept = SetThresholds(**msgspec.structs.asdict(bars), at=now_ms(), actor=actor, guaranteed=guaranteed)
    set_thresholds.put(store, release.id, kept, bars_of(own))
    return _state(store, live)


def _undo(store: Store, live: Live, actor: str) -> ThresholdsState:
    release, own = _live(store, live)
    set_thresholds.clear(store, release.id, bars_of(own), actor)
    return _state(store, live)


def _state(store: Store, live: Live) -> ThresholdsState:
    release, own = _live(store, live)
    kept = set_thresholds.set_on(release)
    now = in_force(own, kept)
    return ThresholdsState(release.id, now, own, kept, keeps_guarantee(own, bars_of(now)))


def _live(store: Store, live: Live) -> tuple[Release, Thresholds]:
    """The live release as the ledger has it, and its own thresholds.

    Raises `ReleaseError`, and `Unavailable` where its router was not read yet.
    """
    release, known = releases.live(store), live.snapshot.release
    if release is None:
        raise ReleaseError("there is no live release; `stillroom distill run` makes one")
    if known is None or known.id != release.id:
        raise Unavailable(f"the router of release {release.id} is not read yet; try again in a second")
    return release, known.own_thresholds


def _bars(wanted: NewThresholds, now: Thresholds) -> Bars:
    """Raises `BadRequest` for bars that contradict each other."""
    sure = max(bars_of(now).sure, wanted.hard) if wanted.sure is None else wanted.sure
    if sure < wanted.hard:
        message = f"sure ({sure:g}) must not be below hard ({wanted.hard:g}): what is hard is the teacher's"
        raise BadRequest(message, param="sure")
    return Bars(hard=wanted.hard, confident=wanted.confident, confident_end=wanted.confident_end, sure=sure)


def _lost(release: Release, own: Thresholds) -> str:
    if not own.feasible:
        why = f"no thresholds of release {release.id} were shown to keep the agreement target"
    else:
        why = f"these are laxer than those that release {release.id} was shown to keep the agreement target with"
    return (
        f"{why} of {own.agreement_target:.1%} with {1 - own.delta:.0%} confidence: the guarantee would be lost. To "
        "set them all the same, send accept_without_guarantee: true"
    )


handlers = [curve, show_thresholds, set_router_thresholds, undo_router_thresholds]
