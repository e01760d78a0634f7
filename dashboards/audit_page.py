"""``/ops/audit``: who changed what, newest first, by filters that the address holds."""

import asyncio
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

import msgspec
from litestar import Request, Response, get

from dashboards import audit_words
from dashboards.audit_words import Line
from dashboards.ranges import RANGES, TimeRange, read_range
from dashboards.site import READ, csv_answer, may_change, page
from dashboards.words import when
from ledger import audit, keys
from ledger.audit import Filters
from ledger.store import Store

__all__ = ("audit_log",)

SHOWN: Final = 50
IN_CSV: Final = 5_000
NAMES: Final = ("actor", "action", "subject")
TIMES: Final = ("range", "from", "to")
CSV: Final = ("at", "actor", "action", "subject", "before", "after", "more")
MAX_DIGITS: Final = 18


@dataclass(frozen=True, slots=True)
class Found:
    """What was read; ``has_more`` where older entries are left."""

    lines: list[Line]
    has_more: bool
    actions: list[str]
    keys: list[tuple[str, str]]


@get("/ops/audit", opt=READ)
async def audit_log(request: Request[Any, Any, Any]) -> Response[bytes]:
    """The entries that the filters take; for admins alone, since an entry may name whose content was erased."""
    if not may_change(request):
        return page(
            request, "missing.html", "Audit", 403, missing="The audit takes a key with the scope admin.", back="/ops"
        )
    query, as_csv = request.query_params, request.query_params.get("format") == "csv"
    chosen = read_range(query, "30d")
    said = {name: query.get(name, "").replace("\0", "") for name in NAMES}
    after = query.get("after", "")
    after = after if after.isascii() and after.isdecimal() and len(after) <= MAX_DIGITS else ""
    of = {name: value or None for name, value in said.items()}
    # a named range ends now, and what a clock that is ahead has written belongs to it
    filters = Filters(**of, since=chosen.since, until=None if chosen.name else chosen.until)
    limit = IN_CSV if as_csv else SHOWN
    found = await asyncio.to_thread(_read, request.app.state.store, filters, limit, int(after) if after else None)
    if as_csv:
        return csv_answer(CSV, [_plain(each) for each in found.lines], "stillroom-audit.csv")
    return page(request, "audit.html", "Audit", **_context(request, chosen, said, after, found))


def _read(store: Store, filters: Filters, limit: int, after: int | None) -> Found:
    names = {key.id: key.name for key in keys.list_keys(store)}
    entries = audit.entries_page(store, filters, limit + 1, after)
    lines = [audit_words.line(entry, names) for entry in entries[:limit]]
    return Found(lines, len(entries) > limit, audit.actions(store), list(names.items()))


def _context(
    request: Request[Any, Any, Any], chosen: TimeRange, said: dict[str, str], after: str, found: Found
) -> dict[str, Any]:
    query = request.query_params
    kept = {name: query[name] for name in TIMES if query.get(name)} | {n: value for n, value in said.items() if value}
    last = found.lines[-1].entry.id if found.lines else 0
    return {
        "said": said,
        "lines": found.lines,
        "actions": found.actions,
        "actors": found.keys,
        "range": chosen,
        "ranges": [(name, text) for name, (text, _) in RANGES.items()],
        "dates": (query.get("from", ""), query.get("to", "")) if not chosen.name else ("", ""),
        "first": "/ops/audit?" + urlencode(kept) if after else "",
        "next": "/ops/audit?" + urlencode(kept | {"after": str(last)}) if found.has_more else "",
        "csv": "/ops/audit?" + urlencode(kept | {"format": "csv"}),
        "in_csv": IN_CSV,
    }


def _plain(of: Line) -> list[Any]:
    entry = of.entry
    more = {name: value for name, value in entry.detail.items() if name not in ("before", "after")}
    parts = (entry.detail.get("before"), entry.detail.get("after"), more or None)
    texts = ["" if each is None else msgspec.json.encode(each).decode() for each in parts]
    return [when(entry.at), entry.actor, entry.action, entry.subject, *texts]
