"""``GET /admin/v1/router/curve``: what the router would do under other thresholds, estimated from the ledger."""

from typing import Annotated, Any

import msgspec
from litestar import Request, Response, get
from msgspec import Meta

from gateway.admin_requests import json_answer, run, store_of
from gateway.auth import opt
from gateway.errors import BadRequest
from ledger.store import now_ms
from router.estimators import Estimator, Prices
from router.log_report import Asked, log_report

__all__ = ("DEFAULT_DAYS", "curve", "handlers")

DEFAULT_DAYS = 30
DAY_MS = 86_400_000


class _Query(msgspec.Struct, forbid_unknown_fields=True):
    since: Annotated[int, Meta(ge=0, le=2**53)] | None = None
    release: str | None = None
    estimator: Estimator = "dr"
    points: Annotated[int, Meta(ge=2, le=1_001)] = 101


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
    pricing = request.app.state.relay.pricing
    since = now_ms() - DEFAULT_DAYS * DAY_MS if wanted.since is None else wanted.since
    asked = Asked(Prices(pricing.student, pricing.teacher), since, wanted.release, wanted.estimator, wanted.points)
    return json_answer(await run(log_report, store_of(request), asked))


handlers = [curve]
