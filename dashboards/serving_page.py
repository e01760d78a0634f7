"""``/ops/serving``: the student servers and how busy they are, a swap under way, and whom the gateway leaves alone.

What is read here comes from the gateway (`gateway.serving_api`), which asks each server for its own figures.
"""

from typing import Any, Final

from litestar import Request, Response, get
from sqlalchemy.exc import SQLAlchemyError

from dashboards import serving_words, words
from dashboards.site import READ, fragment, page
from ledger.store import now_ms

__all__ = ("serving", "serving_now")

AWAY: Final = "The ledger cannot be read now, so it is not known which servers run."


@get("/ops/serving", opt=READ)
async def serving(request: Request[Any, Any, Any]) -> Response[bytes]:
    """The page; it reads its changing part again every few seconds, unless ``live=no``."""
    is_live = request.query_params.get("live") != "no"
    return page(request, "serving.html", "Serving", is_live=is_live, **await _context(request))


@get("/ops/serving/now", opt=READ)
async def serving_now(request: Request[Any, Any, Any]) -> Response[bytes]:
    """The changing part."""
    return fragment(request, "serving_now.html", **await _context(request))


async def _context(request: Request[Any, Any, Any]) -> dict[str, Any]:
    now = now_ms()
    try:
        found = await request.app.state.read_serving(request)
    except SQLAlchemyError:
        return {
            "problem": AWAY,
            "now": now,
            "warnings": [],
            "swap": "",
            "figures": [],
            "students": [],
            "upstreams": [],
        }
    return {
        "problem": "",
        "now": now,
        "warnings": serving_words.warnings(found),
        "swap": serving_words.swap(found),
        "figures": _figures(found),
        "students": [serving_words.student(each, found, now) for each in found.students],
        "upstreams": [serving_words.upstream(each) for each in found.upstreams],
    }


def _figures(found: Any) -> list[dict[str, str]]:
    read = serving_words.read_once(found.students)
    rates = [each.rate for each in read if each.rate is not None]
    over = f"generated, over {max(each.seconds for each in rates):.0f} s" if rates else "from the second reading on"
    trial = f"on trial: {found.trial}" if found.trial else ""
    sides = ", ".join(f"{count:,} at the {name}" for name, count in found.of_sides.items())
    fullest = max((each.figures.kv_cache for each in read if each.figures.kv_cache is not None), default=None)
    return [
        {"name": "Live release", "value": found.live or "none", "note": trial},
        {"name": "In flight here", "value": words.count(found.in_flight), "note": f"this gateway process; {sides}"},
        {"name": "Running in students", "value": _sum(read, "running"), "note": "vllm:num_requests_running"},
        {"name": "Waiting in students", "value": _sum(read, "waiting"), "note": "vllm:num_requests_waiting"},
        {
            "name": "Tokens a second",
            "value": f"{sum(each.generation for each in rates):,.1f}" if rates else words.NOTHING,
            "note": over,
        },
        {"name": "Fullest KV cache", "value": words.percent(fullest, 0), "note": "vllm:kv_cache_usage_perc"},
    ]  # fmt: skip


def _sum(read: list[Any], name: str) -> str:
    known = [value for each in read if (value := getattr(each.figures, name)) is not None]
    return f"{sum(known):,.0f}" if known else words.NOTHING
