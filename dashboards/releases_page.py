"""``/ops/releases``: where releases come from, what each saved, the live one, and the one that is tried."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from litestar import Request, Response, get

from dashboards import release_words, words
from dashboards.job_words import RELEASE_STATES
from dashboards.site import READ, csv_answer, page
from dashboards.tables import MONEY
from ledger import canaries
from ledger import releases as ledger_releases
from ledger.canaries import Canary
from ledger.distilling import Distilling, Payback
from ledger.release_history import Saved, releases_page, saved_by_release, training_cost
from ledger.releases import PRUNED, Release, ReleaseError
from ledger.store import Store

__all__ = ("releases",)

A_PAGE: Final = 25
MOST_IN_CSV: Final = 10_000
COLUMNS: Final = (
    "release", "state", "created", "live since", "parent", "dataset", "job", "student agreement", "held out",
    "requests", "cost", "on the teacher alone", "saved", "saved at least", "saved at most", "pinned", "files",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Found:
    """What the page reads."""

    releases: list[Release]
    more: bool
    saved: Mapping[str, Saved]
    live: Release | None
    before: Release | None
    """What a rollback would bring back."""
    canary: Canary | None
    payback: Payback | None
    known_cost: Decimal | None
    """Of the live release's training."""


@get("/ops/releases", opt=READ)
async def releases(request: Request[Any, Any, Any]) -> Response[bytes]:
    """The page; ``before`` says which releases, ``training_cost`` is for the day of payback."""
    query, store = request.query_params, request.app.state.store
    if query.get("format") == "csv":
        rows = await asyncio.to_thread(_plain_rows, store)
        return csv_answer(COLUMNS, rows, "stillroom-releases.csv")
    asked = query.get("training_cost", "").strip()
    cost = release_words.cost_of(asked)
    known: Distilling = request.app.state.distilling
    try:
        found = await asyncio.to_thread(_read, store, known, query.get("before") or None, cost)
    except ReleaseError as error:
        return page(request, "missing.html", "No such release", 404, missing=str(error), back="/ops/releases")
    problem = f"{asked} is no cost: write a number from 0, as in 12.50." if asked and cost is None else ""
    return page(request, "releases.html", "Releases", asked=asked, problem=problem, **_context(found, query))


def _read(store: Store, known: Distilling, before: str | None, asked: Decimal | None) -> Found:
    rows, live = releases_page(store, A_PAGE + 1, before), ledger_releases.live(store)
    known_cost = training_cost(store, live, known) if live else None
    cost = known_cost or Decimal(0) if asked is None else asked
    return Found(
        releases=rows[:A_PAGE],
        more=len(rows) > A_PAGE,
        saved=saved_by_release(store),
        live=live,
        before=ledger_releases.rollback_target(store),
        canary=canaries.newest(store),
        payback=known.payback(store, _since(live), cost) if live else None,
        known_cost=known_cost,
    )


def _since(live: Release) -> int:
    return live.promoted_at or live.created_at


def _context(found: Found, query: Mapping[str, str]) -> dict[str, Any]:
    canary, live = found.canary, found.live
    return {
        "live": live,
        "known_cost": None if found.known_cost is None else f"{found.known_cost:.2f}",
        "back_to": found.before,
        "figures": _figures(found, live) if live else [],
        "canary": canary,
        "is_tried": canary is not None and canary.ended_at is None,
        "trial": release_words.trial(canary) if canary else [],
        "rules": release_words.rules(canary.figures) if canary else [],
        "rows": [_row(each, found.saved.get(each.id)) for each in found.releases],
        "next": found.releases[-1].id if found.more else None,
        "before": query.get("before"),
    }


def _figures(found: Found, live: Release) -> list[dict[str, str]]:
    known, since = found.saved.get(live.id), words.when(_since(live))
    figures = [
        {"name": "Live release", "value": live.id, "note": f"since {since}"},
        {"name": "Saved so far", "value": words.money(known.saved_nano if known else None), "note": _note(known)},
    ]
    return figures + release_words.paid_back(found.payback, _since(live))


def _note(known: Saved | None) -> str:
    if known is None:
        return "it decided on no request yet"
    if known.bounds is None:
        return f"n = {known.requests:,} requests; interval from 8 hours with traffic on"
    low, high = known.bounds
    return f"{words.money(low)} to {words.money(high)} (95\u00a0%), spread of {known.hours:,} hours"


def _row(release: Release, saved: Saved | None) -> dict[str, Any]:
    return {
        "release": release,
        "state": RELEASE_STATES.get(release.state, release.state),
        "agreement": release_words.agreement(release),
        "requests": words.count(saved.requests if saved else None),
        "saved": release_words.saved(saved),
        "pruned": PRUNED in release.summary,
    }


def _plain_rows(store: Store) -> list[list[Any]]:
    saved = saved_by_release(store)
    return [_plain(each, saved.get(each.id)) for each in releases_page(store, MOST_IN_CSV)]


def _plain(release: Release, saved: Saved | None) -> list[Any]:
    money: list[Any] = [None] * 6
    if saved is not None:
        low, high = saved.bounds or (None, None)
        nano = (saved.cost_nano, saved.baseline_nano, saved.saved_nano, low, high)
        money = [saved.requests, *map(MONEY.plain, nano)]
    return [
        release.id, release.state, words.when(release.created_at), words.when(release.promoted_at), release.parent_id,
        release.dataset_id, release.job_id, release.summary.get("student_agreement"), release.summary.get("held_out"),
        *money, release.pinned, "pruned" if PRUNED in release.summary else release.folder,
    ]  # fmt: skip
