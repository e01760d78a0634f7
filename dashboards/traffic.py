"""``/ops/traffic``: the requests, newest first, by filters that the address holds, page by page."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import urlencode

from litestar import Request, Response, get
from sqlalchemy.exc import SQLAlchemyError

from dashboards import words
from dashboards.ranges import RANGES, TimeRange, read_range
from dashboards.site import READ, csv_answer, may_change, page
from dashboards.tables import COUNT, MONEY, MS, TEXT, Kind, Table
from ledger import explorer, keys, releases
from ledger.explorer import Filters, Page, Wanted
from ledger.explorer_query import NAMES, QueryError, read_filters, read_wanted
from ledger.keys import Key
from ledger.store import Store

__all__ = ("AWAY", "traffic")

SHOWN: Final = 50
IN_CSV: Final = 5_000
RANGE_FIELDS: Final = ("range", "from", "to")
REASONS: Final = (
    "confident", "hard", "low_confidence", "unsupported", "pinned", "no_release", "explore", "student_down",
    "teacher_down", "budget", "replay", "imported",
)  # fmt: skip
RARE: Final = ("finish", "model", "release", "tag", "score_min", "score_max", "id")
"""Filters that are shown when they are asked for."""
AWAY: Final = "The ledger cannot be read now. Try again in a moment."
SCORE: Final = Kind(lambda value: words.NOTHING if value is None else f"{value:.3f}", lambda value: value)
AT: Final = Kind(words.moment, words.when, is_number=False)
PLAIN: Final = Kind(str, lambda value: value)
COLUMNS: Final = (
    ("request", "id", TEXT), ("at (UTC)", "created_at", AT), ("route", "route", TEXT), ("reason", "reason", TEXT),
    ("status", "status", PLAIN), ("finish", "finish_reason", TEXT), ("score", "score", SCORE),
    ("cost", "cost_nano", MONEY), ("whole answer", "latency_ms", MS), ("prompt tokens", "prompt_tokens", COUNT),
    ("completion tokens", "completion_tokens", COUNT), ("key", "key", TEXT), ("model", "model", TEXT),
    ("tags", "tags", TEXT), ("confidence", "confidence", SCORE), ("baseline", "baseline_nano", MONEY),
    ("first token", "first_token_ms", MS), ("release", "release_id", TEXT),
)  # fmt: skip
"""Each column's name, the row's field and how it is written."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the page's address asks for."""

    range: TimeRange
    filters: Filters
    wanted: Wanted
    actor: str


@dataclass(frozen=True, slots=True)
class Found:
    """What was read for it."""

    page: Page
    keys: list[Key]
    releases: list[str]


@get("/ops/traffic", opt=READ)
async def traffic(request: Request[Any, Any, Any]) -> Response[bytes]:
    """The requests that the filters take; with ``format=csv`` more of them at once, as a table."""
    query = request.query_params
    as_csv = query.get("format") == "csv"
    chosen = read_range(query)
    try:
        asked = _asked(request, chosen, IN_CSV if as_csv else SHOWN)
    except QueryError as error:
        return _problem(request, chosen, f"{error}.", 400)
    if asked.filters.text and not may_change(request):
        return _problem(request, chosen, "Searching the content takes a key with the scope admin.", 403)
    try:
        found = await asyncio.to_thread(_read, request.app.state.store, asked)
    except SQLAlchemyError:
        return _problem(request, chosen, AWAY, 503)
    table = _table(asked, found)
    if as_csv:
        return csv_answer(table.names, table.plain, table.filename(chosen))
    return page(request, "traffic.html", "Traffic", **_context(query, chosen, found), table=table, problem="")


def _asked(request: Request[Any, Any, Any], chosen: TimeRange, limit: int) -> Asked:
    query = request.query_params
    filters = read_filters({name: value for name, value in query.items() if name not in ("since", "until")})
    # a named range ends now, and what a clock that is ahead has written belongs to it
    filters = replace(filters, since=chosen.since, until=None if chosen.name else chosen.until)
    wanted = read_wanted({name: value for name, value in query.items() if name == "before"}, limit)
    key: Key | None = request.scope["state"].get("key")
    return Asked(chosen, filters, wanted, key.id if key else "local")


def _read(store: Store, asked: Asked) -> Found:
    found = explorer.page(store, asked.filters, asked.wanted)
    if asked.filters.text:
        explorer.note_search(store, asked.actor, asked.filters, found)
    known = [release.id for release in reversed(releases.list_releases(store))]
    return Found(found, keys.list_keys(store), known)


def _table(asked: Asked, found: Found) -> Table:
    names = {key.id: key.name for key in found.keys}
    rows: list[list[Any]] = []
    for row in found.page.rows:
        values = row | {"key": names.get(row["key_id"], row["key_id"]), "tags": ", ".join(row["tags"])}
        rows.append([values[field] for _, field, _ in COLUMNS])
    caption = f"Requests, newest first, {asked.range.words}"
    return Table("requests", caption, [(name, kind) for name, _, kind in COLUMNS], rows)


def _context(query: Mapping[str, str], chosen: TimeRange, found: Found | None) -> dict[str, Any]:
    said = {name: query.get(name, "") for name in NAMES}
    kept = {name: value for name in (*RANGE_FIELDS, *NAMES) if (value := query.get(name, ""))}
    after = found.page.next if found else None
    return {
        "said": said,
        "rare": any(said[name] for name in RARE),
        "range": chosen,
        "ranges": [(name, text) for name, (text, _) in RANGES.items()],
        "dates": (query.get("from", ""), query.get("to", "")) if not chosen.name else ("", ""),
        "reasons": REASONS,
        "keys": [(key.id, key.name) for key in found.keys] if found else [],
        "releases": found.releases if found else [],
        "csv": "/ops/traffic?" + urlencode(kept | _before(query) | {"format": "csv"}),
        "in_csv": IN_CSV,
        "first": "/ops/traffic?" + urlencode(kept) if query.get("before") else "",
        "next": "/ops/traffic?" + urlencode(kept | {"before": str(after)}) if after else "",
        "looked": found.page.looked if found else None,
        "back_to": after.created_at if after else None,
    }


def _before(query: Mapping[str, str]) -> dict[str, str]:
    return {"before": query["before"]} if query.get("before") else {}


def _problem(request: Request[Any, Any, Any], chosen: TimeRange, said: str, status: int) -> Response[bytes]:
    context = _context(request.query_params, chosen, None)
    return page(request, "traffic.html", "Traffic", status=status, **context, table=None, problem=said)
