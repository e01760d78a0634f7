"""``/ops/keys``: the keys and what they spend against their budgets; one key, to be changed, rotated or revoked."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from litestar import Request, Response, get

from dashboards import audit_words, key_words
from dashboards.audit_words import Line
from dashboards.site import READ, csv_answer, may_change, page
from dashboards.tables import MONEY, TEXT, WHEN, Kind, Table
from ledger import audit, keys
from ledger import overview_figures as figures
from ledger.key_list import STATES, KeyFilters, keys_page, last_hours, state_of
from ledger.keys import Key, KeyNameError
from ledger.overview_figures import KeySpend
from ledger.records import nano
from ledger.store import Store, now_ms

__all__ = ("key_page", "keys_list")

SHOWN: Final = 50
IN_CSV: Final = 5_000
CHANGES_SHOWN: Final = 10
NAMES: Final = ("name", "owner", "tag", "scope", "state")
UNSPENT: Final = KeySpend(0, 0, 0)
PLAIN: Final = Kind(str, lambda value: value)
COLUMNS: Final = (
    ("id", TEXT), ("name", TEXT), ("state", TEXT), ("owner", TEXT), ("scopes", TEXT), ("tags", TEXT),
    ("spent today", MONEY), ("budget of a day", MONEY), ("spent this month", MONEY), ("budget of a month", MONEY),
    ("limits", TEXT), ("created", WHEN), ("expires", WHEN), ("last used, hour", WHEN),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Found:
    """Keys, with what is known of each by its id."""

    keys: list[Key]
    spend: Mapping[str, KeySpend]
    used: Mapping[str, int]
    now: int


@get("/ops/keys", opt=READ)
async def keys_list(request: Request[Any, Any, Any]) -> Response[bytes]:
    """The keys that the filters take, newest first; with ``format=csv`` as a table."""
    query = request.query_params
    said = {name: query.get(name, "") for name in NAMES} | {"state": query.get("state", "active")}
    filters = KeyFilters(**{name: value for name, value in said.items() if value})
    store, after = request.app.state.store, query.get("after") or None
    problem = ""
    try:
        found = await asyncio.to_thread(
            _read, store, filters, after, IN_CSV if query.get("format") == "csv" else SHOWN + 1
        )
    except KeyNameError:
        # the address names a key that is gone: begin with the newest
        problem = "The key that this page begins after is gone. These are the newest."
        found = await asyncio.to_thread(_read, store, filters, None, SHOWN + 1)
    if query.get("format") == "csv":
        table = Table("keys", "Keys", COLUMNS, [_plain(found, key) for key in found.keys])
        return csv_answer(table.names, table.plain, "stillroom-keys.csv")
    # the address holds an empty state too: without one it means the active ones
    kept = {name: value for name, value in said.items() if value or name == "state"}
    shown = found.keys[:SHOWN]
    return page(
        request,
        "keys.html",
        "Keys and budgets",
        said=said,
        problem=problem,
        states=STATES,
        scopes=key_words.SCOPES,
        rows=[_row(found, key) for key in shown],
        first="/ops/keys?" + urlencode(kept) if after else "",
        next="/ops/keys?" + urlencode(kept | {"after": shown[-1].id}) if len(found.keys) > SHOWN else "",
        csv="/ops/keys?" + urlencode(kept | {"format": "csv"}),
        policy=keys.KeyPolicy(),
        amount=key_words.amount,
    )


@get("/ops/keys/{key_id:str}", opt=READ)
async def key_page(request: Request[Any, Any, Any], key_id: str) -> Response[bytes]:
    """One key: its policy, its spend, what was changed, and the forms to change more."""
    try:
        found, lines = await asyncio.to_thread(_read_one, request.app.state.store, key_id)
    except KeyNameError:
        missing = f"There is no key {key_id}."
        return page(request, "missing.html", "No such key", 404, missing=missing, back="/ops/keys")
    (key,) = found.keys
    own: Key | None = request.scope["state"].get("key")
    return page(
        request,
        "key.html",
        key.name,
        key=key,
        policy=key.policy,
        state=state_of(key, found.now),
        figures=_figures(found, key),
        is_own=own is not None and own.id == key.id,
        changes=lines if may_change(request) else [],
        amount=key_words.amount,
    )


def _read(store: Store, filters: KeyFilters, after: str | None, limit: int) -> Found:
    now = now_ms()
    found = keys_page(store, filters, limit, after)
    return Found(found, figures.spend_by_key(store, now), last_hours(store, [key.id for key in found], now), now)


def _read_one(store: Store, key_id: str) -> tuple[Found, list[Line]]:
    now = now_ms()
    key = next((each for each in keys.list_keys(store) if each.id == key_id), None)
    if key is None:
        raise KeyNameError(f"there is no key {key_id!r}")
    entries = audit.entries_page(store, audit.Filters(subject=key.id), CHANGES_SHOWN)
    names = {each.id: each.name for each in keys.list_keys(store)}
    found = Found([key], figures.spend_by_key(store, now), last_hours(store, [key.id], now), now)
    return found, [audit_words.line(entry, names) for entry in entries]


def _row(found: Found, key: Key) -> dict[str, Any]:
    spend, policy = found.spend.get(key.id, UNSPENT), key.policy
    return {
        "key": key,
        "state": state_of(key, found.now),
        "day": key_words.spent_of(spend.day, policy.budget_day),
        "month": key_words.spent_of(spend.month, policy.budget_month),
        "bounds": key_words.bounds(policy),
        "ending": key_words.ending(key),
        "used": key_words.used(found.used.get(key.id)),
    }


def _plain(found: Found, key: Key) -> list[Any]:
    spend, policy = found.spend.get(key.id, UNSPENT), key.policy
    day, month = (None if each is None else nano(each) for each in (policy.budget_day, policy.budget_month))
    return [
        key.id, key.name, state_of(key, found.now), policy.owner, " ".join(key.scopes), ", ".join(policy.tags),
        spend.day, day, spend.month, month, key_words.bounds(policy), key.created_at, key.expires_at,
        found.used.get(key.id),
    ]  # fmt: skip


def _figures(found: Found, key: Key) -> list[dict[str, str]]:
    row = _row(found, key)
    soft = "the student answers then" if key.policy.budget_kind == "soft" else "requests are refused then"
    both = (
        ("Spent today (UTC)", row["day"], key.policy.budget_day),
        ("Spent this month (UTC)", row["month"], key.policy.budget_month),
    )
    spent = [
        {"name": name, "value": value, "note": soft if budget is not None else "no budget"}
        for name, value, budget in both
    ]
    old = audit_words.value("previous_until", key.previous_until) if (key.previous_until or 0) > found.now else ""
    return [
        *spent,
        {"name": "Scopes", "value": ", ".join(key.scopes), "note": f"id {key.id}, secret ends with {key.last4}"},
        {"name": "Expires", "value": row["ending"], "note": f"the secret before works until {old}" if old else ""},
        {"name": "Last used", "value": row["used"], "note": "the hour of its newest request (UTC)"},
        {"name": "Owner", "value": key.policy.owner or "nobody named", "note": ", ".join(key.policy.tags)},
        {"name": "Limits", "value": row["bounds"], "note": "what is not named here is as in the settings"},
    ]
